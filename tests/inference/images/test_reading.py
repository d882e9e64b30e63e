"""Files of other programs are read as Pillow decodes them, in every mode, depth and orientation."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from mcir.inference.convert import from_pil, to_pil
from mcir.inference.images import PictureError, probe_picture, read_picture
from tests.data.images import noise, save, smooth

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTATION = 0x0112


def pillow(mode, size=(34, 21)):
    """Return an image of noise in a mode of Pillow."""
    width, height = size
    if mode == "P":
        return Image.fromarray(noise(height, width)).quantize(16)
    if mode == "1":
        return Image.fromarray(noise(height, width, 1)[:, :, 0]).convert("1")
    samples = noise(height, width, {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode])
    return Image.fromarray(samples[:, :, 0] if mode == "L" else samples, mode="CMYK" if mode == "CMYK" else None)


def check_agreement(path, image):
    """Check that a file is read as Pillow decodes it, colours under alpha included, and that probing agrees."""
    found = read_picture(path)
    expected = np.asarray(image).reshape(image.height, image.width, -1)
    colours = found.pixels if found.alpha is None else np.dstack((found.pixels, found.alpha))
    assert np.array_equal(colours, expected)
    assert probe_picture(path) == (*found.pixels.shape, found.bits, found.alpha is not None)
    return found


MODES = [
    *[("png", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")],
    *[("tif", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")],
    *[("jpg", mode) for mode in ("L", "RGB", "CMYK")],
    *[("webp", mode) for mode in ("RGB", "RGBA")],
    *[("bmp", mode) for mode in ("1", "L", "P", "RGB")],
    *[("ppm", mode) for mode in ("1", "L", "RGB")],
]
DECODED = {"1": "L", "P": "RGB", "CMYK": "RGB"}


@pytest.mark.parametrize(("suffix", "mode"), MODES)
def test_modes(tmp_path, suffix, mode):
    path = tmp_path / f"x.{suffix}"
    pillow(mode).save(path)
    with Image.open(path) as image:
        assert image.mode == mode
        check_agreement(path, image.convert(DECODED.get(mode, mode)))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"])
def test_compressions_of_tiff(tmp_path, compression):
    image = pillow("1" if compression == "group4" else "RGB")
    image.save(tmp_path / "x.tif", compression=compression)
    with Image.open(tmp_path / "x.tif") as stored:
        assert stored.info["compression"] == compression
        check_agreement(tmp_path / "x.tif", stored.convert("L" if compression == "group4" else "RGB"))


def test_palettes_with_transparency(tmp_path):
    image = pillow("P")
    for name, transparency in (("one", 3), ("many", bytes(range(0, 160, 10)))):
        image.save(tmp_path / f"{name}.png", transparency=transparency)
        with Image.open(tmp_path / f"{name}.png") as stored:
            found = check_agreement(tmp_path / f"{name}.png", stored.convert("RGBA"))
        assert len(np.unique(found.alpha)) == (2 if name == "one" else 16)


def png(path, samples, kind, depth, *chunks, filters=0):
    """Write a PNG file from rows of bytes, (H, bytes)."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = np.pad(samples, ((0, 0), (1, 0)), constant_values=filters)
    width = samples.shape[1] * 8 // depth // {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    header = struct.pack(">IIBBBBB", width, len(samples), depth, kind, 0, 0, 0)
    before, after = [c for c in chunks if c[0] != b"eXIf"], [c for c in chunks if c[0] == b"eXIf"]
    parts = [(b"IHDR", header), *before, (b"IDAT", zlib.compress(rows.tobytes())), *after, (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_with_one_transparent_colour(tmp_path, bits, channels):
    samples = noise(21, 34, channels, np.dtype(f"u{bits // 8}"))
    samples[5:8] = key = samples[3, 4]
    rows = samples.astype(f">u{bits // 8}").reshape(21, -1).view(np.uint8)
    png(tmp_path / "x.png", rows, 0 if channels == 1 else 2, bits, (b"tRNS", key.astype(">u2").tobytes()))
    found = read_picture(tmp_path / "x.png")
    assert np.array_equal(found.pixels, samples)
    assert np.array_equal(found.alpha == 0, (samples == key).all(axis=2))
    assert set(np.unique(found.alpha)) == {0, 2**bits - 1}
    assert probe_picture(tmp_path / "x.png") == (21, 34, channels, bits, True)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_png_of_few_bits_with_one_transparent_grey(tmp_path, depth):
    rows = noise(21, 4, 1)[:, :, 0]
    key = 2**depth - 2
    png(tmp_path / "x.png", rows, 0, depth, (b"tRNS", struct.pack(">H", key)))
    levels = np.unpackbits(rows, axis=1).reshape(21, -1, depth) @ (2 ** np.arange(depth)[::-1])
    found = read_picture(tmp_path / "x.png")
    assert np.array_equal(found.pixels[:, :, 0], levels * 255 // (2**depth - 1))
    assert np.array_equal(found.alpha == 0, levels == key)


@pytest.mark.parametrize(
    ("channels", "suffix"), [(1, "png"), (3, "png"), (4, "png"), (3, "tif"), (3, "ppm"), (1, "pgm")]
)
def test_16_bit_files_written_by_opencv(tmp_path, channels, suffix):
    samples = noise(21, 34, channels, np.uint16)
    path = tmp_path / f"x.{suffix}"
    save(path, samples[:, :, [2, 1, 0, 3]] if channels == 4 else samples)
    found = read_picture(path)
    assert np.array_equal(found.pixels, samples[:, :, :3])
    assert (found.alpha is None) or np.array_equal(found.alpha, samples[:, :, 3])
    assert probe_picture(path) == (21, 34, min(channels, 3), 16, channels == 4)


def test_16_bit_grey_with_alpha(tmp_path):
    samples = noise(21, 34, 2, np.uint16)
    png(tmp_path / "x.png", samples.astype(">u2").reshape(21, -1).view(np.uint8), 4, 16)
    found = read_picture(tmp_path / "x.png")
    assert np.array_equal(found.pixels[:, :, 0], samples[:, :, 0])
    assert np.array_equal(found.alpha, samples[:, :, 1])


@pytest.mark.parametrize("largest", [100, 255, 1023, 65535])
def test_ppm_of_any_range(tmp_path, largest):
    values = noise(21, 34, 3, np.uint16).astype(int) % (largest + 1)
    data = values.astype(">u2" if largest > 255 else np.uint8).tobytes()
    (tmp_path / "x.ppm").write_bytes(b"P6\n# by hand\n34 21 # wide and high\n%d\n" % largest + data)
    full = 255 if largest <= 255 else 65535
    assert np.abs(read_picture(tmp_path / "x.ppm").pixels - values * full / largest).max() <= 0.5


def test_bmp_with_alpha(tmp_path):
    samples = noise(21, 34, 4)
    assert cv2.imwrite(str(tmp_path / "x.bmp"), samples[:, :, [2, 1, 0, 3]])
    with Image.open(tmp_path / "x.bmp") as stored:
        assert np.array_equal(check_agreement(tmp_path / "x.bmp", stored).pixels, samples[:, :, :3])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "palette.tif"])
def test_orientations(tmp_path, suffix, orientation):
    path = tmp_path / f"x.{suffix}"
    image = pillow("P") if suffix == "palette.tif" else Image.fromarray(smooth(21, 34))
    image.save(path)
    with Image.open(path) as stored:
        stored_image = stored.convert("RGB")
    exif = stored_image.getexif()
    exif[ORIENTATION], exif[271] = orientation, "a camera"
    image.save(path, exif=exif)
    upright = ImageOps.exif_transpose(stored_image)
    assert upright.size == ((34, 21) if orientation <= 4 else (21, 34))
    found = check_agreement(path, upright)
    kept = Image.Exif()
    kept.load(found.exif)
    assert dict(kept) == {271: "a camera"}


def test_exif_after_the_samples_of_png(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    png(tmp_path / "x.png", noise(21, 34, 1)[:, :, 0], 0, 8, (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    assert probe_picture(tmp_path / "x.png")[:2] == (34, 21)
    assert np.array_equal(read_picture(tmp_path / "x.png").pixels[:, ::-1].swapaxes(0, 1), noise(21, 34, 1))


def test_orientation_in_xmp(tmp_path):
    xmp = PngImagePlugin.PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="3"/>')
    pillow("RGB").save(tmp_path / "x.png", pnginfo=xmp)
    with Image.open(tmp_path / "x.png") as stored:
        check_agreement(tmp_path / "x.png", ImageOps.exif_transpose(stored))
    assert np.array_equal(read_picture(tmp_path / "x.png").pixels, np.asarray(pillow("RGB"))[::-1, ::-1])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_ignored(tmp_path):
    pillow("RGB").save(tmp_path / "x.png", exif=b"Exif\0\0MM\0*\0\0\xff\xff")
    found = read_picture(tmp_path / "x.png")
    assert np.array_equal(found.pixels, np.asarray(pillow("RGB")))
    assert found.exif is None


def cmyk_profile():
    """Return a CMYK profile with two grid points per axis that maps to Lab (ICC.1:2001-04, lut8Type)."""
    cube = np.indices((2, 2, 2, 2)).reshape(4, -1).T
    lightness = 255 * np.prod(1 - cube * (0.3, 0.4, 0.1, 0.8), axis=1)
    a = 128 + cube @ (-40, 70, -5, 0)
    b = 128 + cube @ (-45, -5, 90, 0)
    table = np.stack((lightness, a, b), axis=1).clip(0, 255).astype(np.uint8)
    identity = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + struct.pack(">9I", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut += identity * 4 + table.tobytes() + identity * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3I", 63190, 65536, 54061)
    text = b"text\0\0\0\0none\0\0\0\0"
    start = 128 + 4 + 12 * 3
    tags, body = b"", b""
    for name, data in ((b"A2B0", lut), (b"wtpt", white), (b"cprt", text)):
        data += bytes(-len(data) % 4)
        tags += name + struct.pack(">II", start + len(body), len(data))
        body += data
    header = struct.pack(">I4sI4s4s4s12x4s4sI4x4x8xI3I", start + len(body), b"none", 0x02400000, b"prtr", b"CMYK",
                         b"Lab ", b"acsp", b"APPL", 0, 0, 63190, 65536, 54061)  # fmt: skip
    return header.ljust(128, b"\0") + struct.pack(">I", 3) + tags + body


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_is_converted_through_its_profile(tmp_path, suffix):
    image = pillow("CMYK") if suffix == "tif" else pillow("CMYK").resize((68, 42))
    image.paste((0, 0, 0, 0), (0, 0, 16, 16))
    image.save(tmp_path / f"x.{suffix}", icc_profile=cmyk_profile())
    with Image.open(tmp_path / f"x.{suffix}") as stored:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(cmyk_profile()))
        through = ImageCms.profileToProfile(
            stored, profile, ImageCms.createProfile("sRGB"), 1, "RGB", flags=ImageCms.Flags.BLACKPOINTCOMPENSATION
        )
        plain = np.asarray(stored.convert("RGB"))
    found = check_agreement(tmp_path / f"x.{suffix}", through)
    assert found.icc is None
    assert found.pixels[4, 4].min() >= 254
    assert np.abs(found.pixels.astype(int) - plain).mean() > 10


def test_cmyk_in_memory_is_converted_through_its_profile(tmp_path):
    pillow("CMYK").save(tmp_path / "x.tif", icc_profile=cmyk_profile())
    with Image.open(tmp_path / "x.tif") as image:
        pixels, alpha = from_pil(image)
        made = to_pil(pixels, alpha, like=image)
    assert np.array_equal(pixels, read_picture(tmp_path / "x.tif").pixels)
    assert "icc_profile" not in made.info
    assert made.info["compression"] == image.info["compression"]


def test_damaged_cmyk_profile_is_ignored(tmp_path):
    pillow("CMYK").save(tmp_path / "x.tif", icc_profile=cmyk_profile()[:200])
    check_agreement(tmp_path / "x.tif", pillow("CMYK").convert("RGB"))
    assert read_picture(tmp_path / "x.tif").icc is None


@pytest.mark.parametrize(("suffix", "count"), [("tif", 3), ("webp", 2), ("png", 4)])
def test_several_pages_are_rejected(tmp_path, suffix, count):
    frames = [Image.fromarray(noise(21, 34, seed=index)) for index in range(count)]
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:])
    for function in (read_picture, probe_picture):
        with pytest.raises(PictureError, match=rf"x\.{suffix}: expected one image, got {count} pages or frames"):
            function(tmp_path / f"x.{suffix}")


def test_previews_of_phones_are_not_pages(tmp_path):
    path = tmp_path / "x.jpg"
    Image.fromarray(smooth(21, 34)).save(
        path, "MPO", save_all=True, append_images=[Image.fromarray(smooth(11, 17, seed=1))]
    )
    with Image.open(path) as stored:
        assert (stored.format, stored.n_frames) == ("MPO", 2)
        assert check_agreement(path, stored.convert("RGB")).format == "JPEG"
    data = path.read_bytes()
    entry = data.index(b"II*\0") + 50  # two entries of sixteen bytes: attribute, size, offset
    assert struct.unpack_from("<I12xI", data, entry) == (0x030000, 0)  # main picture, undefined
    stereo = struct.pack("<I", 0x020002)
    path.write_bytes(data[:entry] + stereo + data[entry + 4 : entry + 16] + stereo + data[entry + 20 :])
    with pytest.raises(PictureError, match="got 2 pages"):
        read_picture(path)


@pytest.mark.parametrize(("kind", "message"), [("GIF", "GIF files are not read"), ("PCX", "not an image of a known")])
def test_other_formats_are_rejected(tmp_path, kind, message):
    pillow("P").save(tmp_path / "x.png", kind)
    with pytest.raises(PictureError, match=rf"x\.png: {message}"):
        read_picture(tmp_path / "x.png")
