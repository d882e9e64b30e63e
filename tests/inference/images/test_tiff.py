"""TIFF in every layout that photographers meet, made by another library."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from mcir.inference.images import Picture, PictureError, probe_picture, read_picture, write_picture
from tests.data.pictures import noise

tifffile = pytest.importorskip("tifffile")

LAYOUTS = {
    "one strip": {},
    "strips": {"rowsperstrip": 5},
    "deflated strips": {"rowsperstrip": 5, "compression": "zlib"},
    "predicted": {"rowsperstrip": 5, "compression": "zlib", "predictor": True},
    "tiles": {"tile": (16, 32)},
    "predicted tiles": {"tile": (16, 16), "compression": "zlib", "predictor": True},
    "big end first": {"byteorder": ">"},
    "big end first, predicted": {"byteorder": ">", "compression": "zlib", "predictor": True},
    "big": {"bigtiff": True, "compression": "zlib"},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_layouts(tmp_path, layout, kind, channels):
    samples = noise(41, 34, channels, kind)
    stored = samples[:, :, 0] if channels == 1 else samples
    told = {"photometric": "minisblack"} if channels == 1 else {"photometric": "rgb"}
    if channels == 4:
        told["extrasamples"] = ["unassalpha"]
    tifffile.imwrite(tmp_path / "x.tif", stored, **told, **layout)
    found = read_picture(tmp_path / "x.tif")
    assert found.pixels.dtype == kind
    assert np.array_equal(found.pixels, samples[:, :, :3])
    assert (found.alpha is None) == (channels < 4)
    assert found.alpha is None or np.array_equal(found.alpha, samples[:, :, 3])
    assert probe_picture(tmp_path / "x.tif") == (*found.pixels.shape, found.bits, channels == 4)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_planes_apart(tmp_path, kind, tile, compression):
    samples = noise(41, 34, 3, kind)
    planes = np.ascontiguousarray(samples.transpose(2, 0, 1))
    told = {"photometric": "rgb", "planarconfig": "separate", "tile": tile, "compression": compression}
    tifffile.imwrite(tmp_path / "x.tif", planes, predictor=compression is not None, **told)
    assert np.array_equal(read_picture(tmp_path / "x.tif").pixels, samples)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_white_at_zero(tmp_path, kind):
    samples = noise(41, 34, 1, kind)
    tifffile.imwrite(tmp_path / "x.tif", np.iinfo(kind).max - samples[:, :, 0], photometric="miniswhite")
    assert np.array_equal(read_picture(tmp_path / "x.tif").pixels, samples)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_colours_multiplied_by_alpha_are_divided(tmp_path, kind):
    samples, full = noise(41, 34, 4, kind), np.iinfo(kind).max
    samples[:10, :, 3], samples[10:20, :, 3], samples[20:, :, 3] = full, 0, samples[20:, :, 3] | 1
    multiplied = np.rint(samples[:, :, :3] * (samples[:, :, 3:] / full)).astype(kind)
    stored = np.dstack((multiplied, samples[:, :, 3]))
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    found = read_picture(tmp_path / "x.tif")
    assert np.array_equal(found.alpha, samples[:, :, 3])
    assert np.array_equal(found.pixels[:10], samples[:10, :, :3])
    assert not found.pixels[10:20].any()
    bound = 0.5 * full / samples[20:, :, 3:] + 0.5
    assert (np.abs(found.pixels[20:].astype(int) - samples[20:, :, :3]) <= bound).all()


def test_a_fourth_channel_of_unknown_meaning_is_no_alpha(tmp_path):
    samples = noise(41, 34, 4, np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", samples, photometric="rgb", extrasamples=["unspecified"])
    found = read_picture(tmp_path / "x.tif")
    assert found.alpha is None
    assert np.array_equal(found.pixels, samples[:, :, :3])


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_sixteen_bits_lying_on_their_side(tmp_path, turn):
    samples = noise(41, 34, 3, np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", samples, photometric="rgb", extratags=[(274, 3, 1, turn, True)])
    upright = np.rot90(samples, {1: 0, 3: 2, 6: -1, 8: 1}[turn])
    assert np.array_equal(read_picture(tmp_path / "x.tif").pixels, upright)
    assert probe_picture(tmp_path / "x.tif")[:2] == upright.shape[:2]


def test_a_smaller_copy_is_no_page(tmp_path):
    samples = noise(40, 34, 3)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(samples, photometric="rgb")
        file.write(samples[::2, ::2], photometric="rgb", subfiletype=1)
    assert np.array_equal(read_picture(tmp_path / "x.tif").pixels, samples)


def test_a_smaller_copy_before_the_picture_is_not_taken_for_it(tmp_path):
    samples = noise(40, 34, 3)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(samples[::2, ::2], photometric="rgb", subfiletype=1)
        file.write(samples, photometric="rgb")
    with pytest.raises(PictureError, match=r"x\.tif: 2 pages"):
        read_picture(tmp_path / "x.tif")


@pytest.mark.parametrize(
    ("kind", "channels", "message"),
    [
        (np.float32, 1, "32 bit floating-point samples"),
        (np.uint32, 1, "32 bit integer samples"),
        (np.int16, 1, "mode I with 16 bits"),
        (np.float32, 3, r"32 \+ 32 \+ 32 bit floating-point samples"),
        (np.float16, 1, "16 bit floating-point samples"),
        (np.uint32, 3, r"32 \+ 32 \+ 32 bit integer samples"),
        (np.uint16, 2, r"16 \+ 16 bit integer samples"),
    ],
)
def test_other_samples_are_refused(tmp_path, kind, channels, message):
    samples = noise(41, 34, channels).squeeze().astype(kind)
    told = {"extrasamples": ["unassalpha"], "planarconfig": "contig"} if channels == 2 else {}
    tifffile.imwrite(tmp_path / "x.tif", samples, photometric="rgb" if channels == 3 else "minisblack", **told)
    for function in (read_picture, probe_picture):
        with pytest.raises(PictureError, match=rf"x\.tif: .*{message}"):
            function(tmp_path / "x.tif")


def test_lzw_of_sixteen_bits(tmp_path):
    """By way of OpenCV, which writes LZW with a predictor."""
    import cv2

    samples = noise(41, 34, 3, np.uint16)
    assert cv2.imwrite(str(tmp_path / "x.tif"), samples[:, :, ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    with Image.open(tmp_path / "x.tif") as stored:
        assert stored.tag_v2[259] == 5
    assert np.array_equal(read_picture(tmp_path / "x.tif").pixels, samples)


@pytest.mark.parametrize("height", [1, 200])
@pytest.mark.parametrize("alpha", [False, True])
def test_what_is_written_is_read_by_others(tmp_path, height, alpha, monkeypatch):
    monkeypatch.setattr("mcir.inference.images.image._BAND", 20_000)
    samples = noise(height, 203, 4, np.uint16)
    sent = Picture(samples[:, :, :3], samples[:, :, 3] if alpha else None, icc=b"a profile")
    write_picture(tmp_path / "x.tif", sent)
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        page = file.pages[0]
        assert np.array_equal(page.asarray(), samples if alpha else samples[:, :, :3])
        assert page.tags[34675].value == b"a profile"
        assert len(page.dataoffsets) == (1 if height == 1 else len(range(0, height, page.rowsperstrip)))
    import cv2

    read = cv2.imread(str(tmp_path / "x.tif"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(read[:, :, [2, 1, 0, 3] if alpha else [2, 1, 0]], samples if alpha else samples[:, :, :3])


@pytest.mark.filterwarnings("ignore")
def test_strips_that_are_not_there(tmp_path):
    samples = noise(200, 203)
    tifffile.imwrite(tmp_path / "x.tif", samples, photometric="rgb", rowsperstrip=10)
    (tmp_path / "x.tif").write_bytes((tmp_path / "x.tif").read_bytes()[:-300])
    with pytest.raises(PictureError, match=r"x\.tif: truncated"):
        read_picture(tmp_path / "x.tif")


@pytest.mark.parametrize(
    ("stored", "told", "message"),
    [
        ({"tile": (16, 16), "compression": "zlib"}, {"TileWidth": 2**30, "TileLength": 2**30}, "parts of the picture"),
        ({"tile": (48, 48), "compression": "zlib"}, {"TileWidth": 2**30, "TileLength": 2**30}, "tiles of 1073741824×"),
        ({"tile": (48, 48)}, {"TileWidth": 2**30, "TileLength": 2**30}, "tiles of 1073741824×"),
        ({"tile": (16, 16)}, {"TileWidth": 1, "TileLength": 1, "ImageWidth": 2**15, "ImageLength": 2**15}, "parts of"),
        ({"rowsperstrip": 40, "compression": "zlib"}, {"StripByteCounts": 2**32 - 1}, "truncated"),
    ],
)
def test_a_small_file_that_tells_of_giant_parts_takes_no_memory(tmp_path, stored, told, message):
    tifffile.imwrite(tmp_path / "x.tif", noise(40, 34), photometric="rgb", **stored)
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as file:
        for name, value in told.items():
            file.pages[0].tags[name].overwrite(value, dtype="I")
    tracemalloc.start()
    with pytest.raises(PictureError, match=rf"x\.tif: .*{message}"):
        read_picture(tmp_path / "x.tif")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22
