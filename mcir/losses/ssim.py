"""Structural similarity as a loss (Wang et al., IEEE TIP 2004)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcir.losses.base import Loss, in_float32, require_same_shape
from mcir.metrics.windows import gaussian, separable_filter, ssim_map
from mcir.registry import LOSSES

_WINDOW = gaussian()


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class SSIMLoss(Loss):
    """The negative structural similarity: −1 for equal images.

    IDT uses it as its only loss (Xiao et al., "Image De-raining Transformer", IEEE TPAMI 2023). The window is an 11×11
    Gaussian with σ = 1.5. Images are padded with zeros. The output is not clamped. The mean is taken over images,
    channels and pixels. The gradient is that of 1 − SSIM.
    """

    def forward(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the weighted loss as a scalar, computed in at least float32.

        Args:
            output: restored images, (B, C, H, W), in [0, 1].
            gt: ground truth, (B, C, H, W), in [0, 1].

        Raises:
            ValueError: the shapes differ.
        """
        require_same_shape(self, output, gt)
        return -self.loss_weight * ssim_map(in_float32(output), in_float32(gt), _blur, peak=1).mean()


class _Blur(torch.autograd.Function):
    """Convolution of images (B, C, H, W) with the window and zero padding.

    The window is symmetric, so the convolution is its own adjoint, and the backward pass blurs the gradient. Autograd
    would store every shifted image instead.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return separable_filter(images, _WINDOW, zero_padding=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _blur(gradients[0])


def _blur(images: Tensor) -> Tensor:
    result: Tensor = _Blur.apply(images)
    return result
