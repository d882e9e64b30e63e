"""A decoded image: its samples, its alpha channel, and the metadata of its file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from mcir.data.codec import Array


class PictureError(ValueError):
    """An image cannot be read or written.

    Args:
        path: image file.
        reason: what is wrong, without the path.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, eq=False, repr=False)
class Picture:
    """A decoded image, upright.

    Attributes:
        pixels: samples, (H, W, C), uint8 or uint16; C is 1 (grey) or 3 (RGB).
        alpha: opacity, (H, W), of the same type; None for an opaque image. The pixels are not multiplied by it.
        icc: ICC profile; None means sRGB.
        exif: EXIF block without orientation, in the form that Pillow reads and writes.
        format: format of the source file: PNG, TIFF, JPEG, WEBP, BMP or PPM.

    Raises:
        ValueError: an array has an invalid shape or type.
    """

    pixels: Array
    alpha: Array | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    format: str = "PNG"

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if len(shape) != 3 or shape[2] not in (1, 3) or not self.pixels.size or dtype not in (np.uint8, np.uint16):
            raise ValueError(f"pixels: expected (H, W, 1) or (H, W, 3), uint8 or uint16, got {shape}, {dtype}.")
        if self.alpha is not None and (self.alpha.shape, self.alpha.dtype) != (shape[:2], dtype):
            raise ValueError(f"alpha: expected {shape[:2]}, {dtype}, got {self.alpha.shape}, {self.alpha.dtype}.")

    def __repr__(self) -> str:
        kind = ("grey" if self.channels == 1 else "RGB") + (" with alpha" if self.alpha is not None else "")
        return f"Picture({self.width}×{self.height}, {kind}, {self.bits} bit, {self.format})"

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.pixels.shape[1])

    @property
    def channels(self) -> int:
        """Number of channels without alpha: 1 for grey, 3 for RGB."""
        return int(self.pixels.shape[2])

    @property
    def bits(self) -> int:
        """Bits per sample: 8 or 16."""
        return self.pixels.dtype.itemsize * 8


def with_bits(picture: Picture, bits: int) -> Picture:
    """Return an image with 8 or 16 bits per sample: v·257, or v/257 rounded to the nearest integer.

    Raises:
        ValueError: ``bits`` is neither 8 nor 16.
    """
    if bits not in (8, 16):
        raise ValueError(f"bits: expected 8 or 16, got {bits}.")
    if bits == picture.bits:
        return picture
    alpha = None if picture.alpha is None else _converted(picture.alpha)
    return replace(picture, pixels=_converted(picture.pixels), alpha=alpha)


def _converted(samples: Array) -> Array:
    if samples.dtype == np.uint8:
        return np.multiply(samples, 257, dtype=np.uint16)
    return cv2.convertScaleAbs(samples, alpha=1 / 257).reshape(samples.shape)
