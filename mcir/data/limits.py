"""Limits on the size that the header of an image states, checked before anything is decoded."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from mcir.data.errors import DataError
from mcir.device import memory_available

MAX_PIXELS = 2**30
"""Largest number of pixels of an image, unless ``MCIR_MAX_PIXELS`` sets another one."""

MAX_PIXELS_VARIABLE = "MCIR_MAX_PIXELS"
"""Environment variable that changes the largest number of pixels, in all processes of a training."""

_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_UNCHECKED_BYTES = 2**28  # for smaller images the available memory is not checked
_ANY_FILE_BYTES = 2**30  # allowed for any file: a WebP file of a few bytes can be a large image of one colour
_LARGEST_RATIO = 2**17  # decoded bytes per byte of a file, more than in any real file

_lock = threading.Lock()
_limits: list[int | None] = []


def check_size(height: int, width: int, pixel_bytes: int, file_bytes: int) -> None:
    """Check the size that a decoder would allocate.

    Args:
        height: number of rows.
        width: number of columns.
        pixel_bytes: number of bytes per pixel.
        file_bytes: size of the file.

    Raises:
        DataError: the image has too many pixels, or does not fit into memory, or is too large for its file.
    """
    largest = max_pixels()
    if height * width > largest:
        raise DataError(
            f"expected at most {largest:,} pixels, got {width}×{height} in the header; set the environment variable "
            f"{MAX_PIXELS_VARIABLE} to read larger images"
        )
    claimed = height * width * pixel_bytes
    if claimed <= _UNCHECKED_BYTES:
        return
    limit = min(memory_available(), max(_ANY_FILE_BYTES, file_bytes * _LARGEST_RATIO))
    if claimed > limit:
        raise DataError(
            f"expected at most {limit / 2**30:.1f} GiB of samples, for the available memory and a file of "
            f"{file_bytes:,} bytes, got {claimed / 2**30:,.1f} GiB in the header ({width}×{height} pixels)"
        )


@functools.cache
def max_pixels() -> int:
    """Return the largest number of pixels of an image, the same for the whole life of a process.

    Raises:
        DataError: the environment variable is not a positive integer.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE)
    if text is None:
        return MAX_PIXELS
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text)):
        raise DataError(f"{MAX_PIXELS_VARIABLE}: expected a number of pixels, like {2 * MAX_PIXELS}, got '{text}'")
    return int(text)


def decoded_size(image: Image.Image) -> tuple[int, int]:
    """Return the height and width that a decoder allocates; a TIFF tile may be larger than its image."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    return max(image.height, tags.get(_TILE_HEIGHT, 0)), max(image.width, tags.get(_TILE_WIDTH, 0))


@contextmanager
def no_size_limit() -> Iterator[None]:
    """Disable Pillow's limit on image sizes, which protects servers; ``check_size`` takes its place."""
    with _lock:
        _limits.append(Image.MAX_IMAGE_PIXELS)  # None if another thread has disabled the limit already
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _lock:
            Image.MAX_IMAGE_PIXELS = _limits.pop()
