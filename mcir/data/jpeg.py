"""Find damage in JPEG files, which have no checksums.

The code of a JPEG file is a chain of words of different lengths, so a damaged byte shifts all words behind it. Then the
code ends before the last block, or the last block ends before the code. libjpeg only warns about both, and Pillow and
OpenCV hide the warning. Changes of the code around its end show which bytes are used.
"""

from __future__ import annotations

import io
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

from mcir.data.codec import Array
from mcir.data.errors import DataError

_MARKER = re.compile(rb"\xff+[\x01-\xfe]")  # 0xFF in the code is followed by 0
_PROGRESSIVE, _TABLES, _RESTART, _RESTARTS, _END, _SCAN = 0xC2, 0xC4, 0xD0, 8, 0xD9, 0xDA
_ZEROS = bytes(64)
_ADDED_BYTES, _CHANGED_BYTES, _ATTEMPTS = 64, 8, 3


class _Code(NamedTuple):
    """A part of the code: its position, and whether a restart marker follows it."""

    start: int
    end: int
    has_restart: bool


def check_jpeg(data: bytes) -> None:
    """Check that no scan of a JPEG file ends before its last block, and that the first one ends with it.

    Damage that does not change the length of the code by some bytes is not found, as that of most single bits.

    Raises:
        DataError: the file is damaged. The message does not name the file.
    """
    parts, can_be_zero = _parts_of_code(data)
    if not can_be_zero and any(data.find(_ZEROS, start, end) >= 0 for start, end, _ in parts):
        raise DataError("damaged: the data of the JPEG file contain a sequence of zeros")
    expected = _decoded(data)
    generator = np.random.default_rng(0)
    longer, position = io.BytesIO(), 0
    for _, end, _ in parts:
        longer.write(data[position:end] + _noise(generator, _ADDED_BYTES))
        position = end
    if not _equals(longer.getvalue() + data[position:], expected):
        raise DataError("damaged: the data of the JPEG file end before its last block")
    if expected.min() == expected.max():  # the tables may contain nothing but the code of an empty block
        return
    first = next((part for part in parts if not part.has_restart), None)  # later scans may have no visible effect
    if first is None:
        raise DataError("damaged: the JPEG file has no complete scan")
    start, end, _ = first
    changes = [_noise(generator, _CHANGED_BYTES) for _ in range(_ATTEMPTS)] + [b""]
    is_unused = all(_equals(data[: end - _CHANGED_BYTES] + changed + data[end:], expected) for changed in changes)
    if is_unused and end - start >= 2 * _CHANGED_BYTES:
        raise DataError("damaged: the last block of the JPEG file ends before its data")


def _parts_of_code(data: bytes) -> tuple[list[_Code], bool]:
    """Return the parts of the code between markers, and whether the code may contain long sequences of zeros.

    Raises:
        DataError: restart markers are missing, or their order is wrong.
    """
    parts: list[_Code] = []
    position, start, restarts, is_progressive, can_be_zero = 2, None, 0, False, True
    while found := _MARKER.search(data, position):
        marker, position = data[found.end() - 1], found.end()
        is_restart = _RESTART <= marker < _RESTART + _RESTARTS
        if start is not None:
            parts.append(_Code(start, found.start(), is_restart))
        if is_restart:
            if marker != _RESTART + restarts % _RESTARTS:
                raise DataError("damaged: restart markers of the JPEG file are missing")
            start, restarts = position, restarts + 1
        elif marker == _END:
            break
        else:
            end = position + int.from_bytes(data[position : position + 2], "big")
            is_progressive |= marker == _PROGRESSIVE
            if marker == _TABLES:
                can_be_zero &= _has_flat_zeros(data[position + 2 : end])
            position = end
            start, restarts = position if marker == _SCAN else None, 0
    return parts, can_be_zero or is_progressive  # later scans contain bits without words


def _has_flat_zeros(tables: bytes) -> bool:
    """Return whether zeros mean flat blocks, or a block with every frequency, which no image has many times.

    Args:
        tables: Huffman tables: class, 16 numbers of words, and the symbols, of which the first has a word of zeros.
    """
    while len(tables) > 17:
        is_for_frequencies, first_size = tables[0] >> 4, tables[17] & 15
        if is_for_frequencies and first_size:
            return False
        tables = tables[17 + sum(tables[1:17]) :]
    return True


def _noise(generator: np.random.Generator, count: int) -> bytes:
    """Return random bytes that contain no marker."""
    return generator.bytes(count).replace(b"\xff", b"\x5a")


def _decoded(data: bytes) -> Array:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        decoded: Array = np.asarray(image)
        return decoded


def _equals(data: bytes, expected: Array) -> bool:
    """Return whether a file can be decoded to the expected samples."""
    try:
        return np.array_equal(_decoded(data), expected)
    except OSError:
        return False
