"""Degradations: from a ground truth to the image that a network sees, deterministic given a generator.

A degradation takes a tensor (C, H, W), uint8 or float in [0, 1], and says two things about itself: ``scale``, how many
ground-truth pixels a side of a degraded pixel spans, and ``margin``, how many ground-truth pixels beyond a crop its
values reach. Who degrades a crop hands over that margin as well and cuts it off the result, so that the crop looks as
if it was cut from the whole degraded image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from mcir.data.errors import DataError
from mcir.data.resize import imresize
from mcir.registry import DEGRADATIONS, DegradationSection, Section


class Degradation(Protocol):
    """What a registered degradation offers; see the module."""

    scale: int
    margin: int

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Degrade one image (C, H, W), uint8 or float in [0, 1]."""


def build_degradation(section: Section, scale: int) -> Degradation:
    """Build a degradation, for a data set of that scale: it fills in a ``scale`` that the section does not say.

    Raises:
        DataError: the degradation shrinks by another factor than the data set says.
        RegistryError: the section does not fit its class.
    """
    degradation: Degradation = DEGRADATIONS.build(_with_scale(section, scale))
    if degradation.scale != scale:
        raise DataError(
            f"The degradation {section['type']} shrinks by {degradation.scale}, the data set's scale is {scale}."
        )
    return degradation


def _with_scale(section: Section, scale: int) -> Section:
    takes_one = isinstance(section.get("type"), str) and "scale" in DEGRADATIONS.parameters(section["type"])
    return {"scale": scale, **section} if takes_one else section


@DEGRADATIONS.register()
class BicubicDown:
    """MATLAB's antialiased bicubic down-scaling (see ``resize``).

    An 8-bit image is rounded to 8 bits, as a saved PNG file is; a float image is clipped to [0, 1] only. Sides that
    are no multiple of the scale give ceil(side / scale) pixels.

    Args:
        scale: the factor, a whole number.

    Raises:
        DataError: the scale is less than 1.
    """

    def __init__(self, scale: int) -> None:
        if scale < 1:
            raise DataError(f"BicubicDown: scale is {scale}; it must be a whole number from 1 on.")
        self.scale = scale
        self.margin = 2 * scale if scale > 1 else 0

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Shrink one image (C, H, W); nothing is random."""
        if self.scale == 1:
            return gt.clone()
        small = imresize(gt, 1 / self.scale)
        return small.clamp_(0, 1) if gt.is_floating_point() else small.round_().clamp_(0, 255).to(torch.uint8)


@DEGRADATIONS.register()
class GaussianNoise:
    """White Gaussian noise, of one strength or of a strength drawn for each image.

    Args:
        sigma: standard deviation in 8-bit units (of 255), or the [low, high] it is drawn between, uniformly.
        clip: clip and round the result to 8 bits as a saved image is. Without it the result is float32 and leaves [0,
            1], as denoising benchmarks have it.

    Raises:
        DataError: a negative or reversed sigma.
    """

    scale = 1
    margin = 0

    def __init__(self, sigma: float | Sequence[float], clip: bool = False) -> None:
        self.low, self.high = range_of("GaussianNoise", "sigma", sigma, 0, float("inf"))
        self.clip = clip

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Add noise to one image (C, H, W)."""
        sigma = self.low + (self.high - self.low) * rng.random()
        noise = torch.from_numpy(rng.standard_normal(tuple(gt.shape), dtype=np.float32))
        noisy = _unit(gt).add(noise, alpha=sigma / 255)
        return _eight_bit(noisy) if self.clip else noisy


@DEGRADATIONS.register()
class JPEG:
    """JPEG compression, of one quality or of a quality drawn for each image.

    What is given is compressed as an image of its own: its blocks of 8×8 start at its corner.

    Args:
        quality: of 1 … 100, or the [low, high] it is drawn between, both included, uniformly.

    Raises:
        DataError: a quality out of range or reversed.
    """

    scale = 1
    margin = 0

    def __init__(self, quality: int | Sequence[int]) -> None:
        low, high = range_of("JPEG", "quality", quality, 1, 100)
        self.low, self.high = int(low), int(high)

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Compress one image (C, H, W), C 1 or 3 (RGB), to uint8."""
        quality = int(rng.integers(self.low, self.high, endpoint=True))
        image = _eight_bit(gt).permute(1, 2, 0).numpy()[:, :, ::-1].copy()
        done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert done
        decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED))
        return torch.from_numpy(decoded.reshape(image.shape)[:, :, ::-1].copy()).permute(2, 0, 1)


@DEGRADATIONS.register()
class Chain:
    """Degradations one after the other.

    Args:
        degradations: the sections, first one first.
        scale: filled in where a member takes a scale and does not say it.

    Raises:
        DataError: the chain is empty.
        RegistryError: a section does not fit its class.
    """

    def __init__(self, degradations: Sequence[DegradationSection], scale: int = 1) -> None:
        if not degradations:
            raise DataError("Chain: no degradations; leave the chain out or name some.")
        self.members: list[Degradation] = [DEGRADATIONS.build(_with_scale(section, scale)) for section in degradations]
        self.scale, margin = 1, 0
        for member in self.members:
            margin += self.scale * member.margin
            self.scale *= member.scale
        self.margin = -(-margin // self.scale) * self.scale

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Degrade one image (C, H, W)."""
        for member in self.members:
            gt = member(gt, rng)
        return gt


def _unit(image: Tensor) -> Tensor:
    return image if image.is_floating_point() else image.float() / 255


def _eight_bit(image: Tensor) -> Tensor:
    return image.mul(255).round_().clamp_(0, 255).to(torch.uint8) if image.is_floating_point() else image


def range_of(owner: str, name: str, value: float | Sequence[float], least: float, most: float) -> tuple[float, float]:
    """Return the bounds that an option gives: a number for both, or [low, high].

    Args:
        owner: the class, for the message.
        name: the option, for the message.
        value: what the option file says.
        least: the smallest that is allowed.
        most: the largest that is allowed.

    Raises:
        DataError: a number out of range, or a reversed range.
    """
    bounds = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(bounds) != 2 or not least <= bounds[0] <= bounds[1] <= most:
        raise DataError(
            f"{owner}: {name} is {value!r}; expected a number or [low, high], from {least:g} "
            f"{'on' if most == float('inf') else f'to {most:g}'}."
        )
    return bounds
