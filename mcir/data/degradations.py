"""Degradations: functions that make the input of a network from a ground truth and a random generator.

A degradation is called with a tensor (C, H, W), uint8 or float in [0, 1]. It has two attributes: ``scale``, the
downscaling factor, and ``margin``, the number of ground-truth pixels around a crop that affect the degraded crop. The
caller passes the crop with this margin and removes the margin from the result, so a degraded crop equals the crop of
the degraded image.

A degradation that depends on the full image (its brightness, or the position of a crop in it) also implements
``PerImage``: it is bound to each image once, and the bound degradation is called with parts of the image and their
positions.

A ``Range`` argument is a number, or the [low, high] of a uniform distribution from which a number is drawn for each
image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeAlias, runtime_checkable

import cv2
import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from mcir.checks import check_argument, check_choice
from mcir.data.errors import DataError
from mcir.data.resize import imresize
from mcir.domains import Range, Scale
from mcir.errors import ArgumentError
from mcir.registry import DEGRADATIONS, DegradationSection, Section

Sigma: TypeAlias = Annotated[float, Interval(ge=0, le=255)]
"""Standard deviation of noise in 8-bit units."""


class DefaultSection(dict[str, Any]):
    """A section as the default of a dataclass field; such a default must be hashable."""

    __hash__ = object.__hash__  # type: ignore[assignment]


class Degradation(Protocol):
    """Interface of registered degradations; see the docstring of this module."""

    scale: int = 1
    margin: int = 0

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Degrade an image (C, H, W), uint8 or float in [0, 1]."""


class BoundDegradation(Protocol):
    """A degradation that is bound to one image."""

    def __call__(self, gt: Tensor, rng: np.random.Generator, top: int, left: int) -> Tensor:
        """Degrade a part (C, h, w) of the image, whose top left pixel is at (top, left) of the full image."""


@runtime_checkable
class PerImage(Protocol):
    """Additional interface of degradations that depend on the full image."""

    def for_image(self, index: int, image: Callable[[], Tensor], observation: int = 0) -> BoundDegradation:
        """Return the degradation of one image.

        Args:
            index: index of the image in its data set.
            image: function that returns the full clean image (C, H, W).
            observation: number of the observation, if a clean image has several degraded images. All observations
                have the same parameters.
        """


def bind(degradation: Degradation, index: int, image: Callable[[], Tensor], observation: int = 0) -> BoundDegradation:
    """Bind any degradation to an image; the arguments are those of ``PerImage.for_image``."""
    if isinstance(degradation, PerImage):
        return degradation.for_image(index, image, observation)
    return functools.partial(_ignore_position, degradation)


def _ignore_position(degradation: Degradation, gt: Tensor, rng: np.random.Generator, top: int, left: int) -> Tensor:
    return degradation(gt, rng)


def build_degradation(section: Section, scale: int, key: str = "") -> Degradation:
    """Build the degradation of a data set; the scale of the data set is the default ``scale`` of the degradation.

    Args:
        section: section of the degradation.
        scale: scale of the data set.
        key: argument of the data set that contains the section, for the key paths of errors.

    Raises:
        ComponentError: the section does not fit its class, or the degradation has another scale.
    """
    degradation: Degradation = DEGRADATIONS.build(_with_scale(section, scale), key=key)
    if degradation.scale != scale:
        expected = f"expected a degradation of the data set's scale, {scale}"
        raise ArgumentError(key or "degradation", f"{expected}, got {section['type']} of scale {degradation.scale}.")
    return degradation


def _with_scale(section: Section, scale: int) -> Section:
    has_scale = isinstance(section.get("type"), str) and "scale" in DEGRADATIONS.parameters(section["type"])
    return {"scale": scale, **section} if has_scale else section


@DEGRADATIONS.register()
class BicubicDown(Degradation):
    """Bicubic downscaling with antialiasing, equal to MATLAB's ``imresize`` (see ``resize``).

    An 8-bit image is rounded to 8 bits, as in a saved PNG file; a float image is only clipped to [0, 1]. A
    degraded side has ceil(side / scale) pixels.

    Args:
        scale: downscaling factor, an integer ≥ 1.
    """

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.margin = 2 * scale if scale > 1 else 0

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Downscale an image (C, H, W)."""
        if self.scale == 1:
            return gt.clone()
        small = imresize(gt, 1 / self.scale)
        return small.clamp_(0, 1) if gt.is_floating_point() else small.round_().clamp_(0, 255).to(torch.uint8)


@DEGRADATIONS.register()
class GaussianNoise(Degradation):
    """White Gaussian noise.

    Args:
        sigma: standard deviation in 8-bit units (0 … 255).
        clip: whether to clip and round the result to 8 bits, as in a saved image. Otherwise the result is float32 and
            may be outside of [0, 1], as in denoising benchmarks.
    """

    def __init__(self, sigma: Range[Sigma], clip: bool = False) -> None:
        self.low, self.high = bounds_of(sigma)
        self.clip = clip

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Add noise to an image (C, H, W)."""
        sigma = self.low + (self.high - self.low) * rng.random()
        noise = torch.from_numpy(rng.standard_normal(tuple(gt.shape), dtype=np.float32))
        noisy = in_unit_range(gt).add(noise, alpha=sigma / 255)
        return _eight_bit(noisy) if self.clip else noisy


