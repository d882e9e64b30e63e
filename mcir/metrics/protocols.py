"""The test protocols of single papers. Each one is a metric of its own, so that its name says how a value was measured.

As in ``fidelity``, images are (B, C, H, W) in [0, 1], arithmetic is float64, and the result is one value per image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mcir.metrics.fidelity import PSNR, SSIM, WINDOW, FloatSSIM, FullReference, as_floats, as_saved
from mcir.metrics.windows import mean_similarity
from mcir.registry import METRICS

_RADIUS = len(WINDOW) // 2
_BOX = [1 / 7] * 7
_BLOCK = 8


# -- dehazing ---------------------------------------------------------------------------------------------------------


@METRICS.register()
class ZeroPaddedSSIM(FloatSSIM):
    """FFA-Net's structural similarity: of floats, with a window that sees zeros outside the image.

    RGB in [0, 1], clamped and not rounded; a Gaussian of 11×11 pixels with σ 1.5; mean over a map of the size of the
    image. Use it with ``FloatPSNR``.
    """

    smallest = 1

    def __init__(self) -> None:
        super().__init__()

    def values(self, images: Tensor) -> Tensor:
        """Return the images clamped to [0, 1] and padded with zeros."""
        return F.pad(as_floats(images), [_RADIUS] * 4)


@METRICS.register()
class PooledSSIM(FloatSSIM):
    """DehazeFormer's structural similarity: of floats, of images that are downsampled to about 256 pixels.

    RGB in [0, 1], clamped and not rounded, is average-pooled by max(1, round(min(H, W) / 256)), adaptively; the window
    is a Gaussian of 11×11 pixels with σ 1.5 that stays inside the image. For images of up to 384 pixels it equals
    ``FloatSSIM``. Use it with ``FloatPSNR``.
    """

    def __init__(self) -> None:
        super().__init__()

    def values(self, images: Tensor) -> Tensor:
        """Return the images clamped to [0, 1] and pooled."""
        height, width = images.shape[2:]
        ratio = max(1, round(min(height, width) / 256))
        return F.adaptive_avg_pool2d(as_floats(images), (height // ratio, width // ratio))


# -- deraining --------------------------------------------------------------------------------------------------------


class _RoundedLuma(FullReference):
    """Metrics of the luma that MATLAB's ``rgb2ycbcr`` computes from 8-bit images: rounded (half up) to 8 bits."""

    def __init__(self) -> None:
        super().__init__(test_y_channel=True)

    def values(self, images: Tensor) -> Tensor:
        saved = as_saved(images)
        weights = saved.new_tensor((65481, 128553, 24966)).view(1, 3, 1, 1)  # integers, so that halves are exact
        return ((saved * weights).sum(1, keepdim=True) / 255000 + 16.5).floor()


@METRICS.register()
class DerainPSNR(_RoundedLuma, PSNR):
    """The deraining papers' PSNR in dB, as their MATLAB script computes it from saved files.

    Luma (ITU-R BT.601, studio range) of 8-bit RGB, rounded to 8 bits; no border is cropped. Used by IDT, and by
    Restormer and others with the same script, on Rain200L/H, DID, DDN, SPA and Rain100L/H. Infinite for equal images.
    """


@METRICS.register()
class DerainSSIM(_RoundedLuma, SSIM):
    """The deraining papers' structural similarity, as their MATLAB script computes it from saved files.

    Luma (ITU-R BT.601, studio range) of 8-bit RGB, rounded to 8 bits; no border is cropped; a Gaussian of 11×11 pixels
    with σ 1.5 that stays inside the image. Use it with ``DerainPSNR``.
    """


