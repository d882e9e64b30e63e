"""PSNR and SSIM between restored images and ground truths.

``PSNR`` and ``SSIM`` follow BasicSR: both images are clamped to [0, 1] and rounded to 8 bits (half to even), as if they
had been saved. ``FloatPSNR`` and ``FloatSSIM`` clamp images without rounding. A border can be cropped, and either RGB
or luma is compared. All other arithmetic is in float64 on the device of the images. The result is one value per image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mcir.domains import CountOrZero
from mcir.metrics.windows import gaussian, mean_ssim
from mcir.registry import METRICS

LUMA = (65.481, 128.553, 24.966)
"""Coefficients of Y = 16 + LUMA · RGB for RGB in [0, 1] (ITU-R BT.601, studio range)."""
WINDOW = gaussian()
"""Window of most protocols: 11 pixels, σ = 1.5."""


class FullReference:
    """Base class of metrics that compare images with ground truths.

    Args:
        crop_border: number of pixels that are ignored on each side.
        test_y_channel: whether to compare the luma of RGB images instead of the channels.

    Attributes:
        higher_is_better: whether a higher value means a better image.
        unit: unit of the metric; empty if it has none.
        min_size: smallest height and width of an image after cropping the border.
        peak: largest possible pixel value after ``prepare``.
    """

    higher_is_better = True
    unit = ""
    min_size = 1
    peak = 255.0

    def __init__(self, crop_border: CountOrZero = 0, test_y_channel: bool = False) -> None:
        self.crop_border = crop_border
        self.test_y_channel = test_y_channel

    def __call__(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the metric (B,) in float64 for images (B, C, H, W) in [0, 1].

        Raises:
            ValueError: the shapes differ, the images are too small, or luma is compared and the images are not RGB.
        """
        name = type(self).__name__
        if output.shape != gt.shape or output.dim() != 4:
            raise ValueError(
                f"{name}: expected two batches (B, C, H, W) of the same shape, got {tuple(output.shape)} and "
                f"{tuple(gt.shape)}."
            )
        height, width = (size - 2 * self.crop_border for size in gt.shape[2:])
        if min(height, width) < self.min_size:
            border = f" ({height}×{width} without crop_border {self.crop_border})" if self.crop_border else ""
            raise ValueError(
                f"{name}: expected images of at least {self.min_size}×{self.min_size} pixels, got "
                f"{gt.shape[2]}×{gt.shape[3]}{border}."
            )
        if self.test_y_channel and gt.shape[1] != 3:
            raise ValueError(f"{name}: expected RGB images to compare their luma, got {gt.shape[1]} channels.")
        return self.compare(self.prepare(self._crop(output)), self.prepare(self._crop(gt)))

    def prepare(self, images: Tensor) -> Tensor:
        """Return the values to compare in float64: here the images rounded to 0 … 255, or their luma."""
        saved = as_saved(images)
        return luma(saved / 255) if self.test_y_channel else saved

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the metric (B,) of images from ``prepare``."""
        raise NotImplementedError

    def _crop(self, images: Tensor) -> Tensor:
        border = self.crop_border
        return images.detach()[..., border : images.shape[2] - border, border : images.shape[3] - border]


@METRICS.register(aliases=["calculate_psnr"])
class PSNR(FullReference):
    """Peak signal-to-noise ratio in dB, ``10 log10(255² / MSE)``, of images rounded to 8 bits.

    This is the protocol of BasicSR, also used by EDSR and SwinIR (luma, ``crop_border`` = scale), NAFNet (RGB, no
    border) and MCIR. The PSNR of equal images is infinite. The luma is not rounded.

    Args:
        crop_border: number of pixels that are ignored on each side.
        test_y_channel: whether to compare the luma (ITU-R BT.601, studio range) instead of RGB.
    """

    unit = "dB"

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the PSNR (B,)."""
        return 10 * torch.log10(self.peak**2 / (output - gt).square().mean((1, 2, 3)))


@METRICS.register(aliases=["calculate_ssim"])
class SSIM(FullReference):
    """Structural similarity (Wang et al., IEEE TIP 2004), averaged over the channels, of images rounded to 8 bits.

    This is the protocol of BasicSR, also used by EDSR and SwinIR (luma, ``crop_border`` = scale) and MCIR. The window
    is a Gaussian of 11×11 pixels with σ = 1.5 that stays inside the image. The luma is not rounded.

    Args:
        crop_border: number of pixels that are ignored on each side.
        test_y_channel: whether to compare the luma (ITU-R BT.601, studio range) instead of RGB.
    """

    min_size = len(WINDOW)

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the SSIM (B,)."""
        return mean_ssim(output, gt, WINDOW, self.peak)


@METRICS.register()
class FloatPSNR(PSNR):
    """Peak signal-to-noise ratio in dB, ``10 log10(1 / MSE)``, of images clamped to [0, 1] and not rounded.

    This is the protocol of the dehazing papers FFA-Net, DehazeFormer, AECR-Net and C2PNet (RGB, no border). The PSNR of
    equal images is infinite; FFA-Net's code returns 100.

    Args:
        crop_border: number of pixels that are ignored on each side.
        test_y_channel: whether to compare the luma (ITU-R BT.601, studio range) instead of RGB.
    """

    peak = 1.0

    def prepare(self, images: Tensor) -> Tensor:
        """Return the images clamped to [0, 1], or their luma."""
        return as_floats(images, self.test_y_channel)


@METRICS.register()
class FloatSSIM(SSIM):
    """Structural similarity, averaged over the channels, of images clamped to [0, 1] and not rounded.

    The window is that of ``SSIM``: a Gaussian of 11×11 pixels with σ = 1.5 that stays inside the image. This is
    BasicSR's metric for tensors.

    Args:
        crop_border: number of pixels that are ignored on each side.
        test_y_channel: whether to compare the luma (ITU-R BT.601, studio range) instead of RGB.
    """

    peak = 1.0

    def prepare(self, images: Tensor) -> Tensor:
        """Return the images clamped to [0, 1], or their luma."""
        return as_floats(images, self.test_y_channel)


def as_saved(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) clamped to [0, 1] and rounded to integers 0 … 255, in float64."""
    return images.float().clamp(0, 1).mul(255).round().double()


def as_floats(images: Tensor, as_luma: bool = False) -> Tensor:
    """Return images (B, C, H, W) clamped to [0, 1], or the luma of these divided by 255, in float64."""
    images = images.double().clamp(0, 1)
    return luma(images) / 255 if as_luma else images


def luma(images: Tensor) -> Tensor:
    """Return the luma (B, 1, H, W) of RGB images in [0, 1]: ITU-R BT.601, studio range (16 … 235), not rounded."""
    return (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True) + 16
