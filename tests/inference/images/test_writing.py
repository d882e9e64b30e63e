"""Images are written and read back unchanged, and images that a format cannot hold are rejected."""

import logging
import os
import struct
import subprocess
import sys
import warnings
import zlib
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from mcir.data import limits
from mcir.data.listing import EXTENSIONS
from mcir.inference.images import Picture, PictureError, probe_picture, read_picture, with_bits, write_picture
from mcir.inference.images.writing import FORMATS
from tests.data.images import noise, smooth, truncate
from tests.data.test_reader import png_header

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DIRECTORY, MAKE, DATE, WIDTH, HEIGHT = 0x8769, 271, 0x9003, 0xA002, 0xA003


def exif_block():
    exif = Image.Exif()
    exif[MAKE] = "a camera"
    exif[DIRECTORY] = {DATE: "2021:02:03 04:05:06", WIDTH: 1, HEIGHT: 2}
    exif[0x8825] = {1: "N", 2: (48.0, 51.0, 29.5)}
    return exif.tobytes()


def picture(height=21, width=34, channels=3, bits=8, alpha=False, **others):
    kind = np.dtype(f"u{bits // 8}")
    cover = noise(height, width, 1, kind, seed=1)[:, :, 0] if alpha else None
    return Picture(noise(height, width, channels, kind), cover, **others)


def same(one, other):
    equal = one.pixels.dtype == other.pixels.dtype and np.array_equal(one.pixels, other.pixels)
    if one.alpha is None or other.alpha is None:
        return equal and one.alpha is other.alpha
    return equal and one.alpha.dtype == other.alpha.dtype and np.array_equal(one.alpha, other.alpha)


LOSSLESS = [
    (suffix, channels, bits, alpha)
    for suffix in (".png", ".tif", ".webp", ".bmp", ".ppm", ".pgm", ".pnm")
    for channels in (1, 3)
    for bits in (8, 16)
    for alpha in (False, True)
    if not FORMATS[suffix].incompatibility(picture(channels=channels, bits=bits, alpha=alpha))
    if (suffix, channels) != (".webp", 1)
    if (suffix, channels, bits, alpha) != (".png", 1, 16, True)
]


def test_all_formats_are_covered():
    assert len(LOSSLESS) == 7 + 7 + 2 + 2 + 4 + 2 + 4
    assert set(FORMATS) == EXTENSIONS


@pytest.mark.parametrize(("suffix", "channels", "bits", "alpha"), LOSSLESS)
def test_lossless_formats_return_what_was_written(tmp_path, suffix, channels, bits, alpha):
    path = tmp_path / "deeper" / f"x{suffix.upper()}"
    sent = picture(channels=channels, bits=bits, alpha=alpha)
    write_picture(path, sent, quality=100)
    back = read_picture(path)
    assert same(back, sent)
    assert (back.icc, back.exif) == (None, None)
    assert back.format == {".tif": "TIFF", ".pgm": "PPM", ".pnm": "PPM"}.get(suffix, suffix[1:].upper())
    assert probe_picture(path) == (21, 34, channels, bits, alpha)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(("suffix", "channels", "bits", "alpha"), [kind for kind in LOSSLESS if kind[2] == 8])
def test_pillow_reads_the_same(tmp_path, suffix, channels, bits, alpha):
    sent = picture(channels=channels, alpha=alpha)
    write_picture(tmp_path / f"x{suffix}", sent, quality=100)
    with Image.open(tmp_path / f"x{suffix}") as image:
        samples = np.asarray(image).reshape(21, 34, -1)
    assert np.array_equal(samples[:, :, :channels], sent.pixels)
    assert samples.shape[2] == channels + alpha
    assert not alpha or np.array_equal(samples[:, :, -1], sent.alpha)


@pytest.mark.parametrize(
    ("suffix", "bits", "alpha"),
    [
        *[(suffix, bits, alpha) for suffix in (".png", ".tif") for bits in (8, 16) for alpha in (False, True)],
        *[(".webp", 8, False), (".webp", 8, True), (".jpg", 8, False)],
    ],
)
def test_profile_and_exif_are_kept(tmp_path, suffix, bits, alpha):
    sent = picture(bits=bits, alpha=alpha, icc=SRGB, exif=exif_block())
    path = tmp_path / f"x{suffix}"
    write_picture(path, sent)
    back = read_picture(path)
    assert back.icc == SRGB
    with Image.open(path) as image:
        image.load()
        read = image.getexif()
        assert image.info["icc_profile"] == SRGB
    ours = Image.Exif()
    ours.load(back.exif)
    for exif in (read, ours):
        assert exif[MAKE] == "a camera"
        assert dict(exif.get_ifd(DIRECTORY)) == {DATE: "2021:02:03 04:05:06", WIDTH: 34, HEIGHT: 21}
        assert dict(exif.get_ifd(0x8825)) == {1: "N", 2: (48.0, 51.0, 29.5)}
    write_picture(path, back)
    assert (read_picture(path).icc, read_picture(path).exif) == (back.icc, back.exif)


