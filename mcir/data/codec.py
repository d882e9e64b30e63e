"""Decoded images, their headers, and PNG files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
"""An image (H, W, C), uint8 or uint16."""

_BAND_BYTES = 2**20


class ImageInfo(NamedTuple):
    """Size of an image, upright, its number of channels without alpha (1 or 3) and its bits per sample (8 or 16)."""

    height: int
    width: int
    channels: int
    bits: int


def info_of(image: Array) -> ImageInfo:
    """Return the size, channels and bits of a decoded image (H, W, C)."""
    height, width, channels = image.shape
    return ImageInfo(height, width, channels, image.dtype.itemsize * 8)


def upright(samples: Array, orientation: int) -> Array:
    """Rotate or flip samples (H, W[, C]) from an EXIF orientation, 1 to 8, to upright."""
    if orientation > 4:
        samples = samples.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples if orientation == 1 else np.ascontiguousarray(samples)


def row_bands(height: int, row_bytes: int) -> Iterator[slice]:
    """Yield slices of rows of about a megabyte each, to process an image without a copy of it."""
    step = max(1, _BAND_BYTES // row_bytes)
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def encode_png(image: Array) -> bytes:
    """Encode an image (H, W, C) as a PNG file."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.shape[2] == 3 else image
    is_encoded, data = cv2.imencode(".png", bgr)
    assert is_encoded
    return bytes(data)
