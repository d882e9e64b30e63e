"""Picture files written from top to bottom, so that a large picture is not copied.

PNG is written here because nothing at hand writes 16 bits with a profile and EXIF.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from mcir.data.codec import Array
from mcir.inference.images import tiff
from mcir.inference.images.image import Picture

_LEVEL = 4

TO_8_BITS = "with_bits(picture, 8)"
"""The way out for a picture whose samples are too deep."""

_DEEP, _ALPHA, _DEEP_GREY_ALPHA = "16 bits a sample", "transparency", "16 bit grey with transparency"
_ICC, _EXIF, _COLOUR = "an ICC profile", "EXIF", "colours"
_WAYS_OUT = {
    _DEEP: TO_8_BITS,
    _DEEP_GREY_ALPHA: TO_8_BITS,
    _ALPHA: "replace(picture, alpha=None)",
    _ICC: "replace(picture, icc=None)",
    _EXIF: "replace(picture, exif=None)",
}


class Refusal(NamedTuple):
    """Why a format cannot hold a picture, with the formats that can; and what makes a picture of it that fits.

    All of ``ways_out`` have to be gone together; where there are none, nothing helps.
    """

    reason: str
    ways_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoder:
    """A format: how to write it, and what it cannot hold.

    Attributes:
        name: of the format.
        write: writes a picture, at a quality, to a stream that is open for reading and writing.
        lacks: what of a picture it has no place for.
        side: the most rows or columns.
    """

    name: str
    write: Callable[[BinaryIO, Picture, int], None]
    lacks: frozenset[str] = frozenset()
    side: int = 2**31 - 1

    def refusal(self, picture: Picture) -> Refusal | None:
        """Return why a picture cannot be written; None if it can."""
        if max(picture.height, picture.width) > self.side:
            size = f"{picture.height}×{picture.width}"
            return Refusal(f"a {self.name} file has at most {self.side} rows and columns, not {size}")
        traits = _traits(picture)
        if not (missing := [trait for trait in traits if trait in self.lacks]):
            return None
        others = dict.fromkeys(encoder.name for encoder in ENCODERS.values() if encoder.lacks.isdisjoint(traits))
        reason = f"a {self.name} file cannot hold {' and '.join(missing)}; write {' or '.join(others)}"
        return Refusal(reason, tuple(_WAYS_OUT[trait] for trait in missing if trait in _WAYS_OUT))


def _traits(picture: Picture) -> list[str]:
    is_deep, has_alpha, is_grey = picture.bits == 16, picture.alpha is not None, picture.channels == 1
    traits = {
        _DEEP: is_deep,
        _ALPHA: has_alpha,
        _DEEP_GREY_ALPHA: is_deep and has_alpha and is_grey,
        _ICC: picture.icc,
        _EXIF: picture.exif,
        _COLOUR: not is_grey,
    }
    return [name for name, holds in traits.items() if holds]


def _write_png(stream: BinaryIO, picture: Picture, quality: int) -> None:
    """Write a PNG file (W3C, third edition), each row behind the filter that leaves the smallest differences."""
    kind = (0 if picture.channels == 1 else 2) + (4 if picture.alpha is not None else 0)
    stream.write(b"\x89PNG\r\n\x1a\n")
    _chunk(stream, b"IHDR", struct.pack(">IIBBBBB", picture.width, picture.height, picture.bits, kind, 0, 0, 0))
    if picture.icc:
        _chunk(stream, b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.icc))
    if picture.exif:
        _chunk(stream, b"eXIf", picture.exif.removeprefix(b"Exif\0\0"))
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)
    step = picture.row_bytes // picture.width
    above = np.zeros((1, picture.row_bytes + step), np.uint8)
    for band in picture.bands():
        rows = band.astype(band.dtype.newbyteorder(">"), copy=False).view(np.uint8).reshape(len(band), -1)
        padded = np.concatenate((above, np.pad(rows, ((0, 0), (step, 0)))))
        if packed := packer.compress(_filtered(padded, step).data):
            _chunk(stream, b"IDAT", packed)
        above = padded[-1:]
    _chunk(stream, b"IDAT", packer.flush())
    _chunk(stream, b"IEND", b"")


def _chunk(stream: BinaryIO, name: bytes, data: bytes) -> None:
    stream.write(struct.pack(">I", len(data)) + name)
    stream.write(data)
    stream.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(name))))


def _filtered(rows: Array, step: int) -> Array:
    """Return n of n + 1 rows, which begin with a pixel of zeros, as differences behind the number of their filter."""
    here, left, up, corner = rows[1:, step:], rows[1:, :-step], rows[:-1, step:], rows[:-1, :-step]
    candidates = [(1, here - left), (2, here - up), (4, here - _paeth(left, up, corner))]
    costs = np.stack(
        [np.abs(rest.view(np.int8)).astype(np.uint8).sum(axis=1, dtype=np.int64) for _, rest in candidates]
    )
    best = costs.argmin(axis=0)
    result = np.empty((len(here), here.shape[1] + 1), np.uint8)
    for index, (number, rest) in enumerate(candidates):
        chosen = best == index
        result[chosen, 0] = number
        result[chosen, 1:] = rest[chosen]
    return result


def _paeth(left: Array, up: Array, corner: Array) -> Array:
    """Return the neighbour that is nearest to left + up - corner, the earlier one of equals."""
    to_left = np.abs(up.astype(np.int16) - corner)
    to_up = np.abs(left.astype(np.int16) - corner)
    to_corner = np.abs(left.astype(np.int16) + up - corner - corner)
    return np.where((to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner))


def _write_tiff(stream: BinaryIO, picture: Picture, quality: int) -> None:
    """Write a TIFF file."""
    tiff.write(stream, picture, _LEVEL)


def _write_pnm(stream: BinaryIO, picture: Picture, quality: int) -> None:
    """Write a binary PGM or PPM file."""
    kind = 5 if picture.channels == 1 else 6
    stream.write(b"P%d\n%d %d\n%d\n" % (kind, picture.width, picture.height, 2**picture.bits - 1))
    for band in picture.bands():
        stream.write(band.astype(band.dtype.newbyteorder(">"), copy=False).data)


def _write_bmp(stream: BinaryIO, picture: Picture, quality: int) -> None:
    """Write a BMP file: rows from the last to the first, each filled up to four bytes."""
    colours = b"".join(bytes((grey, grey, grey, 0)) for grey in range(256)) if picture.channels == 1 else b""
    row = -(-picture.row_bytes // 4) * 4
    start, size = 54 + len(colours), row * picture.height
    stream.write(struct.pack("<2sIII", b"BM", start + size, 0, start))
    header = (40, picture.width, picture.height, 1, 8 * picture.channels, 0, size, 0, 0, len(colours) // 4, 0)
    stream.write(struct.pack("<IiiHHIIiiII", *header) + colours)
    for band in replace(picture, pixels=picture.pixels[::-1]).bands():
        lines = np.zeros((len(band), row), np.uint8)
        lines[:, : picture.row_bytes] = band[:, :, ::-1].reshape(len(band), -1)
        stream.write(lines.data)


def _write_jpeg(stream: BinaryIO, picture: Picture, quality: int) -> None:
    notes = {"icc_profile": picture.icc, "exif": picture.exif or b""}
    _to_pillow(picture).save(stream, "JPEG", quality=quality, subsampling=0, **notes)


def _write_webp(stream: BinaryIO, picture: Picture, quality: int) -> None:
    notes = {"icc_profile": picture.icc or b"", "exif": picture.exif or b""}
    _to_pillow(picture).save(stream, "WEBP", quality=quality, lossless=quality == 100, exact=True, **notes)


def _to_pillow(picture: Picture) -> Image.Image:
    samples = picture.pixels if picture.alpha is None else np.dstack((picture.pixels, picture.alpha))
    return Image.fromarray(samples[:, :, 0] if samples.shape[2] == 1 else samples)


_JPEG = Encoder("JPEG", _write_jpeg, frozenset({_DEEP, _ALPHA}), side=65500)
_TIFF = Encoder("TIFF", _write_tiff, frozenset({_DEEP_GREY_ALPHA}))  # which hardly any program reads
_PNM = Encoder("PPM", _write_pnm, frozenset({_ALPHA, _ICC, _EXIF}))

ENCODERS = {
    ".png": Encoder("PNG", _write_png),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": Encoder("WebP", _write_webp, frozenset({_DEEP}), side=16383),
    ".bmp": Encoder("BMP", _write_bmp, frozenset({_DEEP, _ALPHA, _ICC, _EXIF})),
    ".ppm": _PNM,
    ".pnm": _PNM,
    ".pgm": Encoder("PGM", _write_pnm, _PNM.lacks | {_COLOUR}),
}
"""How pictures are written, by the suffix of their file."""
