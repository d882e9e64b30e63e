"""Synthetic rain, haze, motion blur and sensor noise, made from clean images.

They make it possible to try every recipe without its data set. They are simple models of real degradations, so metrics
on them are not comparable with metrics on real data sets.

Interface and ``Range`` arguments are those of ``degradations``. The result for a uint8 image is uint8, as in a saved
file; a float image is only clipped to [0, 1]. With zero strength an image is unchanged.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Interval
from torch import Tensor

from mcir.data.degradations import Degradation, Sigma, bounds_of
from mcir.domains import Fraction, Range
from mcir.registry import DEGRADATIONS

Length: TypeAlias = Annotated[float, Interval(ge=0, le=200)]
"""Length in pixels."""

# Sum of the integer weights of a kernel: weighted sums of 8-bit samples stay below 2²⁴, so float32 is exact.
_ONE = 2**16


@DEGRADATIONS.register()
class RainStreaks(Degradation):
    """Bright parallel streaks of rain, blended by ``1 - (1 - image)·(1 - streaks)`` ("screen").

    Use it to try deraining without the data sets Rain200L, Rain200H, DID, DDN and SPA. Density, length, angle and
    strength are drawn for each image. Each streak has a random position and a random brightness between half of the
    strength and the full strength. Streaks may start outside of the image, so the statistics of a crop are those of a
    larger image.

    Args:
        density: number of streaks per 1,000 pixels.
        length: length in pixels.
        angle: angle to the vertical in degrees, positive if the lower end is on the right.
        strength: brightness of the brightest streaks on black, in [0, 1].
    """

    def __init__(
        self,
        density: Range[Annotated[float, Interval(ge=0, le=1000)]] = (2.0, 8.0),
        length: Range[Length] = (8.0, 24.0),
        angle: Range[Annotated[float, Interval(ge=-90, le=90)]] = (-30.0, 30.0),
        strength: Range[Fraction] = (0.3, 0.8),
    ) -> None:
        self._density = bounds_of(density)
        self._length = bounds_of(length)
        self._angle = bounds_of(angle)
        self._strength = bounds_of(strength)

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Add rain to an image (C, H, W)."""
        density, length, angle, strength = (
            rng.uniform(*bounds) for bounds in (self._density, self._length, self._angle, self._strength)
        )
        path = length * np.linspace(-0.5, 0.5, 2 * math.ceil(length) + 1)
        taps = _taps(path * math.cos(math.radians(angle)), path * math.sin(math.radians(angle)))
        pad = math.ceil(length / 2)
        height, width = gt.shape[1] + 2 * pad, gt.shape[2] + 2 * pad
        count = rng.poisson(density / 1000 * height * width)
        positions = rng.integers(0, height * width, count)
        brightness = strength * rng.uniform(0.5, 1, count)
        centers = np.zeros(height * width, np.float32)
        np.maximum.at(centers, positions, brightness.astype(np.float32))
        peak = max(weight for _, _, weight in taps)
        streaks = _convolve(centers.reshape(height, width), taps, pad) / np.float32(peak)
        image, white = _as_array(gt)
        return _as_tensor(image + (white - image) * np.minimum(streaks, 1)[:, :, None], gt)


@DEGRADATIONS.register()
class SyntheticHaze(Degradation):
    """Haze of the atmospheric scattering model: ``image·t + airlight·(1 - t)`` with ``t = exp(-beta·depth)``.

    Use it to try dehazing without the data set RESIDE, whose depths are measured. Here the depth is a smooth random
    surface in [0, 1]: a sum of waves of 128 to 512 pixels in random directions. Its statistics do not depend on the
    image size.

    Args:
        beta: scattering coefficient.
        airlight: brightness of the haze, in [0, 1], equal in all channels.
    """

    def __init__(
        self, beta: Range[Annotated[float, Interval(ge=0, le=100)]] = (0.6, 1.8), airlight: Range[Fraction] = (0.7, 1.0)
    ) -> None:
        self._beta = bounds_of(beta)
        self._airlight = bounds_of(airlight)

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Add haze to an image (C, H, W)."""
        beta, airlight = rng.uniform(*self._beta), rng.uniform(*self._airlight)
        image, white = _as_array(gt)
        transmission = np.exp(-np.float32(beta) * _depth(gt.shape[1], gt.shape[2], rng))[:, :, None]
        return _as_tensor(image * transmission + np.float32(airlight * float(white)) * (1 - transmission), gt)


@DEGRADATIONS.register()
class MotionBlur(Degradation):
    """Motion blur of a camera: the mean of the image along a straight or smoothly curved path.

    Use it to try deblurring without the data set GoPro, in which each object moves on a separate path. There is no
    gamma correction. The path starts in a random direction, and its turning rate changes linearly between two random
    numbers, which results in arcs and S-shaped curves. The image is mirrored at its borders (without repeating the
    border pixel). A blurred crop equals the crop of the blurred image, bit for bit for 8-bit images.

    Args:
        length: length of the path in pixels, 0 … 200.
        turn: maximum turning rate in degrees per path; 0: straight lines.
    """

    def __init__(
        self, length: Range[Length] = (5.0, 25.0), turn: Annotated[float, Interval(ge=0, le=720)] = 120.0
    ) -> None:
        self._length = bounds_of(length)
        self._turn = turn
        self.margin = math.ceil(self._length[1] / 2)

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Blur an image (C, H, W)."""
        taps = _taps(*self._path(rng))
        image, _ = _as_array(gt)
        padded: Any = cv2.copyMakeBorder(image, *(4 * (self.margin,)), cv2.BORDER_REFLECT_101)
        blurred = _convolve(padded.reshape(*padded.shape[:2], image.shape[2]), taps, self.margin)
        return _as_tensor(blurred / np.float32(_ONE), gt)

    def _path(self, rng: np.random.Generator) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the rows and columns of the points of a path around its centre, within the margin."""
        length, start = rng.uniform(*self._length), rng.uniform(0, 2 * math.pi)
        first, last = np.radians(rng.uniform(-self._turn, self._turn, 2))
        count = max(1, 2 * math.ceil(length))
        along = (np.arange(count) + 0.5) / count
        heading = start + first * along + (last - first) * along**2 / 2
        rows, columns = (np.cumsum(step) * length / count for step in (np.sin(heading), np.cos(heading)))
        return rows - rows.mean(), columns - columns.mean()


@DEGRADATIONS.register()
class SensorNoise(Degradation):
    """White Gaussian sensor noise whose variance increases with the brightness: ``read² + shot²·image``.

    Use it to try denoising without the data set SIDD, whose noise is changed by the image processing of phones.
    ``GaussianNoise``, in contrast, is equally strong in dark and bright regions.

    Args:
        shot: standard deviation of the shot noise at white, in 8-bit units (0 … 255).
        read: standard deviation of the read noise, in 8-bit units (0 … 255).
    """

    def __init__(self, shot: Range[Sigma] = (5.0, 30.0), read: Range[Sigma] = (1.0, 8.0)) -> None:
        self._shot = bounds_of(shot)
        self._read = bounds_of(read)

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Add noise to an image (C, H, W)."""
        shot, read = (rng.uniform(*bounds) / 255 for bounds in (self._shot, self._read))
        image, white = _as_array(gt)
        deviation = np.sqrt(image * np.float32(shot**2 * float(white)) + np.float32((read * float(white)) ** 2))
        return _as_tensor(image + deviation * rng.standard_normal(image.shape, dtype=np.float32), gt)


