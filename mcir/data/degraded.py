"""Crops of clean images and of their degraded images. A degraded crop equals the crop of the full degraded image."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcir.data.degradations import BoundDegradation, Degradation, bind
from mcir.data.storage import Storage
from mcir.data.transforms import Color, Window, convert_color, crop_image


@dataclass(eq=False)
class DegradedImages:
    """The images of a storage, degraded; the degradation is bound to each image once.

    Attributes:
        images: clean images.
        degradation: degradation of the clean images.
        color: "rgb" or "gray".
        bits: maximum bits per sample of all images.
        observations: number of degraded images for each clean image.
    """

    images: Storage
    degradation: Degradation
    color: Color
    bits: int
    observations: int = 1
    _bound: dict[int, list[BoundDegradation]] = field(default_factory=dict, init=False, repr=False)

    def read(
        self, index: int, key: str, size: tuple[int, int], window: Window, rng: np.random.Generator
    ) -> tuple[npt.NDArray[Any], list[npt.NDArray[Any]]]:
        """Return a part of a clean image, and the same part of its degraded images.

        Args:
            index: index of the image in its data set; the parameters of the degradation may depend on it.
            key: key of the image in the storage.
            size: (height, width) of the full degraded image.
            window: part of the degraded image.
            rng: random generator of the sample.
        """
        scale = self.degradation.scale
        widened = window.widened(self.degradation.margin // scale, *size)
        source, inner = widened.times(scale), window.relative_to(widened)
        clean = self._clean(key, source)
        degraded = [
            degrade(as_tensor(clean, self.bits), rng, source.top, source.left)
            for degrade in self._bind(index, key, size)
        ]
        crops = [np.ascontiguousarray(crop_image(image.permute(1, 2, 0).numpy(), inner)) for image in degraded]
        return crop_image(clean, inner.times(scale)), crops

    def _bind(self, index: int, key: str, size: tuple[int, int]) -> list[BoundDegradation]:
        if index not in self._bound:
            window = Window(0, 0, *size).times(self.degradation.scale)
            full = functools.cache(lambda: as_tensor(self._clean(key, window), self.bits))
            self._bound[index] = [bind(self.degradation, index, full, number) for number in range(self.observations)]
        return self._bound[index]

    def _clean(self, key: str, window: Window) -> npt.NDArray[Any]:
        return np.array(convert_color(self.images.read(key, window), self.color))


def as_tensor(image: npt.NDArray[Any], bits: int) -> Tensor:
    """Return an array (…, H, W, C) as a tensor (…, C, H, W).

    Args:
        image: uint8, uint16 or float32.
        bits: maximum bits per sample of the data set. With 8 bits uint8 images stay uint8 and share their memory;
            otherwise all images become float32 in [0, 1].
    """
    if image.dtype != np.float32 and (image.dtype != np.uint8 or bits != 8):
        image = image.astype(np.float32) / np.float32(255 if image.dtype == np.uint8 else 65535)
    return torch.from_numpy(image).movedim(-1, -3)
