"""Tests of image files: formats, headers and damaged files."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from mcir.data import limits
from mcir.data.codec import encode_png, info_of
from mcir.data.errors import DataError
from mcir.data.limits import no_size_limit
from mcir.data.ordinary import decode_ordinary, ordinary_info
from mcir.data.reader import EncodedImage, check_image, decode, decoder_errors, probe
from mcir.data.transforms import Window
from tests.data.images import noise, save, smooth, truncate

FORMATS = [
    ("c.png", 3, np.uint8), ("g.png", 1, np.uint8), ("c16.png", 3, np.uint16), ("g16.png", 1, np.uint16),
    ("c.bmp", 3, np.uint8), ("c.tif", 3, np.uint8), ("c16.tif", 3, np.uint16), ("g16.tif", 1, np.uint16),
    ("c.ppm", 3, np.uint8), ("g.pgm", 1, np.uint8), ("c16.ppm", 3, np.uint16), ("g16.pgm", 1, np.uint16),
]  # fmt: skip


@pytest.mark.parametrize(("name", "channels", "dtype"), FORMATS, ids=[kind[0] for kind in FORMATS])
def test_lossless_formats_are_decoded_exactly(tmp_path, name, channels, dtype):
    image = noise(21, 34, channels, dtype)
    save(tmp_path / name, image)
    data = (tmp_path / name).read_bytes()
    assert np.array_equal(decode(data, name), image)
    assert np.array_equal(decode(data, name, Window(3, 5, 7, 11)), image[3:10, 5:16])
    assert probe(io.BytesIO(data)) == info_of(image)
    check_image(data)


@pytest.mark.parametrize(("name", "channels"), [("c.jpg", 3), ("g.jpg", 1), ("c.webp", 3)])
def test_lossy_formats(tmp_path, name, channels):
    image = smooth(40, 56, channels)
    save(tmp_path / name, image)
    data = (tmp_path / name).read_bytes()
    assert probe(io.BytesIO(data)) == (40, 56, channels, 8)
    decoded = decode(data, name)
    assert decoded.shape == image.shape
    assert np.abs(decoded.astype(int) - image).mean() < 6


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1), ("P", 3), ("1", 1), ("CMYK", 3)])
def test_alpha_palettes_and_other_modes(mode, channels):
    rgb = Image.fromarray(noise(17, 23, 3) // 128 * 255)
    image = rgb.convert("L").convert("LA") if mode == "LA" else rgb.convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(noise(17, 23, 1)[:, :, 0]))
    stream = io.BytesIO()
    image.save(stream, "JPEG" if mode == "CMYK" else "PNG")
    data = stream.getvalue()
    decoded = decode(data, mode)
    assert decoded.shape == (17, 23, channels)
    assert probe(io.BytesIO(data)) == info_of(decoded)
    if mode in ("RGBA", "LA"):  # the colours of transparent pixels are unchanged
        assert np.array_equal(decoded, np.asarray(image)[:, :, :channels])


@pytest.mark.parametrize(("kind", "count"), [("png", 30), ("png", 400), ("jpg", 1), ("jpg", 30), ("jpg", 400)])
def test_truncated_files_are_detected_without_decoding(tmp_path, kind, count):
    path = tmp_path / f"x.{kind}"
    save(path, noise(60, 60))
    truncate(path, count)
    with pytest.raises(DataError, match="truncated"):
        probe(io.BytesIO(path.read_bytes()))
    with pytest.raises(DataError, match=r"some\.file"):
        decode(path.read_bytes(), "some.file")


def png_header(width, height, padding=0):
    """Return a PNG file without samples: a header with a size, unused bytes and the end marker."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + struct.pack(">I", zlib.crc32(header))
    samples = struct.pack(">I", padding) + b"IDAT" + bytes(padding + 4)
    return start + samples + b"\0\0\0\0IEND\xaeB`\x82"


def test_the_size_in_a_header_is_limited_by_memory_and_by_the_file(monkeypatch):
    with pytest.raises(
        DataError, match=r"at most 1,073,741,824 pixels, got 40000×40000 in the header; set .* MCIR_MAX"
    ):
        probe(io.BytesIO(png_header(40_000, 40_000, 2**14)))
    monkeypatch.setattr(limits, "max_pixels", lambda: 2 * 10**9)
    monkeypatch.setattr(limits, "memory_available", lambda: 2**34)
    for width, padding in ((10_000, 0), (40_000, 2**14)):
        assert probe(io.BytesIO(png_header(width, 40_000, padding))).width == width
    with pytest.raises(
        DataError, match=r"at most 1\.0 GiB of samples, .*57 bytes, got 1\.5 GiB .*\(40000×40000 pixels\)"
    ):
        probe(io.BytesIO(png_header(40_000, 40_000)))
    monkeypatch.setattr(limits, "memory_available", lambda: 2**29)
    with pytest.raises(DataError, match=r"at most 0\.5 GiB of samples, .*, got 1\.5 GiB"):
        probe(io.BytesIO(png_header(40_000, 40_000, 2**14)))


