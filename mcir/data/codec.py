"""Decode and encode image files: RGB order, 8 or 16 bits as stored, without alpha; damaged files are detected.

An image is a numpy array (H, W, C), C = 1 (grey) or 3 (RGB), uint8 or uint16. An alpha channel is dropped; the colours
of transparent pixels stay as they are in the file.
"""

from __future__ import annotations

import io
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from mcir.data.errors import DataError
from mcir.data.transforms import Window, crop_image
from mcir.device import memory_available

Array: TypeAlias = npt.NDArray[Any]
"""An image (H, W, C), uint8 or uint16."""

_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_TAIL = 4096
_GAP = rb"(?:\s|#[^\n]*\n)+"
_PNM_START = re.compile(rb"P[56]" + _GAP + rb"\d+" + _GAP + rb"\d+" + _GAP + rb"(\d+)\s")
_GRAY_MODES = frozenset({"1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I"})
_COLOR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"})
_TIFF_BITS, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT = 258, 322, 323
_lock = threading.Lock()
_limits: list[int | None] = []

_UNCHECKED_BYTES = 2**28  # for smaller images the available memory is not checked
_ANY_FILE_BYTES = 2**30  # allowed for any file: a WebP file of a few bytes can be a large image of one colour
_LARGEST_RATIO = 2**17  # decoded bytes per byte of a file, more than in any real file


class ImageInfo(NamedTuple):
    """Size of an image, its number of channels without alpha (1 or 3) and its bits per sample (8 or 16)."""

    height: int
    width: int
    channels: int
    bits: int


def info_of(image: Array) -> ImageInfo:
    """Return the size, channels and bits of a decoded image (H, W, C)."""
    height, width, channels = image.shape
    return ImageInfo(height, width, channels, image.dtype.itemsize * 8)


def probe(stream: BinaryIO) -> ImageInfo:
    """Read the header of an image file and check for truncation, without decoding the image.

    Raises:
        DataError: the file is not an image, is truncated, has an unsupported format, or claims a size that does not fit
            into memory. The message does not name the file.
    """
    start = stream.read(33)
    size = stream.seek(0, io.SEEK_END)
    if size == 0:
        raise DataError("the file is empty")
    stream.seek(max(0, size - _TAIL))
    tail = stream.read()
    if start.startswith(_PNG_START) and len(start) == 33:  # Pillow does not report 16-bit colours
        width, height, depth, color_type = struct.unpack(">IIBB", start[16:26])
        info = ImageInfo(height, width, 1 if color_type in (0, 4) else 3, 16 if depth == 16 else 8)
        _check_memory(info, size)
        if _PNG_END not in tail:
            decode_fully(stream)
        return info
    stream.seek(0)
    try:
        with no_size_limit(), Image.open(stream) as image:
            mode, (height, width) = image.mode, decoded_size(image)
            bits = _bits(image, stream)
            info = ImageInfo(image.height, image.width, 1 if mode in _GRAY_MODES else 3, bits)
    except UnidentifiedImageError as error:
        raise DataError("not an image of a known format") from error
    except Exception as error:
        raise DataError(f"not a readable image ({error})") from error
    if (mode not in _GRAY_MODES and mode not in _COLOR_MODES) or bits not in (8, 16):
        raise DataError(f"expected a grey or colour image of 8 or 16 bits, got mode {mode} with {bits} bits per sample")
    _check_memory(info._replace(height=height, width=width), size)
    if start.startswith(_JPEG_START) and _JPEG_END not in tail:
        decode_fully(stream)
    return info


