"""Stand-ins for the degraded images of data sets: rain, haze, motion blur and sensor noise, made from clean ones.

With them every recipe can be tried before its data set is there. They are simple models of how such images come about,
none is the data set that it stands in for, and a number measured on them says nothing about one measured on that.

All take images of the contract in ``degradations``. What comes from a uint8 image is uint8, as if it had been saved; a
float image is clipped to [0, 1] only. At zero strength an image comes back as it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcir.data.degradations import range_of
from mcir.registry import DEGRADATIONS

# The sum of a kernel's whole weights: sums over 8-bit samples stay below 2²⁴, so float32 holds them exactly.
_ONE = 2**16


@DEGRADATIONS.register()
class RainStreaks:
    """Bright streaks of rain in one direction, blended by screen: ``1 - (1 - image)·(1 - streaks)``.

    A stand-in, none of the data sets Rain200L, Rain200H, DID, DDN and SPA. Length, direction, density and strength are
    drawn for each image; each streak has a place of its own and between a half and the whole of the strength. Streaks
    from outside of the image reach into it, so a crop looks like a part of a larger image (not of the same one).

    Args:
        density: streaks whose middle lies on 1,000 pixels; a number or the [low, high] it is drawn between, uniformly,
            like all that follow.
        length: pixels from end to end.
        angle: degrees from the vertical, positive when the lower end is at the right.
        strength: 0 … 1, the grey that the brightest streaks add to black.

    Raises:
        DataError: a number out of range, or a reversed range.
    """

    scale = 1
    margin = 0

    def __init__(
        self,
        density: float | Sequence[float] = (2.0, 8.0),
        length: float | Sequence[float] = (8.0, 24.0),
        angle: float | Sequence[float] = (-30.0, 30.0),
        strength: float | Sequence[float] = (0.3, 0.8),
    ) -> None:
        self._density = range_of("RainStreaks", "density", density, 0, 1000)
        self._length = range_of("RainStreaks", "length", length, 0, 200)
        self._angle = range_of("RainStreaks", "angle", angle, -90, 90)
        self._strength = range_of("RainStreaks", "strength", strength, 0, 1)

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Let it rain on one image (C, H, W)."""
        density, length, angle, strength = (
            rng.uniform(*bounds) for bounds in (self._density, self._length, self._angle, self._strength)
        )
        path = length * np.linspace(-0.5, 0.5, 2 * math.ceil(length) + 1)
        taps = _taps(path * math.cos(math.radians(angle)), path * math.sin(math.radians(angle)))
        pad = math.ceil(length / 2)
        height, width = gt.shape[1] + 2 * pad, gt.shape[2] + 2 * pad
        count = rng.poisson(density / 1000 * height * width)
        places = rng.integers(0, height * width, count)
        brightness = strength * rng.uniform(0.5, 1, count)
        seeds = np.zeros(height * width, np.float32)
        np.maximum.at(seeds, places, brightness.astype(np.float32))
        peak = max(weight for _, _, weight in taps)
        streaks = _spread(seeds.reshape(height, width), taps, pad) / np.float32(peak)
        image, full = _samples(gt)
        return _saved(image + (full - image) * np.minimum(streaks, 1)[:, :, None], gt)