@DEGRADATIONS.register()
class JPEG(Degradation):
    """JPEG compression.

    Each crop is compressed as a separate image: the 8×8 blocks start at the corner of the crop.

    Args:
        quality: quality in 1 … 100, or the inclusive [low, high] of its uniform distribution.
    """

    def __init__(self, quality: Range[Annotated[int, Interval(ge=1, le=100)]]) -> None:
        self.low, self.high = map(int, bounds_of(quality))

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Compress an image (C, H, W), C = 1 or 3 (RGB); the result is uint8."""
        quality = int(rng.integers(self.low, self.high, endpoint=True))
        image = _eight_bit(gt).permute(1, 2, 0).numpy()[:, :, ::-1].copy()
        is_encoded, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert is_encoded
        decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED))
        return torch.from_numpy(decoded.reshape(image.shape)[:, :, ::-1].copy()).permute(2, 0, 1)


@DEGRADATIONS.register()
class Chain(Degradation):
    """Several degradations, applied in order.

    Args:
        degradations: sections of the degradations.
        scale: default ``scale`` of the members that have one.

    Raises:
        ComponentError: there are no degradations, or a section does not fit its class.
    """

    def __init__(self, degradations: Sequence[DegradationSection], scale: Scale = 1) -> None:
        check_argument("degradations", degradations, len(degradations) > 0, "at least one degradation")
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
        """Degrade an image (C, H, W)."""
        for member in self.members:
            gt = member(gt, rng)
        return gt

    def for_image(self, index: int, image: Callable[[], Tensor], observation: int = 0) -> BoundDegradation:
        """Bind each member to its full input image, the output of the previous members."""
        bound: list[BoundDegradation] = []
        for member in self.members:
            bound.append(bind(member, index, image, observation))
            image = functools.cache(functools.partial(_degrade_full, bound[-1], image, index))
        return functools.partial(self._degrade_part, bound)

    def _degrade_part(
        self, bound: list[BoundDegradation], gt: Tensor, rng: np.random.Generator, top: int, left: int
    ) -> Tensor:
        for member, degrade in zip(self.members, bound, strict=True):
            gt = degrade(gt, rng, top, left)
            top, left = top // member.scale, left // member.scale
        return gt


def _degrade_full(degrade: BoundDegradation, image: Callable[[], Tensor], index: int) -> Tensor:
    return degrade(image(), np.random.default_rng(index), 0, 0)


@DEGRADATIONS.register()
class BayerMosaic(Degradation):
    """Bayer mosaic: three channels, with 0 where the sensor does not measure a colour.

    The pattern starts at the corner of the full image, so a crop at an odd row or column starts with another pixel of
    the pattern. (A flipped or transposed pattern equals the pattern shifted by one pixel.) In a ``Chain`` put noise
    before the mosaic, because the zeros are not measurements.

    Args:
        pattern: colours of the 2×2 pixels at the top left corner of an image, row by row.

    Raises:
        DataError: an image does not have three channels.
    """

    def __init__(self, pattern: Literal["rggb", "bggr", "grbg", "gbrg"] = "rggb") -> None:
        check_choice("pattern", pattern, ("rggb", "bggr", "grbg", "gbrg"))
        self.pattern = pattern

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Keep one colour of each pixel of an image (3, H, W)."""
        return self._mosaic(gt, rng, 0, 0)

    def for_image(self, index: int, image: Callable[[], Tensor], observation: int = 0) -> BoundDegradation:
        """Return the mosaic as a bound degradation; it is the same for every image."""
        return self._mosaic

    def _mosaic(self, gt: Tensor, rng: np.random.Generator, top: int, left: int) -> Tensor:
        if gt.shape[0] != 3:
            raise DataError(f"BayerMosaic: expected an image of three channels (color: rgb), got {gt.shape[0]}.")
        mosaic = torch.zeros_like(gt)
        for number, color in enumerate(self.pattern):
            row, column = (number // 2 - top) % 2, (number % 2 - left) % 2
            channel = "rgb".index(color)
            mosaic[channel, row::2, column::2] = gt[channel, row::2, column::2]
        return mosaic


def in_unit_range(image: Tensor) -> Tensor:
    """Return an image in [0, 1]: float images unchanged, 8-bit images as float32."""
    return image if image.is_floating_point() else image.float() / 255


def _eight_bit(image: Tensor) -> Tensor:
    return image.mul(255).round_().clamp_(0, 255).to(torch.uint8) if image.is_floating_point() else image


def bounds_of(value: float | Sequence[float]) -> tuple[float, float]:
    """Return the low and the high end of a range, which are equal for a number."""
    low, high = value if isinstance(value, Sequence) else (value, value)
    return low, high
