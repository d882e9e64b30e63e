"""Fidelity of a restored image to its ground truth: PSNR and SSIM of saved images or of floats.

``PSNR`` and ``SSIM`` follow BasicSR: both images are clamped to [0, 1] and rounded to 8 bits (half to even), as if they
had been saved. ``FloatPSNR`` and ``FloatSSIM`` clamp without rounding. A border can be cropped, and images are compared
as RGB or luma. All further arithmetic is float64, on the device of the images, and returns one value per image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mcir.metrics.windows import gaussian, mean_similarity
from mcir.registry import METRICS, ArgumentError

LUMA = (65.481, 128.553, 24.966)
"""ITU-R BT.601 for RGB in [0, 1], studio range: Y = 16 + LUMA · RGB."""
WINDOW = gaussian()
"""Window of most protocols: 11 pixels, σ 1.5."""


class FullReference:
    """Base class of metrics that compare images with ground truths.

    Args:
        crop_border: pixels that are ignored on each side.
        test_y_channel: compare the luma of RGB images instead of the channels.

    Attributes:
        higher_is_better: whether a higher value means a better image.
        unit: unit of the value; empty if it has none.
        smallest: smallest height and width of an image without the border.
        peak: largest possible pixel value in ``compare``.
    """

    higher_is_better = True
    unit = ""
    smallest = 1
    peak = 255.0

    def __init__(self, crop_border: int = 0, test_y_channel: bool = False) -> None:
        if crop_border < 0:
            raise ArgumentError("crop_border", f"expected a number of at least 0, got {crop_border}.")
        self.crop_border = crop_border
        self.test_y_channel = test_y_channel

    def __call__(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the values (B,), float64, of images (B, C, H, W) in [0, 1].

        Raises:
            ValueError: the shapes differ, the images are too small, or luma is compared and they are not RGB.
        """
        name = type(self).__name__
        if output.shape != gt.shape or output.dim() != 4:
            raise ValueError(
                f"{name}: expected two batches (B, C, H, W) of the same shape, got {tuple(output.shape)} and "
                f"{tuple(gt.shape)}."
            )
        height, width = (size - 2 * self.crop_border for size in gt.shape[2:])
        if min(height, width) < self.smallest:
            border = f" ({height}×{width} without crop_border {self.crop_border})" if self.crop_border else ""
            raise ValueError(
                f"{name}: expected images of at least {self.smallest}×{self.smallest} pixels, got "
                f"{gt.shape[2]}×{gt.shape[3]}{border}."
            )
        if self.test_y_channel and gt.shape[1] != 3:
            raise ValueError(f"{name}: expected RGB images to compare their luma, got {gt.shape[1]} channels.")
        return self.compare(self.values(self._crop(output)), self.values(self._crop(gt)))

    def values(self, images: Tensor) -> Tensor:
        """Return the compared values of images in about [0, 1], in float64: here 0 … 255, rounded, or their luma."""
        saved = as_saved(images)
        return luma(saved / 255) if self.test_y_channel else saved

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return one number (B,) for each pair of ``values``."""
        raise NotImplementedError

    def _crop(self, images: Tensor) -> Tensor:
        border = self.crop_border
        return images.detach()[..., border : images.shape[2] - border, border : images.shape[3] - border]


@METRICS.register(aliases=["calculate_psnr"])
class PSNR(FullReference):
    """Peak signal-to-noise ratio in dB of images as they would be saved, ``10 log10(255² / MSE)``.

    The protocol of BasicSR: EDSR and SwinIR (luma, ``crop_border`` = scale), NAFNet (RGB, no border), MCIR. Infinite
    for equal images. The luma is not rounded.

    Args:
        crop_border: pixels that are ignored on each side.
        test_y_channel: compare the luma (ITU-R BT.601, studio range) instead of RGB.

    Raises:
        ArgumentError: ``crop_border`` is negative.
    """

    unit = "dB"

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the PSNR of each pair of images."""
        return 10 * torch.log10(self.peak**2 / (output - gt).square().mean((1, 2, 3)))


@METRICS.register(aliases=["calculate_ssim"])
class SSIM(FullReference):
    """Structural similarity of images as they would be saved (Wang et al., IEEE TIP 2004), mean over channels.

    The protocol of BasicSR: EDSR and SwinIR (luma, ``crop_border`` = scale), MCIR. The window is a Gaussian of 11×11
    pixels with σ 1.5 that stays inside the image. The luma is not rounded.

    Args:
        crop_border: pixels that are ignored on each side.
        test_y_channel: compare the luma (ITU-R BT.601, studio range) instead of RGB.

    Raises:
        ArgumentError: ``crop_border`` is negative.
    """

    smallest = len(WINDOW)

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the SSIM of each pair of images."""
        return mean_similarity(output, gt, WINDOW, self.peak)


@METRICS.register()
class FloatPSNR(PSNR):
    """Peak signal-to-noise ratio in dB of floats in [0, 1], clamped and not rounded, ``10 log10(1 / MSE)``.

    The protocol of the dehazing papers: FFA-Net, DehazeFormer, AECR-Net and C2PNet (RGB, no border). Infinite for equal
    images, for which FFA-Net's code returns 100.

    Args:
        crop_border: pixels that are ignored on each side.
        test_y_channel: compare the luma (ITU-R BT.601, studio range) instead of RGB.

    Raises:
        ArgumentError: ``crop_border`` is negative.
    """

    peak = 1.0

    def values(self, images: Tensor) -> Tensor:
        """Return the images clamped to [0, 1], or their luma."""
        return as_floats(images, self.test_y_channel)


@METRICS.register()
class FloatSSIM(SSIM):
    """Structural similarity of floats in [0, 1], clamped and not rounded, mean over channels.

    The window is that of ``SSIM``: a Gaussian of 11×11 pixels with σ 1.5 that stays inside the image. BasicSR's metric
    for tensors.

    Args:
        crop_border: pixels that are ignored on each side.
        test_y_channel: compare the luma (ITU-R BT.601, studio range) instead of RGB.

    Raises:
        ArgumentError: ``crop_border`` is negative.
    """

    peak = 1.0

    def values(self, images: Tensor) -> Tensor:
        """Return the images clamped to [0, 1], or their luma."""
        return as_floats(images, self.test_y_channel)


def as_saved(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) as the whole numbers 0 … 255 that a file would contain, in float64."""
    return images.float().clamp(0, 1).mul(255).round().double()


def as_floats(images: Tensor, as_luma: bool = False) -> Tensor:
    """Return images (B, C, H, W) clamped to [0, 1], or their luma divided by 255, in float64."""
    images = images.double().clamp(0, 1)
    return luma(images) / 255 if as_luma else images


def luma(images: Tensor) -> Tensor:
    """Return the luma (B, 1, H, W) of RGB images in [0, 1], ITU-R BT.601 studio range: 16 … 235, not rounded."""
    return (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True) + 16