class _FullRangeLuma(FullReference):
    """Metrics of the luma that OpenCV's YCrCb conversion computes from 8-bit images, cropped to multiples of 4."""

    def __init__(self) -> None:
        super().__init__(test_y_channel=True)

    def values(self, images: Tensor) -> Tensor:
        height, width = (size // 4 * 4 for size in images.shape[2:])
        saved = as_saved(images[..., :height, :width])
        weights = saved.new_tensor((4899, 9617, 1868)).view(1, 3, 1, 1)  # 0.299, 0.587, 0.114 in 14 bits, as in OpenCV
        return (((saved * weights).sum(1, keepdim=True) + 2**13) / 2**14).floor()


@METRICS.register()
class RaindropPSNR(_FullRangeLuma, PSNR):
    """The raindrop benchmark's PSNR in dB, as its Python script computes it from saved files.

    Full-range luma (OpenCV's YCrCb, integers 0 … 255) of 8-bit RGB, cropped at the right and bottom to multiples of 4.
    Used by IDT on the raindrop set of AGAN (Qian et al., CVPR 2018). Infinite for equal images.
    """

    smallest = 4


@METRICS.register()
class RaindropSSIM(_FullRangeLuma):
    """The raindrop benchmark's structural similarity, as its Python script computes it from saved files.

    Full-range luma (OpenCV's YCrCb, integers 0 … 255) of 8-bit RGB, cropped at the right and bottom to multiples of 4.
    The window is scikit-image's: 7×7 pixels of equal weight that stay inside the image, unbiased variances. Use it with
    ``RaindropPSNR``.
    """

    smallest = 8

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the SSIM of each pair of lumas."""
        count = len(_BOX) ** 2
        return mean_similarity(output, gt, _BOX, self.peak, correction=count / (count - 1))


# -- deblurring and denoising -----------------------------------------------------------------------------------------


@METRICS.register()
class SSIM3D(FullReference):
    """NAFNet's structural similarity, with a window over height, width and colour.

    8-bit images; one Gaussian of 11×11×11 with σ 1.5; edge values are repeated outside the image; mean over a map of
    the size of the image. Its values are higher than those of ``SSIM`` (0.966 instead of 0.909 for one image) and not
    comparable with them. Use it with ``PSNR``. On luma or grey images the window is 11×11.

    Args:
        crop_border: pixels that are ignored on each side.
        test_y_channel: compare the luma (ITU-R BT.601, studio range, not rounded) instead of RGB.

    Raises:
        ArgumentError: ``crop_border`` is negative.
    """

    def values(self, images: Tensor) -> Tensor:
        """Return the images in [0, 255], or their luma, padded with edge pixels."""
        return F.pad(super().values(images), [_RADIUS] * 4, mode="replicate")

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the SSIM of each pair of images."""
        channels = output.shape[1]
        mixing = torch.zeros(channels, channels, dtype=output.dtype)  # weight of colour j in the window of colour i
        for colour in range(channels):
            for offset, weight in enumerate(WINDOW, start=-_RADIUS):
                mixing[colour, min(max(colour + offset, 0), channels - 1)] += weight
        mixing = mixing.to(output.device)
        return mean_similarity(
            output, gt, WINDOW, self.peak, across=lambda images: (mixing @ images.flatten(2)).view_as(images)
        )


# -- JPEG -------------------------------------------------------------------------------------------------------------


@METRICS.register()
class PSNRB(FullReference):
    """PSNR-B in dB (Yim and Bovik, IEEE TIP 2011), SwinIR's metric for JPEG artefacts.

    A blocking term is added to the mean squared error: by how much the squared steps between neighbouring pixels of the
    output are larger at the borders of 8×8 blocks than elsewhere. 8-bit images; mean of the dB over channels. Height
    and width should be multiples of 8: otherwise SwinIR's code, and this metric, counts one block border too few.

    Args:
        crop_border: pixels that are ignored on each side.
        test_y_channel: compare the luma (ITU-R BT.601, studio range, not rounded) instead of RGB.

    Raises:
        ArgumentError: ``crop_border`` is negative.
    """

    unit = "dB"
    smallest = 2 * _BLOCK

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the PSNR-B of each pair of images."""
        height, width = output.shape[2:]
        down, across = output.diff(dim=2).square(), output.diff(dim=3).square()
        at_borders = down[:, :, _BLOCK - 1 :: _BLOCK].sum((2, 3)) + across[..., _BLOCK - 1 :: _BLOCK].sum((2, 3))
        borders = width * (height // _BLOCK - 1) + height * (width // _BLOCK - 1)
        others = width * (height - 1) + height * (width - 1) - borders
        elsewhere = (down.sum((2, 3)) + across.sum((2, 3)) - at_borders) / others
        excess = (at_borders / borders - elsewhere).clamp(min=0)
        blocking = math.log2(_BLOCK) / math.log2(min(height, width)) * excess
        error = (output - gt).square().mean((2, 3)) + blocking
        return (10 * torch.log10(self.peak**2 / error)).mean(1)
