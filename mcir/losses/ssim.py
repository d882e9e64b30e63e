"""Structural similarity as a loss (Wang et al., IEEE TIP 2004)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mcir.losses.pixel import in_float32, same_shape
from mcir.metrics.windows import blurred, gaussian, similarity
from mcir.registry import LOSSES

_WINDOW = gaussian()


@LOSSES.register()
class SSIMLoss(nn.Module):
    """The negative structural similarity: −1 for equal images.

    The only loss of IDT (Xiao et al., "Image De-raining Transformer", IEEE TPAMI 2023). The window is a Gaussian of
    11×11 pixels with σ 1.5 that sees zeros beyond the image; the output is not clamped; the mean is taken over images,
    channels and pixels. Gradients are those of 1 − SSIM.

    Args:
        loss_weight: factor of the loss.

    Raises:
        ValueError: a weight that is not finite.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        if not math.isfinite(loss_weight):
            raise ValueError(f"SSIMLoss: loss_weight is a finite number, not {loss_weight!r}.")
        self.loss_weight = loss_weight

    def forward(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the weighted loss of (B, C, H, W) images in [0, 1] as a scalar, computed in at least float32.

        Raises:
            ValueError: the shapes differ.
        """
        gt = in_float32(same_shape("SSIMLoss", output, gt))
        return -self.loss_weight * similarity(in_float32(output), gt, _blurred, peak=1).mean()


class _Blurred(torch.autograd.Function):
    """Images (B, C, H, W) under the window, zeros beyond them.

    Symmetric weights and zeros make it its own adjoint: the gradient is blurred in the same way. That saves what
    autograd would keep and fill for every shifted image.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return blurred(images, _WINDOW, zeros_beyond=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _blurred(gradients[0])


def _blurred(images: Tensor) -> Tensor:
    result: Tensor = _Blurred.apply(images)
    return result
