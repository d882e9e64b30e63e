"""Noise whose strength grows with the light, of a strength that belongs to each image.

It is the noise of "Residual Contrastive Learning for Image Reconstruction" (arXiv 2106.10070): Gaussian in each pixel,
of the variance ``shot·clean + read``, with one pair of numbers (shot, read) for every image. Images differ in them, and
that is what contrastive learning on residuals tells apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcir.data.degradations import in_unit_range, range_of
from mcir.data.errors import DataError
from mcir.registry import DEGRADATIONS

_DARKEST = 0.05
"""A mean below which an image counts as that bright, so that its shot noise stays finite."""
_LOG_SHOT = math.log(1e-4), math.log(1.2e-2)
_TILE = 64
_TRIES = 10_000


class Level(NamedTuple):
    """The noise of an image: intensities are in [0, 1], the variance is ``shot·clean + read``."""

    shot: float
    read: float


@DEGRADATIONS.register()
class HeteroscedasticNoise:
    """Gaussian noise of the variance ``shot·clean + read``, with numbers that belong to the image.

    They are a function of the seed, the number of the image in its data set and the mean of the whole image, so they
    are the same in every epoch and every crop. The result is float32, neither clipped nor rounded: either would change
    the distribution of the noise.

    Args:
        sigma: [low, high] of the noise's standard deviation over the whole image, in 8-bit units (of 255).
        read_share: [low, high] of the read noise's share in the variance, 0 … 1, drawn uniformly; [0, 0.5] without.
            Only of the sampler "uniform".
        sampler: "uniform" draws sigma uniformly and makes it the root of the mean variance (of images darker than
            0.05, a bound of it); "unprocessing" draws as Brooks et al. 2019 do for raw photographs, shot log-uniformly
            in [0.0001, 0.012] and read from it, again until sigma (at the mean of the image) lies in the range.
        realisation: "redrawn": each sample has noise of its own; "fixed": there is one noisy image of each clean one,
            and crops are cut from that.
        seed: ≥ 0.

    Raises:
        DataError: a number or a range that makes no sense; of an image, that "unprocessing" cannot meet the range.
    """

    scale = 1
    margin = 0

    def __init__(
        self,
        sigma: float | Sequence[float] = (0.0, 20.0),
        read_share: float | Sequence[float] | None = None,
        sampler: Literal["uniform", "unprocessing"] = "uniform",
        realisation: Literal["redrawn", "fixed"] = "redrawn",
        seed: int = 0,
    ) -> None:
        if sampler not in ("uniform", "unprocessing"):
            raise DataError(f"HeteroscedasticNoise: sampler is {sampler!r}; it must be 'uniform' or 'unprocessing'.")
        if realisation not in ("redrawn", "fixed"):
            raise DataError(f"HeteroscedasticNoise: realisation is {realisation!r}; it must be 'redrawn' or 'fixed'.")
        if sampler == "unprocessing" and read_share is not None:
            raise DataError("HeteroscedasticNoise: read_share goes with the sampler 'uniform'; leave it out.")
        if seed < 0:
            raise DataError(f"HeteroscedasticNoise: seed is {seed}; it must be at least 0.")
        self._sigma = range_of("HeteroscedasticNoise", "sigma", sigma, 0, float("inf"))
        share = (0.0, 0.5) if read_share is None else read_share
        self._read_share = range_of("HeteroscedasticNoise", "read_share", share, 0, 1)
        self._sampler, self._fixed, self._seed = sampler, realisation == "fixed", seed

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Add noise to one whole image (C, H, W) that is of no data set: the generator decides its parameters, too."""
        return self.of_image(int(rng.integers(2**62)), lambda: gt)(gt, rng, 0, 0)

    def of_image(self, index: int, image: Callable[[], Tensor], observation: int = 0) -> NoiseOfImage:
        """Return the noise of one image; see ``degradations.PerImage``. A second observation has a noise of its own."""
        clean = image()
        mean = clean.double().mean().item() / (1 if clean.is_floating_point() else 255)
        stream = (self._seed, index, observation) if self._fixed else None
        return NoiseOfImage(self.level(index, mean), stream)

    def level(self, index: int, mean: float) -> Level:
        """Return the parameters of one image.

        Args:
            index: its number in the data set.
            mean: of the whole clean image, in [0, 1].

        Raises:
            DataError: no draw meets the range of sigma.
        """
        rng = np.random.default_rng(np.random.SeedSequence((self._seed, index), spawn_key=(0,)))
        low, high = (bound / 255 for bound in self._sigma)
        if self._sampler == "uniform":
            variance, share = rng.uniform(low, high) ** 2, rng.uniform(*self._read_share)
            return Level((1 - share) * variance / max(mean, _DARKEST), share * variance)
        for _ in range(_TRIES):
            log_shot = rng.uniform(*_LOG_SHOT)
            shot, read = math.exp(log_shot), math.exp(rng.normal(2.18 * log_shot + 1.20, 0.26))
            if low <= math.sqrt(shot * mean + read) <= high:
                return Level(shot, read)
        raise DataError(
            f"HeteroscedasticNoise: of {_TRIES:,} draws for image {index}, of the mean {mean:.3f}, none has a sigma in "
            f"[{low * 255:g}, {high * 255:g}]; widen it, or take the sampler 'uniform'."
        )


class NoiseOfImage:
    """The noise of one image.

    Args:
        level: its parameters.
        stream: decides every value of the noise by its place; without, the generator of a sample does.
    """

    def __init__(self, level: Level, stream: tuple[int, int, int] | None) -> None:
        self.level = level
        self._stream = stream

    def __call__(self, gt: Tensor, rng: np.random.Generator, top: int, left: int) -> Tensor:
        """Add noise to a part (C, h, w) of the image; see ``degradations.Bound``."""
        if self._stream is None:
            z = rng.standard_normal(tuple(gt.shape), dtype=np.float32)
        else:
            z = _field(self._stream, top, left, *gt.shape)
        return noisy(in_unit_range(gt), self.level, torch.from_numpy(z))


def noisy(clean: Tensor, level: Level, z: Tensor) -> Tensor:
    """Return ``clean + sqrt(shot·clean + read)·z`` for standard normal ``z``; where the variance is negative, clean."""
    return clean + (level.shot * clean + level.read).clamp_min_(0).sqrt_().mul_(z)


def _field(
    stream: tuple[int, int, int], top: int, left: int, channels: int, height: int, width: int
) -> npt.NDArray[np.float32]:
    """Return a part (C, h, w) of white noise over the plane, made in tiles, so that no more is made than is cut."""
    seed, index, observation = stream
    first_row, first_column = top // _TILE, left // _TILE
    bands = []
    for row in range(first_row, (top + height - 1) // _TILE + 1):
        tiles = []
        for column in range(first_column, (left + width - 1) // _TILE + 1):
            place = np.random.SeedSequence((seed, index), spawn_key=(1, observation, row, column))
            tiles.append(np.random.default_rng(place).standard_normal((channels, _TILE, _TILE), dtype=np.float32))
        bands.append(np.concatenate(tiles, axis=2))
    top, left = top - first_row * _TILE, left - first_column * _TILE
    return np.ascontiguousarray(np.concatenate(bands, axis=1)[:, top : top + height, left : left + width])
