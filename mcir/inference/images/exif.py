r"""EXIF blocks: what the pixels now say themselves is taken out, the rest stays as the camera wrote it.

A block is a small TIFF file behind ``Exif\0\0`` (CIPA DC-008): directories of entries of twelve bytes, which point to
each other by their distance from the start. Nothing that is pointed to moves here, so maker notes stay readable.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from PIL import Image

ORIENTATION, DIRECTORY, GPS = 0x0112, 0x8769, 0x8825
_START = b"Exif\0\0"
_INTEROPERABILITY, _WIDTH, _HEIGHT = 0xA005, 0xA002, 0xA003
_LONG = 4
_DESCRIPTIONS = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432, 40091, 40092, 40093, 40094, 40095)


def upright(exif: bytes | None) -> bytes | None:
    """Return a block without orientation and thumbnail, which is not the restored picture's; None if it is damaged."""
    if not exif:
        return None
    try:
        block = Block(exif)
        for at, tag in reversed(list(block.entries(block.first))):
            if tag == ORIENTATION:
                end = block.end(block.first)
                block.data[at : end - 12] = block.data[at + 12 : end]
                block.put("H", block.first, block.number("H", block.first) - 1)
                block.data[end - 12 : end + 4] = bytes(16)
        block.put("I", block.end(block.first), 0)
    except (KeyError, struct.error):
        return None
    return _START + bytes(block.data)


def sized(exif: bytes, height: int, width: int) -> bytes:
    """Return a block whose notes of the picture's size, where it has them, are true; a damaged one as it is."""
    sizes = {_HEIGHT: height, _WIDTH: width}
    try:
        block = Block(exif)
        for directory in [block.number("I", at + 8) for at, tag in block.entries(block.first) if tag == DIRECTORY]:
            for at, tag in block.entries(directory):
                if tag in sizes:
                    block.put("HII", at + 2, _LONG, 1, sizes[tag])
    except (KeyError, struct.error):
        return exif
    return _START + bytes(block.data)


def descriptions(exif: Image.Exif) -> dict[int, Any]:
    """Return what tells of the photograph, not of how its file is built: tag to value, directories as mappings."""
    told: dict[int, Any] = {tag: exif[tag] for tag in _DESCRIPTIONS if tag in exif}
    for tag in (DIRECTORY, GPS):
        if found := dict(exif.get_ifd(tag)):
            told[tag] = found
            if _INTEROPERABILITY in found:
                found[_INTEROPERABILITY] = dict(exif.get_ifd(_INTEROPERABILITY))
    return told


class Block:
    """The bytes of a block, or of the start of a TIFF file, and how to find one's way in them.

    Args:
        exif: the bytes, with or without ``Exif`` before them.

    Raises:
        KeyError: another beginning.
        struct.error: it ends too soon.
    """

    def __init__(self, exif: bytes) -> None:
        self.data = bytearray(exif.removeprefix(_START))
        self.order = {b"II": "<", b"MM": ">"}[bytes(self.data[:2])]
        self.first = self.number("I", 4)

    def number(self, kind: str, at: int) -> int:
        """Return a number of :mod:`struct`'s kind."""
        return int(struct.unpack_from(self.order + kind, self.data, at)[0])

    def put(self, kind: str, at: int, *values: int) -> None:
        """Set numbers of :mod:`struct`'s kinds."""
        struct.pack_into(self.order + kind, self.data, at, *values)

    def end(self, directory: int) -> int:
        """Return where the entries end and the way to the next directory stands."""
        return directory + 2 + 12 * self.number("H", directory)

    def entries(self, directory: int) -> Iterator[tuple[int, int]]:
        """Give place and tag of each entry."""
        return ((at, self.number("H", at)) for at in range(directory + 2, self.end(directory), 12))
