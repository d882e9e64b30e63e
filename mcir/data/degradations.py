"""Degradations: from a ground truth to the image that a network sees, deterministic given a generator.

A degradation takes a tensor (C, H, W), uint8 or float in [0, 1], and says two things about itself: ``scale``, how many
ground-truth pixels a side of a degraded pixel spans, and ``margin``, how many ground-truth pixels beyond a crop its
values reach. Who degrades a crop hands over that margin as well and cuts it off the result, so that the crop looks as
if it was cut from the whole degraded image.

Where that takes knowing the whole image (its brightness, the place of a crop in it), a degradation is ``PerImage`` as
well: it is bound to each image once, and what comes of that degrades parts of the image, which say where they lie.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from torch import Tensor

from mcir.data.errors import DataError
from mcir.data.resize import imresize
from mcir.registry import DEGRADATIONS, DegradationSection, KeyPath, Section


class Degradation(Protocol):
    """What a registered degradation offers; see the module."""

    scale: int
    margin: int

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Degrade one image (C, H, W), uint8 or float in [0, 1]."""


class Bound(Protocol):
    """A degradation of one certain image."""

    def __call__(self, gt: Tensor, rng: np.random.Generator, top: int, left: int) -> Tensor:
        """Degrade a part (C, h, w) of the image, whose first pixel lies there in the whole image."""


@runtime_checkable
class PerImage(Protocol):
    """What a degradation offers beside ``Degradation`` where its parameters or its places belong to the whole image."""

    def of_image(self, index: int, image: Callable[[], Tensor], observation: int = 0) -> Bound:
        """Return the degradation of one image.

        Args:
            index: number of the image in its data set.
            image: gives the whole clean image (C, H, W); the result does not hold it.
            observation: which one, where several degraded images are made of a clean one; parameters are the same.
        """


def bind(degradation: Degradation, index: int, image: Callable[[], Tensor], observation: int = 0) -> Bound:
    """Return any degradation as one of a certain image; the arguments are those of ``PerImage.of_image``."""
    if isinstance(degradation, PerImage):
        return degradation.of_image(index, image, observation)
    return functools.partial(_anywhere, degradation)


def _anywhere(degradation: Degradation, gt: Tensor, rng: np.random.Generator, top: int, left: int) -> Tensor:
    return degradation(gt, rng)


def build_degradation(section: Section, scale: int, key: str | KeyPath = ()) -> Degradation:
    """Build a degradation, for a data set of that scale: it fills in a ``scale`` that the section does not say.

    Raises:
        DataError: the degradation shrinks by another factor than the data set says.
        RegistryError: the section does not fit its class.
    """
    degradation: Degradation = DEGRADATIONS.build(_with_scale(section, scale), key=key)
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
        noisy = in_unit_range(gt).add(noise, alpha=sigma / 255)
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
        self.members: list[Degradation] = [
            DEGRADATIONS.build(_with_scale(section, scale), key=("degradations", number))
            for number, section in enumerate(degradations)
        ]
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

    def of_image(self, index: int, image: Callable[[], Tensor], observation: int = 0) -> Bound:
        """Bind each member to the whole image that those before it make of the clean one."""
        bound: list[Bound] = []
        for member in self.members:
            bound.append(bind(member, index, image, observation))
            image = functools.cache(functools.partial(_of_whole, bound[-1], image, index))
        return functools.partial(self._in_turn, bound)

    def _in_turn(self, bound: list[Bound], gt: Tensor, rng: np.random.Generator, top: int, left: int) -> Tensor:
        for member, degrade in zip(self.members, bound, strict=True):
            gt = degrade(gt, rng, top, left)
            top, left = top // member.scale, left // member.scale
        return gt


def _of_whole(degrade: Bound, image: Callable[[], Tensor], index: int) -> Tensor:
    return degrade(image(), np.random.default_rng(index), 0, 0)


@DEGRADATIONS.register()
class BayerMosaic:
    """What a sensor behind a Bayer filter measures: three channels, 0 where nothing was measured.

    The pattern lies on the whole image: a crop at an odd row or column begins with another corner of it, and so does a
    mirrored one. (Mirrored or transposed, the lattice is itself, moved by a pixel.) Noise goes before it in a chain,
    since 0 is not a measurement that could be noisy.

    Args:
        pattern: colours of the first two pixels of the first row of an image, then of the second.

    Raises:
        DataError: another pattern; or, of an image, that it has not three channels.
    """

    scale = 1
    margin = 0

    def __init__(self, pattern: Literal["rggb", "bggr", "grbg", "gbrg"] = "rggb") -> None:
        if pattern not in ("rggb", "bggr", "grbg", "gbrg"):
            raise DataError(f"BayerMosaic: pattern is {pattern!r}; it must be 'rggb', 'bggr', 'grbg' or 'gbrg'.")
        self.pattern = pattern

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Keep of each pixel (3, H, W) one colour; nothing is random."""
        return self._mosaic(gt, rng, 0, 0)

    def of_image(self, index: int, image: Callable[[], Tensor], observation: int = 0) -> Bound:
        """Return the mosaic of parts; it is the same for every image."""
        return self._mosaic

    def _mosaic(self, gt: Tensor, rng: np.random.Generator, top: int, left: int) -> Tensor:
        if gt.shape[0] != 3:
            raise DataError(f"BayerMosaic: the image has {gt.shape[0]} channel; it needs colour (color: rgb).")
        measured = torch.zeros_like(gt)
        for place, colour in enumerate(self.pattern):
            row, column = (place // 2 - top) % 2, (place % 2 - left) % 2
            channel = "rgb".index(colour)
            measured[channel, row::2, column::2] = gt[channel, row::2, column::2]
        return measured


def in_unit_range(image: Tensor) -> Tensor:
    """Return an image of [0, 1]: a float image as it is, an 8-bit one as float32."""
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
