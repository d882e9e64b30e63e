"""TIFF files of every common layout are read."""

import cv2
import numpy as np
import pytest
import tifffile
from PIL import ImageCms

from mcir.inference.images import Picture, PictureError, probe_picture, read_picture, write_picture
from tests.data.images import noise

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAYOUTS = {
    "one strip": {},
    "strips": {"rowsperstrip": 5},
    "deflated strips": {"rowsperstrip": 5, "compression": "zlib"},
    "predicted": {"rowsperstrip": 5, "compression": "zlib", "predictor": True},
    "tiles": {"tile": (16, 32)},
    "predicted tiles": {"tile": (16, 16), "compression": "zlib", "predictor": True},
    "big-endian": {"byteorder": ">"},
    "big-endian, predicted": {"byteorder": ">", "compression": "zlib", "predictor": True},
    "BigTIFF": {"bigtiff": True, "compression": "zlib"},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_layouts(tmp_path, layout, kind, channels):
    samples = noise(41, 34, channels, kind)
    stored = samples[:, :, 0] if channels == 1 else samples
    options = {"photometric": "minisblack"} if channels == 1 else {"photometric": "rgb"}
    if channels == 4:
        options["extrasamples"] = ["unassalpha"]
    tifffile.imwrite(tmp_path / "x.tif", stored, **options, **layout)
    found = read_picture(tmp_path / "x.tif")
    assert found.pixels.dtype == kind
    assert np.array_equal(found.pixels, samples[:, :, :3])
    assert (found.alpha is None) == (channels < 4)
    assert found.alpha is None or np.array_equal(found.alpha, samples[:, :, 3])
    assert probe_picture(tmp_path / "x.tif") == (*found.pixels.shape, found.bits, channels == 4)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_separate_planes(tmp_path, kind, tile, compression):
    samples = noise(41, 34, 3, kind)
    planes = np.ascontiguousarray(samples.transpose(2, 0, 1))
    options = {"photometric": "rgb", "planarconfig": "separate", "tile": tile, "compression": compression}
    tifffile.imwrite(tmp_path / "x.tif", planes, predictor=compression is not None, **options)
    assert np.array_equal(read_picture(tmp_path / "x.tif").pixels, samples)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_white_is_zero(tmp_path, kind):
    samples = noise(41, 34, 1, kind)
    tifffile.imwrite(tmp_path / "x.tif", np.iinfo(kind).max - samples[:, :, 0], photometric="miniswhite")
    assert np.array_equal(read_picture(tmp_path / "x.tif").pixels, samples)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_premultiplied_alpha_is_divided(tmp_path, kind):
    samples, full = noise(41, 34, 4, kind), np.iinfo(kind).max
    samples[:10, :, 3], samples[10:20, :, 3], samples[20:, :, 3] = full, 0, samples[20:, :, 3] | 1
    multiplied = np.rint(samples[:, :, :3] * (samples[:, :, 3:] / full)).astype(kind)
    stored = np.dstack((multiplied, samples[:, :, 3]))
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    found = read_picture(tmp_path / "x.tif")
    assert np.array_equal(found.alpha, samples[:, :, 3])
    assert np.array_equal(found.pixels[:10], samples[:10, :, :3])
    assert not found.pixels[10:20].any()
    bound = 0.5 * full / samples[20:, :, 3:] + (1 if kind == np.uint8 else 0.5)  # Pillow rounds down
    assert (np.abs(found.pixels[20:].astype(int) - samples[20:, :, :3]) <= bound).all()


def test_unspecified_fourth_channel_is_not_alpha(tmp_path):
    samples = noise(41, 34, 4, np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", samples, photometric="rgb", extrasamples=["unspecified"])
    found = read_picture(tmp_path / "x.tif")
    assert found.alpha is None
    assert np.array_equal(found.pixels, samples[:, :, :3])


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_16_bit_orientations(tmp_path, turn):
    samples = noise(41, 34, 3, np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", samples, photometric="rgb", extratags=[(274, 3, 1, turn, True)])
    upright = np.rot90(samples, {1: 0, 3: 2, 6: -1, 8: 1}[turn])
    assert np.array_equal(read_picture(tmp_path / "x.tif").pixels, upright)
    assert probe_picture(tmp_path / "x.tif")[:2] == upright.shape[:2]


def test_reduced_copy_is_not_a_page(tmp_path):
    samples = noise(40, 34, 3)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(samples, photometric="rgb")
        file.write(samples[::2, ::2], photometric="rgb", subfiletype=1)
    assert np.array_equal(read_picture(tmp_path / "x.tif").pixels, samples)


def test_reduced_copy_before_the_image_is_rejected(tmp_path):
    samples = noise(40, 34, 3)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(samples[::2, ::2], photometric="rgb", subfiletype=1)
        file.write(samples, photometric="rgb")
    with pytest.raises(PictureError, match=r"x\.tif: .*got 2 pages"):
        read_picture(tmp_path / "x.tif")


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.int16, np.uint32])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_types_of_samples_are_rejected(tmp_path, kind, channels):
    samples = noise(41, 34, channels).squeeze().astype(kind)
    tifffile.imwrite(tmp_path / "x.tif", samples, photometric="rgb" if channels == 3 else "minisblack")
    for function in (read_picture, probe_picture):
        with pytest.raises(PictureError, match=rf"x\.tif: expected TIFF samples of type .*, got {np.dtype(kind)}"):
            function(tmp_path / "x.tif")


def test_16_bit_lzw_with_separate_planes_is_rejected(tmp_path):
    """OpenCV would return mixed planes."""
    cv2.imwrite(str(tmp_path / "x.tif"), noise(41, 34, 3, np.uint16), [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as file:
        file.pages[0].tags["PlanarConfiguration"].overwrite(2)
    with pytest.raises(PictureError, match=r"x\.tif: 16-bit TIFF with LZW and separate planes cannot be read"):
        read_picture(tmp_path / "x.tif")


@pytest.mark.parametrize("height", [1, 200])
@pytest.mark.parametrize("alpha", [False, True])
def test_other_programs_read_what_is_written(tmp_path, height, alpha):
    samples = noise(height, 203, 4, np.uint16)
    sent = Picture(samples[:, :, :3], samples[:, :, 3] if alpha else None, icc=SRGB)
    write_picture(tmp_path / "x.tif", sent)
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        page = file.pages[0]
        assert np.array_equal(page.asarray(), samples if alpha else samples[:, :, :3])
        assert page.tags[34675].value == SRGB
    read = cv2.imread(str(tmp_path / "x.tif"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(read[:, :, [2, 1, 0, 3] if alpha else [2, 1, 0]], samples if alpha else samples[:, :, :3])


@pytest.mark.filterwarnings("ignore")
def test_missing_strips(tmp_path):
    samples = noise(200, 203)
    tifffile.imwrite(tmp_path / "x.tif", samples, photometric="rgb", rowsperstrip=10)
    (tmp_path / "x.tif").write_bytes((tmp_path / "x.tif").read_bytes()[:-300])
    with pytest.raises(PictureError, match=r"x\.tif: truncated or damaged"):
        read_picture(tmp_path / "x.tif")


def test_an_unknown_planar_configuration_is_rejected(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", noise(20, 28), photometric="rgb", tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as file:
        file.pages[0].tags["PlanarConfiguration"].overwrite(256)
    with pytest.raises(PictureError, match=r"x\.tif: expected planar configuration 1 or 2, got 256"):
        read_picture(tmp_path / "x.tif")
