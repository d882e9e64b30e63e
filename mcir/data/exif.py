r"""Read EXIF blocks, and edit them in place.

Pillow can rewrite a block, but it replaces letters outside ASCII and moves data to which maker notes refer by offset.
The edits in this module move no data. A block is ``Exif\0\0`` and a small TIFF file (CIPA DC-008), which consists of
directories with entries of twelve bytes.
"""

from __future__ import annotations

import struct
import zlib

from PIL import Image
from PIL.ExifTags import IFD, Base

from mcir.data.errors import DataError

RESOLUTION = frozenset({Base.XResolution, Base.YResolution, Base.ResolutionUnit})
TEXTS = frozenset({*range(Base.ImageDescription, Base.Model + 1), Base.Software, Base.DateTime, Base.Artist})
TEXTS |= {Base.Copyright, *range(Base.XPTitle, Base.XPSubject + 1)}
"""Text tags of a TIFF file that describe the photograph, not the layout of the file."""

PNG_EXIF = (b"eXIfII*\0", b"eXIfMM\0*")
"""Starts of the EXIF block in a PNG file; they are found several times as fast as ``eXIf`` alone."""

_PREFIX = b"Exif\0\0"
_LONG = 4


def take_orientation(image: Image.Image) -> int:
    """Return the orientation (1 to 8) of an open image file, 1 if its metadata are damaged.

    After the call, Pillow decodes the image without rotating it.
    """
    try:
        value = Image.Image.getexif(image).pop(Base.Orientation, 1)  # PngImageFile.getexif would decode the whole image
    except Exception:
        return 1
    return value if value in range(1, 9) else 1


def kept_exif(image: Image.Image) -> bytes | None:
    """Return the EXIF block of an open image file without orientation and thumbnail; None if it is damaged."""
    try:
        if image.format != "TIFF":
            return without_orientation(image.info.get("exif") or b"")
        exif = Image.Image.getexif(image)
        kept = TEXTS | {IFD.Exif, IFD.GPSInfo}
        if exif.get(Base.ResolutionUnit) != 1:  # 1 means no unit: the format requires the tag
            kept |= RESOLUTION
        for tag in set(exif) - kept:
            del exif[tag]
        return exif.tobytes() if exif else None
    except Exception:
        return None


def exif_at_end(tail: bytes) -> bytes | None:
    """Return the EXIF block in the last bytes of a PNG file; Pillow finds it only after decoding the samples.

    Raises:
        DataError: the block is damaged, so the orientation is not known.
    """
    at = max(map(tail.rfind, PNG_EXIF))
    if at < 4:
        return None
    size = struct.unpack_from(">I", tail, at - 4)[0]
    chunk, checksum = tail[at : at + 4 + size], tail[at + 4 + size : at + 8 + size]
    if struct.pack(">I", zlib.crc32(chunk)) != checksum:
        raise DataError("truncated or damaged (EXIF differs from its checksum)")
    return chunk[4:]


def without_orientation(block: bytes) -> bytes | None:
    """Remove orientation and thumbnail from an EXIF block; return None for a damaged block."""
    try:
        data, order, first = _parsed(block)
        entries = _entries(data, order, first)
        end = entries.stop
        for start in reversed(entries):
            if struct.unpack_from(order + "H", data, start)[0] == Base.Orientation:
                data[start:end] = data[start + 12 : end] + bytes(12)
                end -= 12
        struct.pack_into(order + "H", data, first, (end - first - 2) // 12)
        struct.pack_into("I", data, end, 0)  # the offset of the directory of the thumbnail
    except (KeyError, struct.error):
        return None
    return _PREFIX + data


def with_size(block: bytes, height: int, width: int) -> bytes:
    """Replace the image size in an EXIF block, if it has one; return a damaged block unchanged."""
    sizes = {Base.ExifImageWidth: width, Base.ExifImageHeight: height}
    try:
        data, order, first = _parsed(block)
        for start in _entries(data, order, first):
            tag, _, _, offset = struct.unpack_from(order + "HHII", data, start)
            for entry in _entries(data, order, offset) if tag == IFD.Exif else ():
                tag = struct.unpack_from(order + "H", data, entry)[0]
                if tag in sizes:
                    struct.pack_into(order + "HII", data, entry + 2, _LONG, 1, sizes[tag])
    except (KeyError, struct.error):
        return block
    return _PREFIX + data


def _parsed(block: bytes) -> tuple[bytearray, str, int]:
    """Return the bytes of a block without its prefix, the byte order, and the offset of the first directory."""
    data = bytearray(block.removeprefix(_PREFIX))
    order = {b"II": "<", b"MM": ">"}[bytes(data[:2])]
    return data, order, struct.unpack_from(order + "I", data, 4)[0]


def _entries(data: bytearray, order: str, directory: int) -> range:
    """Return the offsets of the entries of a directory."""
    count = struct.unpack_from(order + "H", data, directory)[0]
    return range(directory + 2, directory + 2 + 12 * count, 12)
