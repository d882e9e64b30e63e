"""TIFF files as photographers have them: 8 and 16 bit, in strips or tiles, a little at a time.

Pillow keeps 8 bits of a colour; OpenCV mixes up planes, multiplies colours by alpha and takes damage for picture. So
the samples are cut out here (TIFF 6.0, Adobe 1992), and only the unpacking is left to Pillow's libtiff.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from itertools import accumulate, product
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from mcir.data.codec import Array
from mcir.data.errors import DataError
from mcir.inference.images.exif import Block, descriptions
from mcir.inference.images.image import Picture, PictureError, row_bands

MULTIPLIED = 1
"""The kind of alpha by which the colours are multiplied."""

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_FILL_ORDER, _STRIPS, _SAMPLES, _STRIP_ROWS, _STRIP_SIZES, _PLANAR, _PREDICTOR = 266, 273, 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_SIZES, _EXTRA, _FORMAT, _ICC = 322, 323, 324, 325, 338, 339, 34675
_NONE, _DEFLATE, _LONG = 1, 8, 4
_REDUCED, _UNSPECIFIED, _APART = 1, 0, 2
_LARGEST_TILE = 4096  # pixels a side, where the picture has fewer
_BYTEWISE = frozenset({_NONE, 5, _DEFLATE, 32773, 32946, 34925, 50000})  # LZW, deflate, PackBits, LZMA, Zstandard


def is_plain(tags: Any) -> bool:
    """Say whether :func:`read` knows the kind: grey or RGB in whole bytes, packed without loss."""
    return (
        tags.get(_PHOTOMETRIC) in (0, 1, 2)
        and set(np.atleast_1d(tags.get(_BITS, 1)).tolist()) in ({8}, {16})
        and set(np.atleast_1d(tags.get(_FORMAT, 1)).tolist()) == {1}
        and tags.get(_COMPRESSION, _NONE) in _BYTEWISE
        and tags.get(_PREDICTOR, 1) in (1, 2)
        and tags.get(_FILL_ORDER, 1) == 1
        and (_STRIP_SIZES in tags or _TILE_SIZES in tags)
    )


def stored_size(tags: Any) -> tuple[int, int]:
    """Return height and width as stored."""
    return int(tags[_HEIGHT]), int(tags[_WIDTH])


def alpha_kind(tags: Any) -> int | None:
    """Return what the first channel after the colours is, 1 (:data:`MULTIPLIED`) or 2; None where it is no alpha."""
    count = tags.get(_SAMPLES, 1) - (3 if tags[_PHOTOMETRIC] == 2 else 1)
    kind = int(np.atleast_1d(tags.get(_EXTRA, _APART))[0])
    return kind if count > 0 and kind != _UNSPECIFIED else None


def samples(stream: BinaryIO) -> str | None:
    """Return what a file that Pillow does not know consists of, for a message; None if it is no TIFF file."""
    try:
        stream.seek(0)
        head = stream.read(16)
        tags = ImageFileDirectory_v2(head if 43 in head[2:4] else head[:8])
        stream.seek(tags.next)
        tags.load(stream)
        bits = " + ".join(str(bits) for bits in np.atleast_1d(tags[_BITS]))
    except Exception:
        return None
    kinds = {1: "integer", 2: "signed integer", 3: "floating-point"}
    return f"{bits} bit {kinds.get(int(np.atleast_1d(tags.get(_FORMAT, 1))[0]), 'other')} samples"


def pages(image: Any, count: int) -> int:
    """Return how many of the pages are no smaller copies of the first; the image is at its first again."""
    found = 1
    for index in range(1, count):
        image.seek(index)
        found += not image.tag_v2.get(_SUBFILE, 0) & _REDUCED
    image.seek(0)
    return found


def read(stream: BinaryIO, tags: Any) -> Array:
    """Return the samples (H, W, all channels) of a plain file as they lie in it, black at 0.

    Raises:
        DataError: it is damaged.
    """
    (height, width), channels = stored_size(tags), int(tags.get(_SAMPLES, 1))
    planes = channels if tags.get(_PLANAR, 1) == 2 else 1
    depth = channels // planes
    stored = np.dtype(np.uint8 if set(np.atleast_1d(tags[_BITS]).tolist()) == {8} else np.uint16)
    kind = stored.newbyteorder("<" if tags.prefix == b"II" else ">")
    compression = tags.get(_COMPRESSION, _NONE)
    is_tiled = _TILES in tags
    rows, columns = (tags[_TILE_HEIGHT], tags[_TILE_WIDTH]) if is_tiled else (tags.get(_STRIP_ROWS, height), width)
    offsets, sizes = (tags[_TILES], tags[_TILE_SIZES]) if is_tiled else (tags[_STRIPS], tags[_STRIP_SIZES])
    parts = range(planes), range(0, height, rows), range(0, width, columns)
    if not math.prod(map(len, parts)) == len(offsets) == len(sizes):
        raise DataError("damaged: parts of the picture are missing")
    if is_tiled and (rows > max(height, _LARGEST_TILE) or columns > max(width, _LARGEST_TILE)):
        raise DataError(f"damaged: tiles of {columns}×{rows} for a picture of {width}×{height}")
    row_bytes = columns * depth * stored.itemsize
    end = stream.seek(0, io.SEEK_END)
    result = np.empty((height, width, channels), stored)
    for (plane, top, left), offset, size in zip(product(*parts), offsets, sizes, strict=True):
        count = rows if is_tiled else min(rows, height - top)
        if offset + (count * row_bytes if compression == _NONE else size) > end:
            raise DataError("truncated")
        for cut in row_bands(count, row_bytes) if compression == _NONE else [slice(0, count)]:
            here = cut.stop - cut.start
            stream.seek(offset + cut.start * row_bytes)
            if compression == _NONE:
                data = stream.read(here * row_bytes)
            else:
                data = _unpacked(stream.read(size), row_bytes, here, compression)
            part = np.frombuffer(data, kind, here * columns * depth).reshape(here, columns, depth)
            if tags.get(_PREDICTOR, 1) == 2:
                part = np.cumsum(part, axis=1, dtype=stored)
            place = result[top + cut.start : top + cut.stop, left : left + columns, plane : plane + depth]
            place[:] = part[: place.shape[0], : place.shape[1]]
    if tags[_PHOTOMETRIC] == 0:
        np.invert(result[:, :, 0], out=result[:, :, 0])
    return result


def _unpacked(data: bytes, row_bytes: int, rows: int, compression: int) -> bytes:
    """Return the bytes of a strip: to libtiff it is a grey picture of bytes, whatever they mean."""
    strip = _directory({_WIDTH: row_bytes, _HEIGHT: rows, _BITS: 8, _COMPRESSION: compression, _PHOTOMETRIC: 1})
    strip[_STRIPS], strip[_STRIP_ROWS], strip[_STRIP_SIZES] = 0, rows, len(data)
    with TiffImageFile(io.BytesIO(_head(strip) + data)) as image:
        return image.tobytes()


def write(stream: BinaryIO, picture: Picture, level: int) -> None:
    """Write a picture in deflated strips, with the horizontal predictor.

    Raises:
        PictureError: it needs more than the 4 GiB of a TIFF file.
    """
    has_alpha = picture.alpha is not None
    channels = picture.channels + has_alpha
    directory = _directory(
        {
            _WIDTH: picture.width,
            _HEIGHT: picture.height,
            _BITS: (picture.bits,) * channels,
            _COMPRESSION: _DEFLATE,
            _PHOTOMETRIC: 1 if picture.channels == 1 else 2,
            _SAMPLES: channels,
            _STRIP_ROWS: next(iter(row_bands(picture.height, picture.row_bytes))).stop,
            _PREDICTOR: 2,
            **({_EXTRA: _APART} if has_alpha else {}),
            **({_ICC: picture.icc} if picture.icc else {}),
        }
    )
    if picture.exif:
        exif = Image.Exif()
        exif.load(picture.exif)
        for tag, value in descriptions(exif).items():
            directory[tag] = value
    directory[_STRIPS] = directory[_STRIP_SIZES] = 0
    head = Block(_head(directory))
    stream.write(head.data)
    sizes = []
    for band in picture.bands():
        band[:, 1:] -= band[:, :-1]
        sizes.append(stream.write(zlib.compress(band.astype(band.dtype.newbyteorder("<"), copy=False).data, level)))
    stream.write(bytes(stream.tell() % 2))
    tables = {_STRIPS: list(accumulate(sizes[:-1], initial=len(head.data))), _STRIP_SIZES: sizes}
    if stream.tell() + 8 * len(sizes) >= 2**32:
        raise PictureError("a TIFF file holds at most 4 GiB, and this picture is larger; a PNG file can hold it")
    for at, tag in head.entries(head.first):
        if table := tables.get(tag):
            head.put("HII", at + 2, _LONG, len(table), table[0] if len(table) == 1 else stream.tell())
            stream.write(struct.pack(f"<{len(table)}I", *table) if len(table) > 1 else b"")
    stream.seek(0)
    stream.write(head.data)


def described(known: Image.Exif) -> bytes | None:
    """Return what the tags of a TIFF file tell of the photograph, as an EXIF block."""
    told = Image.Exif()
    told.update(descriptions(known))
    return told.tobytes() if len(told) else None


def _directory(values: dict[int, Any]) -> ImageFileDirectory_v2:
    directory = ImageFileDirectory_v2(prefix=b"II")
    for tag, value in values.items():
        directory[tag] = value
    return directory


def _head(directory: ImageFileDirectory_v2) -> bytes:
    """Return the start of a file; Pillow counts the offset of a strip from its end."""
    return struct.pack("<2sHI", b"II", 42, 8) + directory.tobytes(8)
