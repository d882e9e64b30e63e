"""Fidelity of a restored image to its ground truth: PSNR and SSIM, by the protocol of BasicSR.

Both images are clamped to [0, 1] and rounded to 8 bits (half to even), as if they had been saved; a border can be
cropped; they are compared as RGB or as luma. All that follows is in float64, on the device that holds the images, and
gives one number an image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mcir.registry import METRICS

_LUMA = (65.481, 128.553, 24.966)  # ITU-R BT.601 for RGB in [0, 1], studio range: Y = 16 + these · RGB
_WINDOW = 11
_SIGMA = 1.5


class _Fidelity:
    """What both metrics share: the protocol from two batches to the pairs of images that are compared.

    Args:
        crop_border: pixels left out on each side.
        test_y_channel: compare the luma of RGB images (not rounded) rather than the channels.
    """

    higher_is_better = True
    unit = ""

    def __init__(self, crop_border: int, test_y_channel: bool) -> None:
        if crop_border < 0:
            raise ValueError(f"{type(self).__name__}: crop_border starts at 0, not {crop_border}.")
        self.crop_border = crop_border
        self.test_y_channel = test_y_channel

    def __call__(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return one number an image, (B,) in float64, for images (B, C, H, W) in [0, 1].

        Raises:
            ValueError: the shapes differ, the border leaves too little, or luma is asked of images that are not RGB.
        """
        name = type(self).__name__
        if output.shape != gt.shape or output.dim() != 4:
            raise ValueError(
                f"{name} compares two batches (B, C, H, W), not {tuple(output.shape)} with {tuple(gt.shape)}."
            )
        height, width = (size - 2 * self.crop_border for size in gt.shape[2:])
        if min(height, width) < self._smallest():
            raise ValueError(
                f"{name}: images of {gt.shape[2]}×{gt.shape[3]} pixels without a border of {self.crop_border} are "
                f"{height}×{width}; it takes at least {self._smallest()}×{self._smallest()}."
            )
        if self.test_y_channel and gt.shape[1] != 3:
            raise ValueError(f"{name}: test_y_channel is for RGB images, these have {gt.shape[1]} channels.")
        return self._compare(self._prepared(output), self._prepared(gt))

    def _prepared(self, images: Tensor) -> Tensor:
        """Return the images as values in [0, 255], cropped: rounded, or as luma of the rounded ones."""
        border = self.crop_border
        images = images[..., border : images.shape[2] - border, border : images.shape[3] - border]
        images = images.detach().float().clamp(0, 1).mul(255).round().double()
        if not self.test_y_channel:
            return images
        luma = images.new_tensor(_LUMA).view(1, 3, 1, 1) / 255
        return (images * luma).sum(1, keepdim=True) + 16

    def _smallest(self) -> int:
        return 1

    def _compare(self, output: Tensor, gt: Tensor) -> Tensor:
        raise NotImplementedError


@METRICS.register(aliases=["calculate_psnr"])
class PSNR(_Fidelity):
    """Peak signal-to-noise ratio in dB, ``10 log10(255² / MSE)``; infinite for equal images.

    Args:
        crop_border: pixels left out on each side.
        test_y_channel: compare the luma (ITU-R BT.601, studio range) rather than RGB.

    Raises:
        ValueError: a negative border.
    """

    unit = "dB"

    def __init__(self, crop_border: int = 0, test_y_channel: bool = False) -> None:
        super().__init__(crop_border, test_y_channel)

    def _compare(self, output: Tensor, gt: Tensor) -> Tensor:
        error = (output - gt).square().mean((1, 2, 3))
        return 10 * torch.log10(255**2 / error)


@METRICS.register(aliases=["calculate_ssim"])
class SSIM(_Fidelity):
    """Structural similarity (Wang et al., IEEE TIP 2004), mean over channels.

    The window is a Gaussian of 11×11 pixels with σ 1.5, taken only where all of it lies on the image.

    Args:
        crop_border: pixels left out on each side.
        test_y_channel: compare the luma (ITU-R BT.601, studio range) rather than RGB.

    Raises:
        ValueError: a negative border.
    """

    def __init__(self, crop_border: int = 0, test_y_channel: bool = False) -> None:
        super().__init__(crop_border, test_y_channel)

    def _smallest(self) -> int:
        return _WINDOW

    def _compare(self, output: Tensor, gt: Tensor) -> Tensor:
        stacked = torch.stack((output, gt, output * output, gt * gt, output * gt))
        mean_x, mean_y, mean_xx, mean_yy, mean_xy = _blurred(stacked)
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        xy, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
        structure = (2 * (mean_xy - xy) + c2) / (mean_xx + mean_yy - squares + c2)
        similarity: Tensor = (2 * xy + c1) / (squares + c1) * structure
        return similarity.mean((1, 2, 3))


def _blurred(images: Tensor) -> Tensor:
    """Return images (…, H, W) under the Gaussian window, (…, H-10, W-10).

    The window is separable and symmetric: along each axis a weighted sum of shifted images, which costs far less than a
    convolution of one channel.
    """
    radius = _WINDOW // 2
    weights = [math.exp(-(offset**2) / (2 * _SIGMA**2)) for offset in range(radius + 1)]
    total = 2 * sum(weights) - weights[0]
    for axis in (-2, -1):
        length = images.shape[axis] - 2 * radius
        blurred = images.narrow(axis, radius, length) * (weights[0] / total)
        for offset, weight in enumerate(weights[1:], start=1):
            blurred.add_(images.narrow(axis, radius - offset, length), alpha=weight / total)
            blurred.add_(images.narrow(axis, radius + offset, length), alpha=weight / total)
        images = blurred
    return images
