"""Negatives computed from the images of the batch: the input, and blurred ground truths."""

import math
from collections.abc import Iterator
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from mcir.domains import Count, CountOrZero, Pair, Seed
from mcir.models.negatives.base import Negatives, StepCounter, generator
from mcir.registry import NEGATIVES

_BLUR, _SHARPEN = 1, 2  # numbers of the random generators
_SMOOTHING = ((1, 1, 1), (1, 5, 1), (1, 1, 1))  # over 13


@NEGATIVES.register()
class InputNegatives(Negatives):
    """The degraded input, N = 1, as in contrastive regularization (AECR-Net, CVPR 2021, arXiv:2104.09367).

    If the ground truth is larger, the input is resized as in the released code of PCL-SISR: with torch's bicubic
    interpolation (a = −¾, unlike MATLAB's) and ``align_corners``, clamped to [0, 1].

    Args:
        network: trained network, which is not used.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()

    @torch.no_grad()
    def forward(self, lq: Tensor, gt: Tensor | None = None, stored: Tensor | None = None) -> Tensor:
        """Return ``lq`` (B, C, H, W) as (1, B, C, sH, sW). Without ``gt``, the size does not change."""
        if gt is None or lq.shape[-2:] == gt.shape[-2:]:
            return lq.detach()[None]
        return F.interpolate(lq, gt.shape[-2:], mode="bicubic", align_corners=True).clamp_(0, 1)[None]


@NEGATIVES.register()
class HardNegatives(Negatives):
    """Blurred ground truths as negatives, and sharpened ground truths as additional positives.

    These are the hard negatives and informative positives of PCL ("A Practical Contrastive Learning Framework for
    Single-Image Super-Resolution", TNNLS 2023, arXiv:2111.13924), with the ranges of the released code. Each negative
    is blurred by a Gaussian whose size (3, 5 … 11 pixels) and σ are drawn separately for height and width. Each
    positive is f·gt + (1 − f)·smooth(gt) with a random f, where smooth is Pillow's 3×3 kernel, which does not change
    the border. All are rounded to 8 bits. PCL's first negative, the resized input, is ``InputNegatives``.

    All images of a batch get the same random numbers, so they are equal in all processes and with gradient
    accumulation. The released code draws f for each image. A factor f < 1, which is in the default range, blurs.

    Args:
        network: trained network, which is not used.
        blurred: number of negatives.
        sharpened: number of additional positives.
        sigma: minimum and maximum σ of the blur in pixels.
        radius: maximum radius of the blur in pixels; the minimum is 1.
        sharpness: minimum and maximum f.
        seed: seed for the random numbers.
    """

    def __init__(
        self,
        network: nn.Module,
        blurred: Count = 3,
        sharpened: CountOrZero = 3,
        sigma: Pair[Annotated[float, Interval(gt=0, le=100)]] = (0.1, 2.0),
        radius: Annotated[int, Interval(ge=1, le=100)] = 5,
        sharpness: Pair[Annotated[float, Interval(ge=0, le=100)]] = (0.5, 3.0),
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        self.blurred, self.sharpened = blurred, sharpened
        self.sigma, self.radius, self.sharpness = sigma, radius, sharpness
        self.seed = seed
        self.clock = StepCounter()  # the attribute name is a key in checkpoints

    @torch.no_grad()
    def forward(self, lq: Tensor, gt: Tensor | None = None, stored: Tensor | None = None) -> Tensor:
        """Return blurred ``gt`` (B, C, sH, sW) as (N, B, C, sH, sW).

        Raises:
            ValueError: ``gt`` is missing.
        """
        if gt is None:
            raise ValueError("HardNegatives: expected the ground truths 'gt', which are blurred, got None.")
        return torch.stack([_blurred(gt, *kernels) for kernels in self.kernels()])

    @torch.no_grad()
    def positives(self, gt: Tensor) -> list[Tensor]:
        """Return ``gt`` (B, C, sH, sW) and its sharpened versions."""
        smooth = _smoothed(gt)
        return [gt, *(_round_to_8_bits(torch.lerp(smooth, gt, factor)) for factor in self.factors())]

    def kernels(self) -> Iterator[tuple[list[float], list[float]]]:
        """Yield the vertical and horizontal blur kernel of each negative in this iteration."""
        rng = generator(self.seed, self.clock.iteration, _BLUR)
        for _ in range(self.blurred):
            vertical, horizontal = (
                _gaussian(int(radius), float(sigma))
                for radius, sigma in zip(rng.integers(1, self.radius + 1, 2), rng.uniform(*self.sigma, 2), strict=True)
            )
            yield vertical, horizontal

    def factors(self) -> list[float]:
        """Return the sharpening factor of each positive in this iteration; 1 gives the ground truth."""
        rng = generator(self.seed, self.clock.iteration, _SHARPEN)
        factors: list[float] = rng.uniform(*self.sharpness, self.sharpened).tolist()
        return factors

    def start_from(self, network: nn.Module) -> None:
        """Restart at the first iteration."""
        self.clock.iteration = 1

    def update(
        self, network: nn.Module, iteration: int, output: Tensor | None = None, gt: Tensor | None = None
    ) -> None:
        """Advance to the next iteration."""
        self.clock.iteration = iteration + 1


def _gaussian(radius: int, sigma: float) -> list[float]:
    """Return the 2·radius + 1 weights of a Gaussian, which sum to 1."""
    weights = [math.exp(-(distance**2) / (2 * sigma**2)) for distance in range(-radius, radius + 1)]
    return [weight / sum(weights) for weight in weights]


def _blurred(image: Tensor, vertical: list[float], horizontal: list[float]) -> Tensor:
    """Blur (B, C, H, W) with a separable kernel, mirrored at the border, and round it to 8 bits."""
    return _round_to_8_bits(_convolved(_convolved(image, vertical, -2), horizontal, -1))


def _convolved(image: Tensor, weights: list[float], dim: int) -> Tensor:
    """Convolve an image along a dimension. At the border the image is mirrored, with the edge pixel repeated."""
    length, radius = image.shape[dim], len(weights) // 2
    indices = torch.arange(-radius, length + radius, device=image.device) % (2 * length)
    wide = image.index_select(dim, torch.minimum(indices, 2 * length - 1 - indices))
    total = torch.zeros_like(image)
    for offset, weight in enumerate(weights):
        total.add_(wide.narrow(dim, offset, length), alpha=weight)
    return total


def _smoothed(image: Tensor) -> Tensor:
    """Smooth (B, C, H, W) with Pillow's kernel; the border does not change."""
    smooth = image.clone()
    height, width = image.shape[-2:]
    if min(height, width) > 2:
        inner = smooth[..., 1:-1, 1:-1].zero_()
        for row, weights in enumerate(_SMOOTHING):
            for column, weight in enumerate(weights):
                inner.add_(image[..., row : row + height - 2, column : column + width - 2], alpha=weight / 13)
    return smooth


def _round_to_8_bits(image: Tensor) -> Tensor:
    """Round an image in [0, 1] to multiples of 1/255, in place."""
    return image.mul_(255).round_().clamp_(0, 255).div_(255)
