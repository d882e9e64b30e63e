"""Losses between two images, pixel by pixel: L1, mean squared error, Charbonnier and PSNR."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from mcir.metrics.fidelity import LUMA
from mcir.registry import LOSSES

Reduction: TypeAlias = Literal["mean", "sum"]


class _PixelLoss(nn.Module):
    """What the pixel losses share: weight, reduction, the check of shapes, and arithmetic in at least float32."""

    def __init__(self, loss_weight: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise ValueError(f"{type(self).__name__}: reduction is 'mean' or 'sum', not {reduction!r}.")
        if not math.isfinite(loss_weight):
            raise ValueError(f"{type(self).__name__}: loss_weight is a finite number, not {loss_weight!r}.")
        self.loss_weight = loss_weight
        self.reduction = reduction
        self.is_batch_mean = reduction == "mean"

    def forward(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the weighted loss of (B, C, H, W) images as a scalar.

        Raises:
            ValueError: the shapes differ.
        """
        difference = in_float32(output) - in_float32(same_shape(type(self).__name__, output, gt))
        terms = self.terms(difference)
        return self.loss_weight * (terms.mean() if self.reduction == "mean" else terms.sum())

    def terms(self, difference: Tensor) -> Tensor:
        """Return what is averaged or summed: one term a pixel and channel, unless the loss says otherwise."""
        raise NotImplementedError


@LOSSES.register()
class L1Loss(_PixelLoss):
    """Mean (or sum) of absolute differences.

    Args:
        loss_weight: factor of the loss.
        reduction: over everything, batch included.

    Raises:
        ValueError: an unknown reduction or a weight that is not finite.
    """

    def terms(self, difference: Tensor) -> Tensor:
        """Return ``|d|``."""
        return difference.abs()


@LOSSES.register()
class MSELoss(_PixelLoss):
    """Mean (or sum) of squared differences.

    Args:
        loss_weight: factor of the loss.
        reduction: over everything, batch included.

    Raises:
        ValueError: an unknown reduction or a weight that is not finite.
    """

    def terms(self, difference: Tensor) -> Tensor:
        """Return ``d²``."""
        return difference.square()


@LOSSES.register()
class CharbonnierLoss(_PixelLoss):
    """Mean (or sum) of ``sqrt(d² + eps)``, a smooth L1 (Charbonnier et al., ICIP 1994; Lai et al., CVPR 2017).

    Args:
        loss_weight: factor of the loss.
        reduction: over everything, batch included.
        eps: what stands under the root beside the squared difference, above 0.

    Raises:
        ValueError: an unknown reduction, a weight that is not finite or an ``eps`` that is not a finite number above 0.
    """

    def __init__(self, loss_weight: float = 1.0, reduction: Reduction = "mean", eps: float = 1e-12) -> None:
        super().__init__(loss_weight, reduction)
        if not 0 < eps < math.inf:
            raise ValueError(f"CharbonnierLoss: eps is a finite number above 0, not {eps!r}.")
        self.eps = eps

    def terms(self, difference: Tensor) -> Tensor:
        """Return ``sqrt(d² + eps)``."""
        return (difference.square() + self.eps).sqrt()


@LOSSES.register()
class PSNRLoss(_PixelLoss):
    """The negative PSNR in dB, ``10 log10(MSE + 1e-8)`` of each image, averaged (NAFNet: Chen et al., ECCV 2022).

    Images are in [0, 1]; the small number keeps equal images at −80 dB. Each image counts alike, however well restored.

    Args:
        loss_weight: factor of the loss.
        reduction: over the images of the batch.
        toY: compare the luma of RGB images (ITU-R BT.601, studio range, as a share of 255).

    Raises:
        ValueError: an unknown reduction or a weight that is not finite.
    """

    def __init__(self, loss_weight: float = 1.0, reduction: Reduction = "mean", toY: bool = False) -> None:
        super().__init__(loss_weight, reduction)
        self.toY = toY

    def forward(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the weighted loss of (B, C, H, W) images as a scalar.

        Raises:
            ValueError: the shapes differ, or luma is asked of images that are not RGB.
        """
        if self.toY and output.shape[1] != 3:
            raise ValueError(f"PSNRLoss: toY is for RGB images, these have {output.shape[1]} channels.")
        return super().forward(output, gt)

    def terms(self, difference: Tensor) -> Tensor:
        """Return ``10 log10(mean(d²) + 1e-8)`` for each image, (B,)."""
        if self.toY:
            difference = (difference * difference.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True) / 255
        return 10 * torch.log10(difference.square().mean((1, 2, 3)) + 1e-8)


def in_float32(x: Tensor) -> Tensor:
    """Return ``x`` in float32, or as it is when its precision is higher."""
    return x if x.dtype == torch.float64 else x.float()


def same_shape(loss: str, output: Tensor, reference: Tensor) -> Tensor:
    """Return ``reference`` if it has the shape of ``output``.

    Raises:
        ValueError: it has another; the message names both.
    """
    if output.shape != reference.shape:
        raise ValueError(
            f"{loss}: the output is {tuple(output.shape)}, but the image it is compared with {tuple(reference.shape)}."
        )
    return reference