@pytest.mark.parametrize(("suffix", "channels"), [(".jpg", 3), (".jpg", 1), (".jpeg", 3), (".webp", 3)])
def test_quality_of_lossy_formats(tmp_path, suffix, channels):
    sent, path = Picture(smooth(64, 80, channels)), tmp_path / f"x{suffix}"
    sizes = []
    for quality in (95, 30):
        write_picture(path, sent, quality)
        sizes.append(path.stat().st_size)
        assert np.abs(read_picture(path).pixels.astype(int) - sent.pixels).mean() < (3 if quality == 95 else 20)
    assert sizes[1] < sizes[0] / 2


def test_jpeg_without_chroma_subsampling(tmp_path):
    write_picture(tmp_path / "x.jpg", picture())
    with Image.open(tmp_path / "x.jpg") as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


def test_webp_has_no_grey(tmp_path):
    sent = picture(channels=1, alpha=True)
    write_picture(tmp_path / "x.webp", sent, quality=100)
    back = read_picture(tmp_path / "x.webp")
    assert np.array_equal(back.pixels, np.repeat(sent.pixels, 3, axis=2))
    assert np.array_equal(back.alpha, sent.alpha)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(LOSSLESS))
def test_any_size(tmp_path_factory, height, width, kind):
    suffix, channels, bits, alpha = kind
    path = tmp_path_factory.mktemp("sizes") / f"x{suffix}"
    sent = picture(height, width, channels, bits, alpha)
    write_picture(path, sent, quality=100)
    assert same(read_picture(path), sent)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (
            "x.jpg",
            {"bits": 16},
            r"x\.jpg: JPEG files cannot hold 16 bits per sample; use PNG or TIFF or PPM\.$",
        ),
        ("x.jpg", {"alpha": True}, r"transparency; use PNG or TIFF or WebP\.$"),
        ("x.bmp", {"alpha": True, "bits": 16}, r"16 bits per sample and transparency; use PNG or TIFF\.$"),
        ("x.bmp", {"icc": SRGB, "exif": b"x"}, "an ICC profile and EXIF; use PNG or TIFF or JPEG or WebP"),
        ("x.webp", {"bits": 16}, "WebP files cannot hold 16 bits"),
        ("x.webp", {"width": 16384, "height": 1}, "at most 16383 rows and columns, got 1×16384"),
        ("x.tif", {"channels": 1, "bits": 16, "alpha": True}, "16-bit grey with transparency; use PNG"),
        ("x.pgm", {}, r"cannot hold colour; use .* PPM\.$"),
        ("x.gif", {}, "expected one of the extensions .bmp, .*got '.gif'"),
        ("x.jpg", {"exif": b"Exif\0\0" + bytes(70_000)}, r"x\.jpg: EXIF"),
    ],
)
def test_images_that_a_format_cannot_hold_are_rejected(tmp_path, name, kind, message):
    with pytest.raises(PictureError, match=message):
        write_picture(tmp_path / name, picture(**kind))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("pixels", "alpha"),
    [
        (noise(4, 5, 2), None),
        (noise(4, 5)[0], None),
        (noise(4, 5).astype(np.float32), None),
        (noise(4, 5)[:0], None),
        (noise(4, 5), noise(4, 5)),
        (noise(4, 5), noise(4, 5, 1, np.uint16)[:, :, 0]),
    ],
)
def test_arrays_of_other_shapes_and_types_are_rejected(pixels, alpha):
    with pytest.raises(ValueError, match="expected"):
        Picture(pixels, alpha)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", None, "does not exist"),
        ("a.png", b"", "empty"),
        ("a.jpg", b"%PDF-1.7 and so on", "not an image"),
        ("a.tif", b"II*\0\x08\0\0\0", "damaged"),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(12) + b"\0\0\0\0IEND\xaeB`\x82", "known format"),
    ],
)
def test_files_that_are_not_images(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for function in (read_picture, probe_picture):
        with pytest.raises(PictureError, match=rf"a\.{name[2:]}: .*{message}"):
            function(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("suffix", "bits"),
    [(".png", 8), (".tif", 8), (".jpg", 8), (".webp", 8), (".bmp", 8), (".ppm", 8), (".png", 16), (".tif", 16)],
)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated_files(tmp_path, suffix, share, bits):
    path = tmp_path / f"cut{suffix}"
    write_picture(path, picture(120, 120, bits=bits))
    truncate(path, int(path.stat().st_size * share))
    with pytest.raises(PictureError, match=rf"cut{suffix}: .*(truncated|damaged|not an image|not a readable image)"):
        read_picture(path)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_damage_in_the_middle(tmp_path, suffix, bits):
    path = tmp_path / f"hurt{suffix}"
    write_picture(path, picture(120, 120, bits=bits), quality=100)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(PictureError, match=rf"hurt{suffix}: "):
        read_picture(path)


def test_damaged_jpeg_tables(tmp_path):
    path = tmp_path / "hurt.jpg"
    Image.fromarray(noise(97, 131)).save(path)
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\xc4") + 5
    data[start : start + 16] = bytes(16)  # no codes in the first table of Huffman codes
    path.write_bytes(data)
    with pytest.raises(PictureError, match=r"hurt\.jpg: .*damaged"):
        read_picture(path)


def test_ppm_header_without_samples(tmp_path):
    (tmp_path / "x.ppm").write_bytes(b"P6 1000 1000 255\n")
    with pytest.raises(PictureError, match=r"x\.ppm: truncated"):
        read_picture(tmp_path / "x.ppm")


def huge_tiff(bits, width, height, tile=0):
    """Return a TIFF file of a few bytes whose header claims a size, or a size of its tiles."""
    entries = {256: width, 257: height, 258: bits, 259: 8, 262: 1, 277: 1}
    entries |= {322: tile, 323: tile, 324: 200, 325: 9} if tile else {273: 200, 278: height, 279: 9}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    header = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)
    return header.ljust(200, b"\0") + zlib.compress(b"")


