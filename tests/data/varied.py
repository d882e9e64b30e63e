"""A collection of image files of every kind, and damaged ones, for tests that compare how they are read."""

import functools
import io
import struct
import zlib

import cv2
import numpy as np
import tifffile
from PIL import Image

from tests.data.images import smooth

HEIGHT, WIDTH = 20, 28
DEEP = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, 4), np.uint16), (0, 0), 1.5)
RGB = np.ascontiguousarray(DEEP[:, :, :3] >> 8).astype(np.uint8)
COLOR = Image.fromarray(RGB)
ALPHA = Image.fromarray((DEEP >> 8).astype(np.uint8))


def encode(image, kind, **options):
    """Return an image of Pillow as a file of a format."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _deep(suffix, channels, *options):
    return cv2.imencode(suffix, np.ascontiguousarray(DEEP[:, :, :channels]), options)[1].tobytes()


def _tiff(samples, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, samples, photometric="rgb", **options)
    return stream.getvalue()


@functools.cache
def intact():
    """Return files that every part of mcir reads, by name."""
    files = {}
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        for kind, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("TIFF", "tif"), ("WEBP", "webp")):
            files[f"turned{turn}.{suffix}"] = encode(COLOR, kind, exif=exif)
    late = Image.Exif()
    late[0x0112] = 6
    png, block = encode(COLOR, "PNG"), late.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    files["turned at the end.png"] = png[:-12] + chunk + png[-12:]
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        image = (ALPHA if mode.endswith("A") else COLOR).convert(mode)
        files[f"{mode}.png"], files[f"{mode}.tif"] = encode(image, "PNG"), encode(image, "TIFF")
    for mode in ("L", "RGB", "CMYK"):
        files[f"{mode}.jpg"], files[f"{mode}.p.jpg"] = (
            encode(COLOR.convert(mode), "JPEG", progressive=progressive) for progressive in (False, True)
        )
    for mode in ("1", "L", "RGB"):
        files[f"{mode}.ppm"], files[f"{mode}.bmp"] = (encode(COLOR.convert(mode), kind) for kind in ("PPM", "BMP"))
    files["palette with alpha.png"] = encode(COLOR.quantize(16), "PNG", transparency=bytes(range(0, 160, 10)))
    files["one transparent colour.png"] = encode(COLOR, "PNG", transparency=COLOR.getpixel((3, 4)))
    files["alpha.webp"], files["lossless.webp"] = (encode(ALPHA, "WEBP", lossless=known) for known in (False, True))
    for suffix, channels in ((".png", 1), (".png", 3), (".png", 4), (".tif", 3), (".ppm", 3), (".pgm", 1)):
        files[f"deep{channels}{suffix}"] = _deep(suffix, channels)
    files["deep lzw.tif"] = _deep(".tif", 3, cv2.IMWRITE_TIFF_COMPRESSION, 5)
    for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        files[f"{name}.tif"] = encode(COLOR, "TIFF", compression=name)
    files["premultiplied.tif"] = _tiff(DEEP, extrasamples=["assocalpha"], compression="zlib", predictor=True)
    files["tiles.tif"] = _tiff(RGB, tile=(16, 16), compression="zlib")
    files["planes.tif"] = _tiff(RGB.transpose(2, 0, 1), planarconfig="separate")
    files["of ten bits.ppm"] = b"P6\n# made by hand\n28 20 1023\n" + (DEEP[:, :, :3] >> 6).astype(">u2").tobytes()
    files["a JPEG.png"], files["a PNG.tif"] = files["RGB.jpg"], files["RGB.png"]
    files["preview.jpg"] = encode(COLOR, "MPO", save_all=True, append_images=[COLOR.resize((14, 10))])
    files["more data.png"] = files["RGB.png"] + bytes(100_000)
    return files


@functools.cache
def unreadable():
    """Return files that every part of mcir rejects, by name."""
    other = Image.fromarray(smooth(HEIGHT, WIDTH, seed=3))
    pages = {"save_all": True, "append_images": [other, other.rotate(180)]}
    files = {f"frames.{kind.lower()}": encode(COLOR, kind, **pages) for kind in ("PNG", "WEBP", "TIFF")}
    files["animation.png"] = encode(COLOR, "GIF", **pages)
    files["one frame.png"] = encode(COLOR, "GIF")
    files["floats.tif"] = _tiff(RGB.astype(np.float32))
    files["signed.tif"] = _tiff(RGB.astype(np.int16))
    files["empty.png"], files["text.jpg"] = b"", b"no image at all"
    files["huge.png"] = _huge_png(100_000, 100_000)
    files["huge.ppm"] = b"P6 99999 99999 255\n"
    files["zero.ppm"] = b"P6 0 5 255\n"
    whole = {"png": encode(COLOR, "PNG"), "jpg": encode(COLOR, "JPEG"), "webp": encode(COLOR, "WEBP")}
    whole |= {"bmp": encode(COLOR, "BMP"), "ppm": encode(COLOR, "PPM"), "deep.png": _deep(".png", 3)}
    whole |= {f"{name}.tif": encode(COLOR, "TIFF", compression=name) for name in ("raw", "tiff_lzw", "packbits")}
    for suffix, data in whole.items():
        files[f"cut.{suffix}"] = data[: len(data) * 3 // 5]
    sectors = {"png": whole["png"], "lzw.tif": whole["tiff_lzw.tif"], "palette.png": encode(COLOR.quantize(9), "PNG")}
    sectors |= {"deflate.tif": encode(COLOR, "TIFF", compression="tiff_adobe_deflate"), "deep.png": whole["deep.png"]}
    for suffix, data in sectors.items():
        middle = len(data) // 2
        files[f"sector.{suffix}"] = data[:middle] + bytes(64) + data[middle + 64 :]
    return files


def _huge_png(width, height):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
