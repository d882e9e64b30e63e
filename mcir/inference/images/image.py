"""A photograph in memory: its samples as stored, its transparency, and what the file says of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mcir.data.codec import Array

_BAND = 2**20  # bytes that are worked on at a time


class PictureError(ValueError):
    """A picture that cannot be read or written; the message names the file and the reason."""


@dataclass(frozen=True, eq=False, repr=False)
class Picture:
    """A photograph as it hangs on the wall: upright, colours and transparency apart.

    Attributes:
        pixels: (H, W, C), C 1 (grey) or 3 (RGB), uint8 or uint16.
        alpha: (H, W) of the same type, 0 transparent; colours are not multiplied by it. None: opaque.
        icc: the ICC profile that says what the numbers mean; None: sRGB.
        exif: the EXIF block, as Pillow takes it for ``exif=``; its orientation is taken out.
        format: what the file was: PNG, TIFF, JPEG, WEBP, BMP or PPM.

    Raises:
        PictureError: arrays of other shapes or types.
    """

    pixels: Array
    alpha: Array | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    format: str = "PNG"

    def __post_init__(self) -> None:
        shape, kind = self.pixels.shape, self.pixels.dtype
        if len(shape) != 3 or shape[2] not in (1, 3) or not self.pixels.size or kind not in (np.uint8, np.uint16):
            raise PictureError(f"a picture is (H, W, 1) or (H, W, 3), uint8 or uint16, not {shape} of {kind}.")
        if self.alpha is not None and (self.alpha.shape, self.alpha.dtype) != (shape[:2], kind):
            raise PictureError(f"the alpha of this picture is {shape[:2]} of {kind}, not {self.alpha.shape}.")

    def __repr__(self) -> str:
        colours = ("grey" if self.channels == 1 else "RGB") + (" with alpha" if self.alpha is not None else "")
        return f"Picture({self.width}×{self.height}, {colours}, {self.bits} bit, {self.format})"

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Pixels in a row."""
        return int(self.pixels.shape[1])

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB; alpha is not counted."""
        return int(self.pixels.shape[2])

    @property
    def bits(self) -> int:
        """Bits of a sample: 8 or 16."""
        return self.pixels.dtype.itemsize * 8

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, alpha included."""
        return self.width * (self.channels + (self.alpha is not None)) * self.bits // 8

    def bands(self) -> Iterator[Array]:
        """Give copies of the picture from top to bottom, (rows, W, C), at most a megabyte each, with alpha last."""
        for rows in row_bands(self.height, self.row_bytes):
            alpha = () if self.alpha is None else (self.alpha[rows, :, None],)
            yield np.concatenate((self.pixels[rows], *alpha), axis=2)


def row_bands(height: int, row_bytes: int) -> Iterator[slice]:
    """Cut rows into bands that memory does not notice."""
    step = max(1, _BAND // row_bytes)
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def with_bits(picture: Picture, bits: int) -> Picture:
    """Return a picture with 8 or 16 bits a sample: v·257, or v/257 rounded to the nearest.

    From 8 to 16 bits and back is exact. The metadata stay.

    Raises:
        PictureError: other bits.
    """
    if bits not in (8, 16):
        raise PictureError(f"pictures have 8 or 16 bits a sample, not {bits}.")
    if bits == picture.bits:
        return picture
    alpha = None if picture.alpha is None else _converted(picture.alpha)
    return replace(picture, pixels=_converted(picture.pixels), alpha=alpha)


def _converted(samples: Array) -> Array:
    if samples.dtype == np.uint8:
        return np.multiply(samples, 257, dtype=np.uint16)
    result = np.empty(samples.shape, np.uint8)
    for rows in row_bands(len(samples), samples[0].nbytes):
        result[rows] = (samples[rows].astype(np.uint32) + 128) // 257
    return result