def _as_array(gt: Tensor) -> tuple[npt.NDArray[np.float32], np.float32]:
    """Return an image (C, H, W) as float32 (H, W, C) in its own range, and the maximum of that range."""
    image = np.ascontiguousarray(gt.permute(1, 2, 0).numpy().astype(np.float32))
    return image, np.float32(1 if gt.is_floating_point() else 255)


def _as_tensor(image: npt.NDArray[np.float32], like: Tensor) -> Tensor:
    """Return an array (H, W, C) as an image (C, H, W), clipped, with the type of ``like``."""
    if like.is_floating_point():
        return torch.from_numpy(np.clip(image, 0, 1)).permute(2, 0, 1).to(like.dtype)
    return torch.from_numpy(np.clip(np.rint(image), 0, 255).astype(np.uint8)).permute(2, 0, 1)


def _depth(height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return a smooth surface (height, width) in [0, 1]: ½ plus half the mean of four plane waves."""
    waves = 4
    lengths = 128 * 4 ** rng.random(waves)
    directions, phases = rng.uniform(0, 2 * math.pi, (2, waves))
    down = np.exp(2j * math.pi * np.outer(np.arange(height), np.sin(directions) / lengths) + 1j * phases)
    across = np.exp(2j * math.pi * np.outer(np.cos(directions) / lengths, np.arange(width)))
    real = down.real.astype(np.float32) @ across.real.astype(np.float32)
    imaginary = down.imag.astype(np.float32) @ across.imag.astype(np.float32)
    surface: npt.NDArray[np.float32] = np.float32(0.5) + (real - imaginary) / np.float32(2 * waves)
    return np.clip(surface, 0, 1)


def _taps(rows: npt.NDArray[Any], columns: npt.NDArray[Any]) -> list[tuple[int, int, int]]:
    """Return the bilinear kernel of a set of points: (row, column, integer weight ≠ 0); the weights sum to ``_ONE``."""
    radius = math.ceil(max(np.abs(rows).max(), np.abs(columns).max())) + 1
    side = 2 * radius + 1
    weights = np.zeros(side * side)
    top, left = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    for down in (0, 1):
        for right in (0, 1):
            fraction = np.abs(1 - down - (rows - top)) * np.abs(1 - right - (columns - left))
            at = (top + down + radius) * side + left + right + radius
            weights += np.bincount(at, fraction, minlength=side * side)
    integers = np.diff(np.rint(np.cumsum(weights) * (_ONE / len(rows))), prepend=0).astype(np.int64)
    return [(int(at // side) - radius, int(at % side) - radius, int(integers[at])) for at in np.flatnonzero(integers)]


def _convolve(image: npt.NDArray[np.float32], taps: list[tuple[int, int, int]], pad: int) -> npt.NDArray[np.float32]:
    """Return the weighted sum of an image (H, W, …) shifted by the taps, without ``pad`` pixels on each side."""
    height, width = image.shape[0] - 2 * pad, image.shape[1] - 2 * pad
    source = torch.from_numpy(image)
    total = torch.zeros(height, width, *image.shape[2:])
    for row, column, weight in taps:
        total.add_(source[pad - row :, pad - column :][:height, :width], alpha=weight)
    return total.numpy()