def decoded_size(image: Image.Image) -> tuple[int, int]:
    """Return the height and width that a decoder allocates; a TIFF tile may be larger than its image."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    return max(image.height, tags.get(_TIFF_TILE_HEIGHT, 0)), max(image.width, tags.get(_TIFF_TILE_WIDTH, 0))


def _check_memory(info: ImageInfo, file_size: int) -> None:
    """Check the size that a header claims before a decoder allocates memory for it."""
    claimed = info.height * info.width * info.channels * info.bits // 8
    if claimed <= _UNCHECKED_BYTES:
        return
    limit = min(memory_available(), max(_ANY_FILE_BYTES, file_size * _LARGEST_RATIO))
    if claimed > limit:
        raise DataError(
            f"expected at most {limit / 2**30:.1f} GiB of samples, for the available memory and a file of "
            f"{file_size:,} bytes, got {claimed / 2**30:,.1f} GiB in the header ({info.width}×{info.height} pixels)"
        )


@contextmanager
def no_size_limit() -> Iterator[None]:
    """Disable Pillow's limit on image sizes, which protects servers; here users open their own files."""
    with _lock:
        _limits.append(Image.MAX_IMAGE_PIXELS)  # None if another thread has disabled the limit already
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _lock:
            Image.MAX_IMAGE_PIXELS = _limits.pop()


def pnm_header(stream: BinaryIO) -> tuple[int, int] | None:
    """Return the maximum value of a binary PGM or PPM file and the offset of its samples; None for other files."""
    stream.seek(0)
    found = _PNM_START.match(stream.read(_TAIL))
    return None if found is None else (int(found[1]), found.end())


def _bits(image: Image.Image, stream: BinaryIO) -> int:
    """Return the bits per sample, which Pillow's mode does not contain for colour images."""
    if image.format == "PPM" and (start := pnm_header(stream)):
        return 16 if start[0] > 255 else 8
    if image.format == "TIFF":
        bits = int(max(np.atleast_1d(image.tag_v2.get(_TIFF_BITS, 1))))  # type: ignore[attr-defined]
        return 8 if bits <= 8 else bits
    return 16 if image.mode.startswith("I") else 8


def decode_fully(stream: BinaryIO) -> None:
    """Decode a file with Pillow, which detects truncated data and wrong PNG checksums."""
    stream.seek(0)
    try:
        with no_size_limit(), Image.open(stream) as image:
            image.load()
    except Exception as error:
        raise DataError(f"truncated or damaged ({error})") from error


def decode(data: bytes | memoryview, name: str, window: Window | None = None) -> Array:
    """Decode an image file in memory.

    Args:
        data: content of the file.
        name: name of the file, for the message.
        window: part to return; None: the full image.

    Returns:
        (H, W, C), C = 1 or 3 (RGB), uint8 or uint16.

    Raises:
        DataError: the data are not an image, or are truncated.
    """
    if data[:2] == _JPEG_START and _JPEG_END not in bytes(data[-_TAIL:]):
        _check_header(data, name)  # some versions of OpenCV fill the missing part of a JPEG with grey, without an error
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if len(data) else None
    if image is None or image.dtype not in (np.uint8, np.uint16):
        _check_header(data, name)
        raise DataError(f"{name}: cannot be decoded")
    if window is not None:
        image = crop_image(image, window)
    if image.ndim == 2:
        return np.ascontiguousarray(image)[:, :, None]
    if image.shape[2] < 3:
        return np.ascontiguousarray(image[:, :, :1])
    rgb: Array = cv2.cvtColor(image, cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    if image.shape[2] == 4 and probe(io.BytesIO(data)).channels == 1:  # OpenCV decodes grey with alpha as BGRA
        return np.ascontiguousarray(rgb[:, :, :1])
    return rgb


def check_image(data: bytes | memoryview) -> None:
    """Check an image file for damage by decoding all of it with Pillow and with OpenCV.

    Raises:
        DataError: the file is damaged. The message does not name the file.
    """
    probe(io.BytesIO(data))
    decode_fully(io.BytesIO(data))
    decode(data, "OpenCV")


def _check_header(data: bytes | memoryview, name: str) -> None:
    """Raise an error that names the file if its header is invalid or the file is truncated."""
    try:
        probe(io.BytesIO(data))
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def encode_png(image: Array) -> bytes:
    """Encode an image (H, W, C) as a PNG file."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.shape[2] == 3 else image
    is_encoded, data = cv2.imencode(".png", bgr)
    assert is_encoded
    return bytes(data)
