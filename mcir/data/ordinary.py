"""Read ordinary PNG and JPEG files, which need none of the rules in ``reader``.

Most training images are ordinary: 8 bits per sample, grey or RGB, and no EXIF, transparency or further frames. They are
recognized by a few bytes, because after each decoded image Python code is several times as slow as usual. This is a
shortcut: ``reader`` reads the same samples from these files.
"""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np

from mcir.data.codec import Array, ImageInfo
from mcir.data.exif import PNG_EXIF
from mcir.data.limits import max_pixels
from mcir.data.transforms import Window, crop_image

HEAD, TAIL = 2**12, 2**16
"""Number of bytes at the start and at the end of a file that are needed."""

PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"

_LARGEST = 2**26  # pixels; larger images are not ordinary, so that limits and memory are checked
_PLAIN_CHUNKS = frozenset({b"IHDR", b"gAMA", b"sRGB", b"cHRM", b"pHYs", b"sBIT", b"bKGD", b"tIME"})
_GREY, _RGB = 0, 2
_SCAN, _FRAMES = 0xDA, (0xC0, 0xC1, 0xC2)
_PLAIN_SEGMENTS = frozenset({0xE0, 0xDB, 0xC4, 0xDD, 0xFE})  # JFIF, tables, restart interval, comment


def ordinary_info(head: bytes, tail: bytes) -> ImageInfo | None:
    """Return the header of an ordinary file; None for all others, also for damaged ones.

    Args:
        head: first bytes of the file.
        tail: last bytes of the file, which may overlap.
    """
    if head.startswith(PNG_START):
        if not tail.endswith(PNG_END) or max(map(tail.rfind, PNG_EXIF)) >= 0:
            return None
        info, _ = _png_header(head)
    else:
        info = _jpeg_info(head, tail)
    return info


def decode_ordinary(data: bytes | memoryview, window: Window | None) -> Array | None:
    """Return an image or a part of it, (H, W, 1 or 3), uint8; None if the file is not ordinary, or is damaged."""
    head = bytes(data[:HEAD])
    if head.startswith(PNG_START):
        info, position = _png_header(head)
        while data[position + 4 : position + 8] == b"IDAT":  # OpenCV would allocate any size that a chunk states
            position += 12 + int.from_bytes(data[position : position + 4], "big")
        if data[position:] != PNG_END:
            return None
    else:
        info = _jpeg_info(head, bytes(data[-len(JPEG_END) :]))
    if info is None:
        return None
    try:
        samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if samples is None or samples.shape != (info[:3] if info.channels == 3 else info[:2]):
        return None
    if window is not None:
        samples = crop_image(samples, window)
    if info.channels == 3:
        rgb: Array = cv2.cvtColor(samples, cv2.COLOR_BGR2RGB)
        return rgb
    return np.ascontiguousarray(samples)[:, :, None]


def _png_header(head: bytes) -> tuple[ImageInfo | None, int]:
    """Return the header of a PNG file, and the position of its samples."""
    position, name = len(PNG_START), head[12:16]
    while name in _PLAIN_CHUNKS:
        end = position + 8 + int.from_bytes(head[position : position + 4], "big")
        if zlib.crc32(head[position + 4 : end]) != int.from_bytes(head[end : end + 4], "big"):
            return None, position
        position, name = end + 4, head[end + 8 : end + 12]
    if name != b"IDAT" or head[12:16] != b"IHDR":
        return None, position
    width, height, depth, kind = struct.unpack_from(">IIBB", head, 16)
    is_ordinary = depth == 8 and kind in (_GREY, _RGB) and _is_small(height, width)
    return ImageInfo(height, width, 1 if kind == _GREY else 3, 8) if is_ordinary else None, position


def _jpeg_info(head: bytes, tail: bytes) -> ImageInfo | None:
    if not (head.startswith(JPEG_START) and tail.endswith(JPEG_END)):
        return None
    info, position = None, len(JPEG_START)
    while len(head) > position + 9 and head[position] == 0xFF:
        marker = head[position + 1]
        if marker == _SCAN:
            return info
        if marker in _FRAMES:
            depth, height, width, channels = struct.unpack_from(">BHHB", head, position + 4)
            if depth != 8 or channels not in (1, 3) or not _is_small(height, width):
                return None
            info = ImageInfo(height, width, channels, 8)
        elif marker not in _PLAIN_SEGMENTS:
            return None
        position += 2 + int.from_bytes(head[position + 2 : position + 4], "big")
    return None


def _is_small(height: int, width: int) -> bool:
    return 0 < height * width <= min(_LARGEST, max_pixels())
