"""Losses that compare two images pixel by pixel: L1, mean squared error, Charbonnier and PSNR."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mcir.checks import check_choice
from mcir.domains import Epsilon
from mcir.losses.base import Loss, Reduction, in_float32, require_same_shape
from mcir.metrics.fidelity import LUMA
from mcir.registry import LOSSES


@dataclass(kw_only=True, eq=False)
class PixelLoss(Loss):
    """Base class of losses that are a mean or sum over the difference of two images, computed in at least float32."""

    reduction: Reduction = "mean"
    """Mean or sum over the batch."""

    def __post_init__(self) -> None:
        """Check the reduction."""
        super().__post_init__()
        check_choice("reduction", self.reduction, ("mean", "sum"))

    @property
    def is_batch_mean(self) -> bool:
        """Whether the reduction is the mean."""
        return self.reduction == "mean"

    def forward(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the weighted loss as a scalar.

        Args:
            output: restored images, (B, C, H, W).
            gt: ground truth, (B, C, H, W).

        Raises:
            ValueError: the shapes differ.
        """
        require_same_shape(self, output, gt)
        terms = self.terms(in_float32(output) - in_float32(gt))
        return self.loss_weight * (terms.mean() if self.reduction == "mean" else terms.sum())

    def terms(self, difference: Tensor) -> Tensor:
        """Return the terms to average or sum: one per pixel and channel, or one per image."""
        raise NotImplementedError


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class L1Loss(PixelLoss):
    """Mean (or sum) of absolute differences."""

    def terms(self, difference: Tensor) -> Tensor:
        """Return ``|d|``."""
        return difference.abs()


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class MSELoss(PixelLoss):
    """Mean (or sum) of squared differences."""

    def terms(self, difference: Tensor) -> Tensor:
        """Return ``d²``."""
        return difference.square()


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class CharbonnierLoss(PixelLoss):
    """Mean (or sum) of ``sqrt(d² + eps)``, a smooth L1 (Charbonnier et al., ICIP 1994; Lai et al., CVPR 2017)."""

    eps: Epsilon = 1e-12
    """Positive number that is added to the squared difference."""

    def terms(self, difference: Tensor) -> Tensor:
        """Return ``sqrt(d² + eps)``."""
        return (difference.square() + self.eps).sqrt()


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class PSNRLoss(PixelLoss):
    """The negative PSNR in dB, ``10 log10(MSE + 1e-8)``, averaged over the images (NAFNet, Chen et al., ECCV 2022).

    Images are in [0, 1]. The loss of equal images is −80 dB.
    """

    toY: bool = False
    """Whether to compare the luma of RGB images (ITU-R BT.601, studio range, divided by 255)."""

    def forward(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the weighted loss as a scalar.

        Args:
            output: restored images, (B, C, H, W), in [0, 1].
            gt: ground truth, (B, C, H, W), in [0, 1].

        Raises:
            ValueError: the shapes differ, or ``toY`` is set and the images are not RGB.
        """
        if self.toY and output.shape[1] != 3:
            raise ValueError(f"PSNRLoss: toY requires RGB images, got {output.shape[1]} channels.")
        return super().forward(output, gt)

    def terms(self, difference: Tensor) -> Tensor:
        """Return ``10 log10(mean(d²) + 1e-8)`` of each image, (B,)."""
        if self.toY:
            difference = (difference * difference.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True) / 255
        return 10 * torch.log10(difference.square().mean((1, 2, 3)) + 1e-8)
