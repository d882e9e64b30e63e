"""Negatives that are made from the images of the batch alone: the input, and the blurred ground truth."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcir.models.negatives.base import Clock, Negatives, generator
from mcir.registry import NEGATIVES

_BLURRED, _SHARPENED = 1, 2  # streams of random numbers
_SMOOTHING = ((1, 1, 1), (1, 5, 1), (1, 1, 1))  # over 13


@NEGATIVES.register()
class InputNegatives(Negatives):
    """The degraded input, N = 1, as in contrastive regularization (AECR-Net, CVPR 2021, arXiv:2104.09367).

    Where the ground truth has another size, the input is resized to it as the released code of PCL-SISR does it: by
    torch's bicubic interpolation (a = −¾, not MATLAB's) with ``align_corners``, clamped to [0, 1].

    Args:
        network: the network in training, of which nothing is needed.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()

    @torch.no_grad()
    def forward(self, lq: Tensor, gt: Tensor, stored: Tensor | None = None) -> Tensor:
        """Return ``lq`` (B, C, H, W) as (1, B, C, sH, sW)."""
        if lq.shape[-2:] == gt.shape[-2:]:
            return lq.detach()[None]
        return F.interpolate(lq, gt.shape[-2:], mode="bicubic", align_corners=True).clamp_(0, 1)[None]


@NEGATIVES.register()
class HardNegatives(Negatives):
    """Blurred ground truths as negatives, and sharpened ones as further positives.

    The hard negatives and informative positives of PCL ("A Practical Contrastive Learning Framework for Single-Image
    Super-Resolution", TNNLS 2023, arXiv:2111.13924), with the numbers of its released code: each negative is blurred by
    a Gaussian whose sides (3, 5 … 11 pixels) and σ are drawn for height and width apart; each positive is
    f·gt + (1 − f)·smooth(gt) with a drawn f, where smooth is Pillow's 3×3 kernel, which leaves the border as it is. All
    are rounded to 8 bits. PCL's first negative, the resized input, comes with ``InputNegatives``.

    Numbers are drawn for each iteration and shared by its whole batch, so that they are the same in every process and
    in every part of a divided batch. (The release draws f for each image; f < 1, which its range has, blurs.)

    Args:
        network: the network in training, of which nothing is needed.
        blurred: number of negatives.
        sharpened: number of positives beside the ground truth.
        sigma: the least and the largest σ of the blur in pixels.
        radius: the largest reach of the blur in pixels; each blur reaches 1 to this many.
        sharpness: the least and the largest f.
        seed: of what is drawn.

    Raises:
        ValueError: no negative, fewer than no positives, or a range that is none.
    """

    def __init__(
        self,
        network: nn.Module,
        blurred: int = 3,
        sharpened: int = 3,
        sigma: tuple[float, float] = (0.1, 2.0),
        radius: int = 5,
        sharpness: tuple[float, float] = (0.5, 3.0),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if blurred < 1 or sharpened < 0 or radius < 1:
            raise ValueError(
                "HardNegatives: blurred and radius are at least 1 and sharpened at least 0, not "
                f"{blurred}, {radius} and {sharpened}."
            )
        if not 0 < sigma[0] <= sigma[1] < math.inf or not 0 <= sharpness[0] <= sharpness[1] < math.inf:
            raise ValueError(
                "HardNegatives: sigma and sharpness are finite ranges [least, largest], sigma above 0 and sharpness "
                f"from 0 on, not {list(sigma)} and {list(sharpness)}."
            )
        self.blurred, self.sharpened = blurred, sharpened
        self.sigma, self.radius, self.sharpness = sigma, radius, sharpness
        self.seed = seed
        self.clock = Clock()

    @torch.no_grad()
    def forward(self, lq: Tensor, gt: Tensor, stored: Tensor | None = None) -> Tensor:
        """Return blurred ``gt`` (B, C, sH, sW) as (N, B, C, sH, sW)."""
        return torch.stack([_blurred(gt, *kernels) for kernels in self.kernels()])

    @torch.no_grad()
    def positives(self, gt: Tensor) -> list[Tensor]:
        """Return ``gt`` (B, C, sH, sW) and what is sharpened of it, 1 + sharpened images of that size."""
        smooth = _smoothed(gt)
        return [gt, *(_in_8_bits(torch.lerp(smooth, gt, factor)) for factor in self.factors())]

    def kernels(self) -> Iterator[tuple[list[float], list[float]]]:
        """Yield the blur of each negative at this iteration: its weights down and across."""
        rng = generator(self.seed, self.clock.iteration, _BLURRED)
        for _ in range(self.blurred):
            down, across = (
                _gaussian(int(reach), float(sigma))
                for reach, sigma in zip(rng.integers(1, self.radius + 1, 2), rng.uniform(*self.sigma, 2), strict=True)
            )
            yield down, across

    def factors(self) -> list[float]:
        """Return how much each positive is sharpened at this iteration; 1 is the ground truth itself."""
        rng = generator(self.seed, self.clock.iteration, _SHARPENED)
        factors: list[float] = rng.uniform(*self.sharpness, self.sharpened).tolist()
        return factors

    def start_from(self, network: nn.Module) -> None:
        """Begin anew at the first iteration."""
        self.clock.iteration = 1

    def update(self, network: nn.Module, iteration: int, output: Tensor, gt: Tensor) -> None:
        """Go on to what is drawn for the next iteration."""
        self.clock.iteration = iteration + 1


def _gaussian(radius: int, sigma: float) -> list[float]:
    """Return the 2·radius + 1 weights of a Gaussian, which sum to one."""
    weights = [math.exp(-(distance**2) / (2 * sigma**2)) for distance in range(-radius, radius + 1)]
    return [weight / sum(weights) for weight in weights]


def _blurred(image: Tensor, down: list[float], across: list[float]) -> Tensor:
    """Blur (B, C, H, W) by a kernel for each direction and round it; beyond its border the image is mirrored."""
    image = _convolved(image, down, -2)
    return _in_8_bits(_convolved(image, across, -1))


def _convolved(image: Tensor, weights: list[float], dim: int) -> Tensor:
    """Return the weighted sum of the image moved along a dimension."""
    length, radius = image.shape[dim], len(weights) // 2
    places = torch.arange(-radius, length + radius, device=image.device) % (2 * length)
    wide = image.index_select(dim, torch.minimum(places, 2 * length - 1 - places))
    total = torch.zeros_like(image)
    for offset, weight in enumerate(weights):
        total.add_(wide.narrow(dim, offset, length), alpha=weight)
    return total


def _smoothed(image: Tensor) -> Tensor:
    """Return (B, C, H, W) smoothed by Pillow's kernel, its border as it was."""
    smooth = image.clone()
    height, width = image.shape[-2:]
    if min(height, width) > 2:
        inner = smooth[..., 1:-1, 1:-1].zero_()
        for row, weights in enumerate(_SMOOTHING):
            for column, weight in enumerate(weights):
                inner.add_(image[..., row : row + height - 2, column : column + width - 2], alpha=weight / 13)
    return smooth


def _in_8_bits(image: Tensor) -> Tensor:
    """Round an image in [0, 1] to what 8 bits hold."""
    return image.mul_(255).round_().clamp_(0, 255).div_(255)