HUGE = {
    "x.tif": huge_tiff(8, 100_000, 100_000),
    "deep.tif": huge_tiff(16, 100_000, 50_000),
    "tile.tif": huge_tiff(8, 64, 64, tile=100_000),
    "x.png": png_header(100_000, 100_000),
    "x.bmp": b"BM"
    + struct.pack("<IIIIiiHHIIiiII", 154, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    + bytes(100),
    "x.ppm": b"P5 100000 100000 255\n",
}


@pytest.mark.parametrize("name", HUGE)
def test_sizes_that_cannot_be_decoded_are_rejected_by_the_header(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(HUGE[name])
    monkeypatch.setattr(Image.Image, "load", None)  # decoding would fail in another way
    for function in (probe_picture, read_picture):
        with pytest.raises(PictureError, match=rf"{name}: expected at most 1,073,741,824 pixels, got \d+×\d+ in"):
            function(tmp_path / name)
    monkeypatch.setattr(limits, "max_pixels", lambda: 10**11)
    for function in (probe_picture, read_picture):
        with pytest.raises(PictureError, match=rf"{name}: expected at most 1\.0 GiB of samples, .*, got \d+\.\d GiB"):
            function(tmp_path / name)


def test_failed_write_keeps_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    write_picture(path, picture())
    before = path.read_bytes()

    def save(self, stream, *arguments, **options):
        stream.write(b"half")
        raise OSError("cable unplugged")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(OSError, match="cable"):
        write_picture(path, picture(30, 30))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.png"]


def test_conversion_of_bits_rounds_to_the_nearest():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    sent = Picture(values, values[:, :, 0], icc=b"i", exif=b"e", format="TIFF")
    eight = with_bits(sent, 8)
    assert np.array_equal(eight.pixels, np.rint(values / 257).astype(np.uint8))
    assert np.array_equal(eight.alpha, eight.pixels[:, :, 0])
    assert (eight.bits, eight.icc, eight.exif, eight.format) == (8, b"i", b"e", "TIFF")
    again = with_bits(eight, 16)
    assert (again.bits, again.pixels.max(), again.pixels.min()) == (16, 65535, 0)
    assert same(with_bits(again, 8), eight)
    assert with_bits(eight, 8) is eight
    with pytest.raises(ValueError, match="expected 8 or 16, got 12"):
        with_bits(eight, 12)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".bmp"])
def test_large_images_are_read_and_the_limit_of_pillow_is_restored(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = tmp_path / f"x{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_picture(path, picture(40, 50))
        assert probe_picture(path)[:2] == (40, 50)
        assert read_picture(path).pixels.shape == (40, 50, 3)
        Image.fromarray(noise(40, 50)).quantize(8).save(tmp_path / "p.tif")  # decoded by Pillow
        assert read_picture(tmp_path / "p.tif").pixels.shape == (40, 50, 3)
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)