def test_images_of_any_size_are_read_and_pillow_keeps_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    save(tmp_path / "x.bmp", noise(30, 40))
    with (tmp_path / "x.bmp").open("rb") as stream, no_size_limit():
        with no_size_limit():
            assert Image.MAX_IMAGE_PIXELS is None
        assert Image.MAX_IMAGE_PIXELS is None
        assert probe(stream) == (30, 40, 3, 8)
    assert Image.MAX_IMAGE_PIXELS == 100
    with (tmp_path / "x.bmp").open("rb") as stream:
        assert probe(stream) == (30, 40, 3, 8)
    with pytest.raises(RuntimeError), no_size_limit():
        raise RuntimeError
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_data_after_the_end_of_an_image_are_accepted(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    save(path, noise(30, 30))
    data = path.read_bytes() + b"\0" * 10_000
    assert probe(io.BytesIO(data)) == (30, 30, 3, 8)
    assert decode(data, "x").shape == (30, 30, 3)


def test_damage_inside_is_detected_by_check_image(tmp_path):
    data = bytearray(encode_png(noise(60, 60)))
    data[len(data) // 2] ^= 0xFF
    assert probe(io.BytesIO(data)) == (60, 60, 3, 8)
    with pytest.raises(DataError, match="damaged"):
        check_image(bytes(data))


@pytest.mark.parametrize(("data", "message"), [(b"", "empty"), (b"hello" * 20, "no"), (b"\x89PNG\r\n\x1a\n", "no")])
def test_files_that_are_not_images_are_rejected(data, message):
    with pytest.raises(DataError, match=message):
        probe(io.BytesIO(data))
    with pytest.raises(DataError, match="x"):
        decode(data, "x")


def test_float_images_are_rejected(tmp_path):
    Image.fromarray(np.zeros((5, 5), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match="float32"):
        probe(io.BytesIO((tmp_path / "f.tif").read_bytes()))
    with pytest.raises(DataError, match=r"f\.tif"):
        decode((tmp_path / "f.tif").read_bytes(), "f.tif")


@pytest.fixture
def fresh_limit():
    limits.max_pixels.cache_clear()
    yield
    limits.max_pixels.cache_clear()


@pytest.mark.parametrize("text", ["", "0", "-5", "1e9", "many", "9" * 30])
def test_an_invalid_limit_is_an_error(monkeypatch, fresh_limit, text):
    monkeypatch.setenv("MCIR_MAX_PIXELS", text)
    with pytest.raises(DataError, match=r"^x: MCIR_MAX_PIXELS: expected a number of pixels, like 2147483648, got"):
        decode(encode_png(noise(4, 4)), "x")


def test_a_lower_limit(monkeypatch, fresh_limit):
    monkeypatch.setenv("MCIR_MAX_PIXELS", "16")
    assert probe(io.BytesIO(encode_png(noise(4, 4)))).width == 4
    with pytest.raises(DataError, match="at most 16 pixels, got 5×4 "):
        probe(io.BytesIO(encode_png(noise(4, 5))))


@pytest.mark.parametrize("name", ["c.png", "g.png", "c.jpg", "g.jpg"])
def test_the_shortcut_returns_what_the_reader_returns(tmp_path, name):
    save(tmp_path / name, smooth(40, 56, 1 if name.startswith("g") else 3))
    data = (tmp_path / name).read_bytes()
    for window in (None, Window(3, 5, 7, 11)):
        with decoder_errors():
            expected, _ = EncodedImage(io.BytesIO(data)).decode(window)
        found = decode_ordinary(data, window)
        assert found is not None
        assert np.array_equal(found, expected)
        assert ordinary_info(data, data) == (40, 56, *expected.shape[2:], 8)
    for count in (1, 12, 100):
        assert decode_ordinary(data[:-count], None) is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["exif", "alpha", "palette", "frames", "bit"])
def test_other_files_are_not_ordinary(kind, mode):
    image, options = Image.fromarray(noise(12, 12)), {}
    if mode == "exif":
        exif = Image.Exif()
        exif[0x0112] = 1
        options["exif"] = exif
    else:
        image = {"alpha": image.convert("RGBA"), "palette": image.quantize(8), "bit": image.convert("1")}.get(
            mode, image
        )
        options = {"save_all": True, "append_images": [image.rotate(90)]} if mode == "frames" else {}
        if kind == "JPEG":
            image, kind = image.convert("CMYK"), ("MPO" if mode == "frames" else kind)
            image = image.convert("RGB") if kind == "MPO" else image
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    assert ordinary_info(stream.getvalue(), stream.getvalue()) is None


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
def test_texts_and_profiles_are_not_expanded_without_limit(name):
    flags = b"\1\0\0\0" if name == b"iTXt" else b"\0"
    bomb = chunk(name, b"a\0" + flags + zlib.compress(bytes(50_000_000), 9))
    data = encode_png(noise(8, 8))
    tracemalloc.start()
    with pytest.raises(DataError, match="too large"):
        decode(data[:33] + bomb + data[33:], "x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


def test_a_chunk_that_states_gigabytes_is_rejected(tmp_path):
    data = bytearray(encode_png(noise(30, 30)))
    data[33] |= 0x7F
    with pytest.raises(DataError, match="truncated"):
        decode(bytes(data), "x")


def test_pages_that_form_a_circle_are_rejected():
    entries = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    data = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + struct.pack("<I", 8) + bytes(100)
    with pytest.raises(DataError, match="expected one image, got 1000 pages"):
        probe(io.BytesIO(data))
