"""Signal-dependent noise with its own strength for each image.

This is the noise model of "Residual Contrastive Learning for Image Reconstruction" (arXiv 2106.10070): Gaussian noise
with the variance ``shot·clean + read`` in each pixel, and one pair of parameters (shot, read) for each image.
Contrastive learning on residuals distinguishes images by these parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcir.checks import check_argument, check_choice
from mcir.data.degradations import Degradation, Sigma, bounds_of, in_unit_range
from mcir.data.errors import DataError
from mcir.domains import Fraction, Range, Seed
from mcir.registry import DEGRADATIONS

_MIN_MEAN = 0.05
"""Lower bound of the mean of an image, so that its shot noise stays finite."""
_LOG_SHOT = math.log(1e-4), math.log(1.2e-2)
_TILE = 64
_TRIES = 10_000


class NoiseParameters(NamedTuple):
    """Noise parameters of an image in [0, 1]; the variance is ``shot·clean + read``."""

    shot: float
    read: float


@DEGRADATIONS.register()
class HeteroscedasticNoise(Degradation):
    """Gaussian noise with the variance ``shot·clean + read`` and different parameters for each image.

    The parameters depend on the seed, the index of the image in its data set, and the mean of the full image. So they
    are the same in every epoch and every crop. The result is float32. It is neither clipped nor rounded, because both
    would change the distribution of the noise.

    Args:
        sigma: range [low, high] of the standard deviation over the full image, in 8-bit units (0 … 255).
        read_share: range [low, high] of the fraction of the variance that is read noise, in [0, 1]; None: [0, 0.5].
            The sampler "unprocessing" does not accept it.
        sampler: method that draws the parameters. "uniform": sigma, the square root of the mean variance, is uniform
            (for images with a mean below 0.05 it is an upper bound). "unprocessing": the distribution of Brooks et al.
            2019 for raw photographs; shot is log-uniform in [0.0001, 0.012] and read depends on shot. Draws are
            repeated until sigma at the mean of the image is in the range.
        realisation: "redrawn": each sample has new noise. "fixed": each clean image has one noisy image, from which
            crops are taken.
        seed: seed of the parameters and of fixed noise, ≥ 0.

    Raises:
        DataError: the sampler "unprocessing" finds no sigma in the range for an image.
    """

    def __init__(
        self,
        sigma: Range[Sigma] = (0.0, 20.0),
        read_share: Range[Fraction] | None = None,
        sampler: Literal["uniform", "unprocessing"] = "uniform",
        realisation: Literal["redrawn", "fixed"] = "redrawn",
        seed: Seed = 0,
    ) -> None:
        check_choice("sampler", sampler, ("uniform", "unprocessing"))
        check_choice("realisation", realisation, ("redrawn", "fixed"))
        is_used = sampler == "uniform" or read_share is None
        check_argument("read_share", read_share, is_used, "null with the sampler 'unprocessing'")
        self._sigma = bounds_of(sigma)
        self._read_share = bounds_of((0.0, 0.5) if read_share is None else read_share)
        self._sampler, self._fixed, self._seed = sampler, realisation == "fixed", seed

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        """Add noise to a full image (C, H, W); the generator also determines the parameters."""
        return self.for_image(int(rng.integers(2**62)), lambda: gt)(gt, rng, 0, 0)

    def for_image(self, index: int, image: Callable[[], Tensor], observation: int = 0) -> ImageNoise:
        """Return the noise of an image (see ``degradations.PerImage``); observations have different noise."""
        clean = image()
        mean = clean.double().mean().item() / (1 if clean.is_floating_point() else 255)
        stream = (self._seed, index, observation) if self._fixed else None
        return ImageNoise(self.parameters(index, mean), stream)

    def parameters(self, index: int, mean: float) -> NoiseParameters:
        """Draw the noise parameters of an image.

        Args:
            index: index of the image in the data set.
            mean: mean of the full clean image, in [0, 1].

        Raises:
            DataError: no draw has a sigma in the range.
        """
        rng = np.random.default_rng(np.random.SeedSequence((self._seed, index), spawn_key=(0,)))
        low, high = (bound / 255 for bound in self._sigma)
        if self._sampler == "uniform":
            variance, share = rng.uniform(low, high) ** 2, rng.uniform(*self._read_share)
            return NoiseParameters((1 - share) * variance / max(mean, _MIN_MEAN), share * variance)
        for _ in range(_TRIES):
            log_shot = rng.uniform(*_LOG_SHOT)
            shot, read = math.exp(log_shot), math.exp(rng.normal(2.18 * log_shot + 1.20, 0.26))
            if low <= math.sqrt(shot * mean + read) <= high:
                return NoiseParameters(shot, read)
        raise DataError(
            f"HeteroscedasticNoise: none of {_TRIES:,} draws for image {index} with the mean {mean:.3f} has a sigma in "
            f"[{low * 255:g}, {high * 255:g}]; widen the range or use the sampler 'uniform'"
        )


class ImageNoise(NamedTuple):
    """The noise of one image.

    Attributes:
        parameters: parameters of the noise.
        stream: (seed, index, observation), which determines fixed noise at each position; None: the generator of a
            sample determines the noise.
    """

    parameters: NoiseParameters
    stream: tuple[int, int, int] | None

    def __call__(self, gt: Tensor, rng: np.random.Generator, top: int, left: int) -> Tensor:
        """Add noise to a part (C, h, w) of the image; see ``degradations.BoundDegradation``."""
        if self.stream is None:
            z = rng.standard_normal(tuple(gt.shape), dtype=np.float32)
        else:
            z = _noise_field(self.stream, top, left, *gt.shape)
        return add_noise(in_unit_range(gt), self.parameters, torch.from_numpy(z))


def add_noise(clean: Tensor, parameters: NoiseParameters, z: Tensor) -> Tensor:
    """Return ``clean + sqrt(shot·clean + read)·z`` for standard normal ``z``; negative variances are clamped to 0."""
    return clean + (parameters.shot * clean + parameters.read).clamp_min_(0).sqrt_().mul_(z)


def _noise_field(
    stream: tuple[int, int, int], top: int, left: int, channels: int, height: int, width: int
) -> npt.NDArray[np.float32]:
    """Return a part (C, h, w) of an unbounded field of white noise; only the tiles that it covers are generated."""
    seed, index, observation = stream
    first_row, first_column = top // _TILE, left // _TILE
    bands = []
    for row in range(first_row, (top + height - 1) // _TILE + 1):
        tiles = []
        for column in range(first_column, (left + width - 1) // _TILE + 1):
            sequence = np.random.SeedSequence((seed, index), spawn_key=(1, observation, row, column))
            tiles.append(np.random.default_rng(sequence).standard_normal((channels, _TILE, _TILE), dtype=np.float32))
        bands.append(np.concatenate(tiles, axis=2))
    top, left = top - first_row * _TILE, left - first_column * _TILE
    return np.ascontiguousarray(np.concatenate(bands, axis=1)[:, top : top + height, left : left + width])