MEASURE = """
import sys
from mcir.inference.images import read_picture, write_picture

def status(name):
    return [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)][0] * 1024

def peak(function, *arguments):
    open("/proc/self/clear_refs", "w").write("5")  # resets the peak
    before = status("VmRSS")
    result = function(*arguments)
    return status("VmHWM") - before, result

for small, large, copy in zip(*[iter(sys.argv[1:])] * 3):
    write_picture(copy, read_picture(small))  # loads all modules
    reading, picture = peak(read_picture, large)
    writing, _ = peak(write_picture, copy, picture)
    print(reading / picture.pixels.nbytes, writing / picture.pixels.nbytes)
    del picture
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="reads peaks of memory from /proc")
def test_reading_and_writing_make_few_copies(tmp_path):
    large = Picture(np.full((4000, 4000, 3), 77, np.uint8))
    names = []
    for suffix in (".png", ".tif"):
        files = [tmp_path / f"{name}{suffix}" for name in ("small", "large", "copy")]
        write_picture(files[0], replace(large, pixels=large.pixels[:8]))
        write_picture(files[1], large)
        names += map(str, files)
    output = subprocess.run([sys.executable, "-c", MEASURE, *names], check=True, capture_output=True, text=True).stdout
    for line in output.splitlines():
        reading, writing = map(float, line.split())
        assert reading < 2.6  # Pillow holds four bytes per RGB pixel
        assert writing < 1.6
    assert len(output.splitlines()) == 2


INVALID_PROFILES = {
    "text": b"not a profile",
    "only a header": SRGB[:128],
    "truncated": SRGB[:300],
    "last byte missing": SRGB[:-1],
    "odd size in version 4": (len(SRGB) + 1).to_bytes(4, "big") + SRGB[4:] + b"\0",
}


@pytest.mark.parametrize("icc", INVALID_PROFILES.values(), ids=INVALID_PROFILES)
@pytest.mark.parametrize(
    ("suffix", "bits"),
    [*((suffix, 8) for suffix in (".jpg", ".webp", ".bmp")), *product((".png", ".tif", ".ppm"), (8, 16))],
)
def test_invalid_profiles_are_left_out_with_a_warning(tmp_path, caplog, suffix, bits, icc):
    sent = picture(bits=bits, icc=icc)
    with caplog.at_level(logging.WARNING, "mcir"):
        write_picture(tmp_path / f"x{suffix}", sent, quality=100)
    back = read_picture(tmp_path / f"x{suffix}")
    assert back.icc is None
    assert suffix == ".jpg" or same(back, sent)
    assert caplog.messages == [f"{tmp_path / f'x{suffix}'}: the ICC profile of the image is invalid and was left out."]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_padding_of_profiles_is_removed(tmp_path, caplog, suffix, bits):
    write_picture(tmp_path / f"x{suffix}", picture(bits=bits, icc=SRGB + bytes(3)))
    assert read_picture(tmp_path / f"x{suffix}").icc == SRGB
    assert not caplog.messages


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
@pytest.mark.parametrize("exif", [b"junk", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08"])
def test_damaged_exif_does_not_stop_writing(tmp_path, suffix, exif):
    write_picture(tmp_path / f"x{suffix}", picture(exif=exif), quality=100)
    assert read_picture(tmp_path / f"x{suffix}").pixels.shape == (21, 34, 3)


def test_text_and_resolution_of_exif_are_kept_in_tiff(tmp_path):
    exif = Image.Exif()
    exif[0x8298], exif[40091], exif[296], exif[282], exif[283] = b"\xa9 J\xfcrgen", b"t\0i\0", 2, 300.0, 299.5
    write_picture(tmp_path / "x.tif", picture(exif=exif.tobytes()))
    with Image.open(tmp_path / "x.tif") as image:
        assert (image.tag_v2[0x8298], image.tag_v2[40091], image.info["dpi"]) == ("© Jürgen", b"t\0i\0", (300, 299.5))


def test_16_bit_grey_png_with_alpha_becomes_rgb(tmp_path):
    sent = picture(channels=1, bits=16, alpha=True)
    write_picture(tmp_path / "x.png", sent)
    back = read_picture(tmp_path / "x.png")
    assert np.array_equal(back.pixels, np.repeat(sent.pixels, 3, axis=2))
    assert np.array_equal(back.alpha, sent.alpha)
