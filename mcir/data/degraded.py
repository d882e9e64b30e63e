"""Clean images and what a degradation makes of them, window by window, as if cut from the whole degraded image."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcir.data.degradations import Bound, Degradation, bind
from mcir.data.storage import Storage
from mcir.data.transforms import Color, Window, in_color


class DegradedImages:
    """The images of a storage and a degradation, which is bound to each image once.

    Args:
        images: the clean images.
        degradation: what is done to them.
        color: "rgb" or "gray".
        bits: the most bits of a sample among all images.
        observations: how many degraded images are made of a clean one.
    """

    def __init__(
        self, images: Storage, degradation: Degradation, color: Color, bits: int, observations: int = 1
    ) -> None:
        self._images, self._degradation = images, degradation
        self._color, self._bits = color, bits
        self._observations = observations
        self._bound: dict[int, list[Bound]] = {}

    def read(
        self, number: int, key: str, size: tuple[int, int], window: Window, rng: np.random.Generator
    ) -> tuple[npt.NDArray[Any], list[npt.NDArray[Any]]]:
        """Return a part of a clean image, and the same of its degraded images.

        Args:
            number: of the image in its set; the parameters of the degradation may depend on it.
            key: of the image in the storage.
            size: (height, width) of the whole degraded image.
            window: the part, in pixels of the degraded image.
            rng: what is random comes from there.
        """
        scale = self._degradation.scale
        wide = window.widened(self._degradation.margin // scale, *size)
        large, inner = wide.times(scale), window.within(wide)
        clean = self._clean(key, large)
        degraded = [
            bound(tensor(clean, self._bits), rng, large.top, large.left) for bound in self._of_image(number, key, size)
        ]
        images = [np.ascontiguousarray(cut(image.permute(1, 2, 0).numpy(), inner)) for image in degraded]
        return cut(clean, inner.times(scale)), images

    def _of_image(self, number: int, key: str, size: tuple[int, int]) -> list[Bound]:
        if number not in self._bound:
            window = Window(0, 0, *size).times(self._degradation.scale)
            whole = functools.cache(lambda: tensor(self._clean(key, window), self._bits))
            self._bound[number] = [
                bind(self._degradation, number, whole, observation) for observation in range(self._observations)
            ]
        return self._bound[number]

    def _clean(self, key: str, window: Window) -> npt.NDArray[Any]:
        return np.array(in_color(self._images.read_crop(key, *window), self._color))


def cut(image: npt.NDArray[Any], window: Window) -> npt.NDArray[Any]:
    """Return a view of a part of an image (H, W, C)."""
    top, left, height, width = window
    return image[top : top + height, left : left + width]


def tensor(image: npt.NDArray[Any], bits: int) -> Tensor:
    """Return (…, C, H, W) of (…, H, W, C), sharing its memory where 8 bits do; of deeper sets all are float32."""
    if image.dtype != np.float32 and (image.dtype != np.uint8 or bits != 8):
        image = image.astype(np.float32) / np.float32(255 if image.dtype == np.uint8 else 65535)
    return torch.from_numpy(image).movedim(-1, -3)
