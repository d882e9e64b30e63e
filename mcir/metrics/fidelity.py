"""Fidelity of a restored image to its ground truth: PSNR and SSIM, on images as they would be saved or on floats.

``PSNR`` and ``SSIM`` follow BasicSR: both images are clamped to [0, 1] and rounded to 8 bits (half to even), as if they
had been saved. ``FloatPSNR`` and ``FloatSSIM`` clamp and do not round. A border can be cropped; images are compared as
RGB or as luma. All that follows is in float64, on the device that holds the images, and gives one number an image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mcir.metrics.windows import gaussian, mean_similarity
from mcir.registry import METRICS

LUMA = (65.481, 128.553, 24.966)
"""ITU-R BT.601 for RGB in [0, 1], studio range: Y = 16 + these · RGB."""
WINDOW = gaussian()
"""Of most protocols: 11 pixels, σ 1.5."""


class FullReference:
    """What all metrics here share: the way from two batches to the pairs of images that are compared.

    Args:
        crop_border: pixels left out on each side.
        test_y_channel: compare the luma of RGB images rather than the channels.

    Attributes:
        higher_is_better: how to read the number.
        unit: of the number; empty if it has none.
        smallest: fewest pixels along a side, without the border.
    """

    higher_is_better = True
    unit = ""
    smallest = 1

    def __init__(self, crop_border: int = 0, test_y_channel: bool = False) -> None:
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
        if min(height, width) < self.smallest:
            left = f", of which a border of {self.crop_border} leaves {height}×{width}" if self.crop_border else ""
            raise ValueError(
                f"{name} takes images of at least {self.smallest}×{self.smallest} pixels; these have "
                f"{gt.shape[2]}×{gt.shape[3]}{left}."
            )
        if self.test_y_channel and gt.shape[1] != 3:
            raise ValueError(f"{name} compares the luma of RGB images, these have {gt.shape[1]} channels.")
        return self.compare(self.values(self._cropped(output)), self.values(self._cropped(gt)))

    def values(self, images: Tensor) -> Tensor:
        """Return what is compared of images in about [0, 1], in float64: here 0 … 255, rounded, or luma of that."""
        saved = as_saved(images)
        return luma(saved / 255) if self.test_y_channel else saved

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return one number for each pair of ``values``, (B,)."""
        raise NotImplementedError

    def _cropped(self, images: Tensor) -> Tensor:
        border = self.crop_border
        return images.detach()[..., border : images.shape[2] - border, border : images.shape[3] - border]


@METRICS.register(aliases=["calculate_psnr"])
class PSNR(FullReference):
    """Peak signal-to-noise ratio in dB of images as they would be saved, ``10 log10(255² / MSE)``.

    The protocol of BasicSR: EDSR and SwinIR (luma, ``crop_border`` = scale), NAFNet (RGB, no border), MCIR. Infinite
    for equal images. The luma is not rounded.

    Args:
        crop_border: pixels left out on each side.
        test_y_channel: compare the luma (ITU-R BT.601, studio range) rather than RGB.

    Raises:
        ValueError: a negative border.
    """

    unit = "dB"

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the ratio of each pair of images in [0, 255]."""
        return decibels(output, gt, 255)


@METRICS.register(aliases=["calculate_ssim"])
class SSIM(FullReference):
    """Structural similarity of images as they would be saved (Wang et al., IEEE TIP 2004), mean over channels.

    The protocol of BasicSR: EDSR and SwinIR (luma, ``crop_border`` = scale), MCIR. The window is a Gaussian of 11×11
    pixels with σ 1.5, taken only where all of it lies on the image. The luma is not rounded.

    Args:
        crop_border: pixels left out on each side.
        test_y_channel: compare the luma (ITU-R BT.601, studio range) rather than RGB.

    Raises:
        ValueError: a negative border.
    """

    smallest = len(WINDOW)

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the similarity of each pair of images in [0, 255]."""
        return mean_similarity(output, gt, WINDOW, 255)


@METRICS.register()
class FloatPSNR(FullReference):
    """Peak signal-to-noise ratio in dB of floats in [0, 1], clamped and not rounded, ``10 log10(1 / MSE)``.

    The protocol of the dehazing papers: FFA-Net, DehazeFormer, AECR-Net and C2PNet (RGB, no border). Infinite for equal
    images, where FFA-Net's code says 100.

    Args:
        crop_border: pixels left out on each side.
        test_y_channel: compare the luma (ITU-R BT.601, studio range) rather than RGB.

    Raises:
        ValueError: a negative border.
    """

    unit = "dB"

    def values(self, images: Tensor) -> Tensor:
        """Return the images clamped to [0, 1], or their luma."""
        return as_floats(images, self.test_y_channel)

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the ratio of each pair of images in [0, 1]."""
        return decibels(output, gt, 1)


@METRICS.register()
class FloatSSIM(FullReference):
    """Structural similarity of floats in [0, 1], clamped and not rounded, mean over channels.

    As ``SSIM`` in all else: a Gaussian of 11×11 pixels with σ 1.5 that stays on the image. BasicSR's metric on tensors.

    Args:
        crop_border: pixels left out on each side.
        test_y_channel: compare the luma (ITU-R BT.601, studio range) rather than RGB.

    Raises:
        ValueError: a negative border.
    """

    smallest = len(WINDOW)

    def values(self, images: Tensor) -> Tensor:
        """Return the images clamped to [0, 1], or their luma."""
        return as_floats(images, self.test_y_channel)

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the similarity of each pair of images in [0, 1]."""
        return mean_similarity(output, gt, WINDOW, 1)


def as_saved(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) as the whole numbers 0 … 255 that a file would hold, in float64."""
    return images.float().clamp(0, 1).mul(255).round().double()


def as_floats(images: Tensor, of_luma: bool = False) -> Tensor:
    """Return images (B, C, H, W) clamped to [0, 1], or their luma as a share of 255, in float64."""
    images = images.double().clamp(0, 1)
    return luma(images) / 255 if of_luma else images


def luma(images: Tensor) -> Tensor:
    """Return the luma (B, 1, H, W) of RGB images in [0, 1], ITU-R BT.601 studio range: 16 … 235, not rounded."""
    return (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True) + 16


def decibels(output: Tensor, gt: Tensor, peak: float) -> Tensor:
    """Return ``10 log10(peak² / MSE)`` of each pair of images, (B,)."""
    return 10 * torch.log10(peak**2 / (output - gt).square().mean((1, 2, 3)))