@DEGRADATIONS.register()
class SyntheticHaze:
    """Haze by the model of atmospheric scattering, ``image·t + airlight·(1 - t)`` with ``t = exp(-beta·depth)``.

    A stand-in, not the data set RESIDE, whose depths are measured. The depth here is a smooth random surface in
    [0, 1]: a sum of a few waves, 128 to 512 pixels long, in random directions, so it varies in a crop as it does in a
    part of a larger image.

    Args:
        beta: strength of the scattering; a number or the [low, high] it is drawn between, uniformly.
        airlight: brightness of the haze itself, 0 … 1, in all channels alike; the same.

    Raises:
        DataError: a number out of range, or a reversed range.
    """

    scale = 1
    margin = 0

    def __init__(
        self, beta: float | Sequence[float] = (0.6, 1.8), airlight: float | Sequence[float] = (0.7, 1.0)
    ) -> None:
        self._beta = range_of("SyntheticHaze", "beta", beta, 0, float("inf"))
        self._airlight = range_of("SyntheticHaze", "airlight", airlight, 0, 1)

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Lay haze over one image (C, H, W)."""
        beta, airlight = rng.uniform(*self._beta), rng.uniform(*self._airlight)
        image, full = _samples(gt)
        passed = np.exp(-np.float32(beta) * _depth(gt.shape[1], gt.shape[2], rng))[:, :, None]
        air = np.float32(airlight * float(full))
        return _saved(image * passed + air * (1 - passed), gt)


@DEGRADATIONS.register()
class MotionBlur:
    """Blur of a moving camera: the mean of the image along a straight or smoothly bent path.

    A stand-in, not the data set GoPro, in which things move each on its own way, and not gamma-corrected. The path
    begins in a random direction; its rate of turning goes evenly from one random number to another, which gives arcs
    and S-bends. The image is mirrored at its borders (without repeating the edge). What is beyond a crop goes in by the
    margin, so that a blurred crop is the crop of the blurred image, of 8-bit images bit for bit.

    Args:
        length: pixels from end to end of the path, 0 … 200; a number or the [low, high] it is drawn between, uniformly.
        turn: largest rate of turning in degrees over the whole path; 0 gives straight lines.

    Raises:
        DataError: a number out of range, or a reversed range.
    """

    scale = 1

    def __init__(self, length: float | Sequence[float] = (5.0, 25.0), turn: float = 120.0) -> None:
        self._length = range_of("MotionBlur", "length", length, 0, 200)
        self._turn = range_of("MotionBlur", "turn", turn, 0, 720)[1]
        self.margin = math.ceil(self._length[1] / 2)

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Blur one image (C, H, W)."""
        taps = _taps(*self._path(rng))
        image, _ = _samples(gt)
        wide: Any = cv2.copyMakeBorder(image, *(4 * (self.margin,)), cv2.BORDER_REFLECT_101)
        blurred = _spread(wide.reshape(*wide.shape[:2], image.shape[2]), taps, self.margin)
        return _saved(blurred / np.float32(_ONE), gt)

    def _path(self, rng: np.random.Generator) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the rows and columns of the points of a path around its middle, never beyond the margin."""
        length, start = rng.uniform(*self._length), rng.uniform(0, 2 * math.pi)
        first, last = np.radians(rng.uniform(-self._turn, self._turn, 2))
        count = max(1, 2 * math.ceil(length))
        along = (np.arange(count) + 0.5) / count
        heading = start + first * along + (last - first) * along**2 / 2
        rows, columns = (np.cumsum(step) * length / count for step in (np.sin(heading), np.cos(heading)))
        return rows - rows.mean(), columns - columns.mean()


@DEGRADATIONS.register()
class SensorNoise:
    """Noise of a camera: white and Gaussian, its variance growing with the light, ``read² + shot²·image``.

    A stand-in, not the data set SIDD, whose noise went through the processing of a phone. ``GaussianNoise`` has one
    strength for dark and bright.

    Args:
        shot: standard deviation of the light's own noise at white, in 8-bit units (of 255); a number or the [low, high]
            it is drawn between, uniformly.
        read: standard deviation of the sensor's noise in the dark, in 8-bit units; the same.

    Raises:
        DataError: a negative number, or a reversed range.
    """

    scale = 1
    margin = 0

    def __init__(self, shot: float | Sequence[float] = (5.0, 30.0), read: float | Sequence[float] = (1.0, 8.0)) -> None:
        self._shot = range_of("SensorNoise", "shot", shot, 0, float("inf"))
        self._read = range_of("SensorNoise", "read", read, 0, float("inf"))

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Add noise to one image (C, H, W)."""
        shot, read = (rng.uniform(*bounds) / 255 for bounds in (self._shot, self._read))
        image, full = _samples(gt)
        deviation = np.sqrt(image * np.float32(shot**2 * float(full)) + np.float32((read * float(full)) ** 2))
        return _saved(image + deviation * rng.standard_normal(image.shape, dtype=np.float32), gt)


# -- parts ------------------------------------------------------------------------------------------------------------


def _samples(gt: Tensor) -> tuple[npt.NDArray[np.float32], np.float32]:
    """Return an image (C, H, W) as float32 (H, W, C) in its own range, and the top of that range."""
    image = np.ascontiguousarray(gt.permute(1, 2, 0).numpy().astype(np.float32))
    return image, np.float32(1 if gt.is_floating_point() else 255)


def _saved(image: npt.NDArray[np.float32], like: Tensor) -> Tensor:
    """Return samples (H, W, C) as an image (C, H, W) of the type that ``like`` has."""
    if like.is_floating_point():
        return torch.from_numpy(np.clip(image, 0, 1)).permute(2, 0, 1).to(like.dtype)
    return torch.from_numpy(np.clip(np.rint(image), 0, 255).astype(np.uint8)).permute(2, 0, 1)


def _depth(height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return a smooth surface (height, width) in [0, 1]: ½ and a half of the mean of some plane waves."""
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
    """Return the kernel of points between the pixels: (row, column, whole weight) where it is not 0, sum ``_ONE``."""
    reach = math.ceil(max(np.abs(rows).max(), np.abs(columns).max())) + 1
    side = 2 * reach + 1
    weights = np.zeros(side * side)
    top, left = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    for down in (0, 1):
        for right in (0, 1):
            share = np.abs(1 - down - (rows - top)) * np.abs(1 - right - (columns - left))
            at = (top + down + reach) * side + left + right + reach
            weights += np.bincount(at, share, minlength=side * side)
    whole = np.diff(np.rint(np.cumsum(weights) * (_ONE / len(rows))), prepend=0).astype(np.int64)
    return [(int(at // side) - reach, int(at % side) - reach, int(whole[at])) for at in np.flatnonzero(whole)]


def _spread(image: npt.NDArray[np.float32], taps: list[tuple[int, int, int]], pad: int) -> npt.NDArray[np.float32]:
    """Return the weighted sum of an image (H, W, …) moved along the taps, without ``pad`` pixels on each side."""
    height, width = image.shape[0] - 2 * pad, image.shape[1] - 2 * pad
    source = torch.from_numpy(image)
    total = torch.zeros(height, width, *image.shape[2:])
    for row, column, weight in taps:
        total.add_(source[pad - row :, pad - column :][:height, :width], alpha=weight)
    return total.numpy()
