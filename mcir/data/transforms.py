"""Random crops and orientations, equal for both images of a pair.

Images are arrays (H, W, C). Five uniform random numbers are drawn for each sample with any options, so an option does
not change the random numbers of the others.
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
        """Return the window that shows the same content in an image that is larger by an integer factor."""
        return Window(*(scale * side for side in self))

    def widened(self, margin: int, height: int, width: int) -> Window:
        """Return the window with a margin on each side, clipped to an image of the height and width."""
        top, left = max(0, self.top - margin), max(0, self.left - margin)
        bottom, right = min(height, self.top + self.height + margin), min(width, self.left + self.width + margin)
        return Window(top, left, bottom - top, right - left)

    def relative_to(self, other: Window) -> Window:
        """Return the window in the coordinates of another window."""
        return self._replace(top=self.top - other.top, left=self.left - other.left)

    def union(self, other: Window) -> Window:
        """Return the smallest window that contains both."""
        top, left = min(self.top, other.top), min(self.left, other.left)
        bottom = max(self.top + self.height, other.top + other.height)
        right = max(self.left + self.width, other.left + other.width)
        return Window(top, left, bottom - top, right - left)


class Orientation(NamedTuple):
    """One of the eight symmetries of a square: a left-right flip, then a top-bottom flip, then a transposition."""

    hflip: bool
    vflip: bool
    transpose: bool


def draw_geometry(rng: np.random.Generator, use_hflip: bool, use_rot: bool) -> tuple[tuple[float, float], Orientation]:
    """Draw the crop (the numbers for ``crop_window``) and the orientation of a sample, as BasicSR does.

    Args:
        rng: random generator of the sample.
        use_hflip: whether to flip left-right with probability ½.
        use_rot: whether to flip top-bottom and to transpose, each with probability ½.
    """
    row, column, *coins = rng.random(5).tolist()
    hflip, vflip, transpose = (coin < 0.5 for coin in coins)
    return (row, column), Orientation(use_hflip and hflip, use_rot and vflip, use_rot and transpose)


def crop_window(crop: tuple[float, float], height: int, width: int, size: int | None) -> Window:
    """Return a window at a uniformly random position.

    Args:
        crop: uniform random numbers in [0, 1), for the row and the column of the window.
        height: height of the image.
        width: width of the image.
        size: side of the window, reduced to shorter sides of the image; None: the full image.
    """
    rows, columns = (height, width) if size is None else (min(size, height), min(size, width))
    return Window(int(crop[0] * (height - rows + 1)), int(crop[1] * (width - columns + 1)), rows, columns)


def crop_image(image: npt.NDArray[Any], window: Window) -> npt.NDArray[Any]:
    """Return a view of a part of an image (H, W, C)."""
    top, left, height, width = window
    return image[top : top + height, left : left + width]


def pad_to_size(image: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Pad an image (H, W, C) by mirroring at its bottom and right, to sides of at least ``size``.

    The border pixels are repeated, which keeps the two images of a pair aligned at every scale.
    """
    bottom, right = (max(0, size - side) for side in image.shape[:2])
    if not (bottom or right):
        return image
    padded: npt.NDArray[Any] = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REFLECT)
    return padded.reshape(image.shape[0] + bottom, image.shape[1] + right, image.shape[2])


def orient(image: npt.NDArray[Any], orientation: Orientation) -> npt.NDArray[Any]:
    """Flip and transpose an image (H, W, C); the result is contiguous, writable and never a view."""
    hflip, vflip, transpose = orientation
    if not (hflip or vflip or transpose):
        is_own = image.flags.owndata and image.flags.c_contiguous and image.flags.writeable
        return image if is_own else np.array(image, order="C")
    shape = image.shape
    augmented: npt.NDArray[Any] = image
    if hflip or vflip:
        augmented = cv2.flip(augmented, -1 if hflip and vflip else int(hflip))
    if transpose:
        augmented = cv2.transpose(augmented)
        shape = (shape[1], shape[0], shape[2])
    return augmented.reshape(shape)


def convert_color(image: npt.NDArray[Any], color: Color) -> npt.NDArray[Any]:
    """Convert an image (H, W, 1 or 3) to three channels ("rgb") or one ("gray": full-range luma of ITU-R BT.601)."""
    if color == "rgb" and image.shape[2] == 1:
        rgb: npt.NDArray[Any] = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        return rgb
    if color == "gray" and image.shape[2] == 3:
        gray: npt.NDArray[Any] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        return gray[:, :, None]
    return image
