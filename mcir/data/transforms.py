"""Crops and orientations of image pairs, from a numpy generator, the same for both images of a pair.

Images are (H, W, C) arrays. All that is random about the geometry of a sample comes from five uniform numbers, so
that the options in use never shift the draw of the others.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

Color: TypeAlias = Literal["rgb", "gray"]


class Window(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def times(self, scale: int) -> Window:
        """Return the same part of an image that is larger by a whole factor."""
        return Window(*(scale * side for side in self))

    def widened(self, margin: int, height: int, width: int) -> Window:
        """Return the window with a margin on each side, as far as an image of that size has one."""
        top, left = max(0, self.top - margin), max(0, self.left - margin)
        bottom, right = min(height, self.top + self.height + margin), min(width, self.left + self.width + margin)
        return Window(top, left, bottom - top, right - left)

    def within(self, other: Window) -> Window:
        """Return the same part as counted from the corner of another one."""
        return self._replace(top=self.top - other.top, left=self.left - other.left)

    def around(self, other: Window) -> Window:
        """Return the smallest part that holds both."""
        top, left = min(self.top, other.top), min(self.left, other.left)
        bottom = max(self.top + self.height, other.top + other.height)
        right = max(self.left + self.width, other.left + other.width)
        return Window(top, left, bottom - top, right - left)


class Orientation(NamedTuple):
    """One of the eight ways to lay a square: mirrored left-right, then top-bottom, then along the diagonal."""

    hflip: bool
    vflip: bool
    transpose: bool


class Geometry(NamedTuple):
    """Where a sample is cut and how it is laid; ``crop`` is a number in [0, 1) for either side."""

    crop: tuple[float, float]
    orientation: Orientation


def draw_geometry(rng: np.random.Generator, use_hflip: bool, use_rot: bool) -> Geometry:
    """Draw as BasicSR does: a left-right flip; as rotation a top-bottom flip and a transposition; each with p = ½."""
    down, across, *coins = rng.random(5).tolist()
    hflip, vflip, transpose = (coin < 0.5 for coin in coins)
    return Geometry((down, across), Orientation(use_hflip and hflip, use_rot and vflip, use_rot and transpose))


def place(crop: tuple[float, float], height: int, width: int, size: int | None) -> Window:
    """Return the window of side ``size`` (the whole image without) that two numbers in [0, 1) choose uniformly.

    A side of the image that is shorter than that is taken whole.
    """
    rows, columns = (height, width) if size is None else (min(size, height), min(size, width))
    return Window(int(crop[0] * (height - rows + 1)), int(crop[1] * (width - columns + 1)), rows, columns)


def padded(image: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Return an image (H, W, C) whose sides are at least ``size``: mirrored at its bottom and right, edges repeated.

    Repeating the edges keeps the two images of a pair in register at every scale.
    """
    bottom, right = (max(0, size - side) for side in image.shape[:2])
    if not (bottom or right):
        return image
    wide: npt.NDArray[Any] = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REFLECT)
    return wide.reshape(image.shape[0] + bottom, image.shape[1] + right, image.shape[2])


def orient(image: npt.NDArray[Any], orientation: Orientation) -> npt.NDArray[Any]:
    """Return an image (H, W, C) laid another way, contiguous and writable; a copy of what is a view."""
    hflip, vflip, transpose = orientation
    if not (hflip or vflip or transpose):
        own = image.flags.owndata and image.flags.c_contiguous and image.flags.writeable
        return image if own else np.array(image, order="C")
    shape = image.shape
    laid: npt.NDArray[Any] = image
    if hflip or vflip:
        laid = cv2.flip(laid, -1 if hflip and vflip else int(hflip))
    if transpose:
        laid = cv2.transpose(laid)
        shape = (shape[1], shape[0], shape[2])
    return laid.reshape(shape)


def in_color(image: npt.NDArray[Any], color: Color) -> npt.NDArray[Any]:
    """Return an image (H, W, 1 or 3) with three channels ("rgb") or one ("gray": luma of ITU-R BT.601, full range)."""
    if color == "rgb" and image.shape[2] == 1:
        repeated: npt.NDArray[Any] = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        return repeated
    if color == "gray" and image.shape[2] == 3:
        grey: npt.NDArray[Any] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        return grey[:, :, None]
    return image
