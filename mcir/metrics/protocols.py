"""Test protocols of individual papers. Each protocol is a separate metric, so that its name states the protocol.

As in ``fidelity``, images are (B, C, H, W) in [0, 1], arithmetic is in float64, and the result is one value per image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mcir.metrics.fidelity import PSNR, SSIM, WINDOW, FloatSSIM, FullReference, as_floats, as_saved
from mcir.metrics.windows import mean_ssim
from mcir.registry import METRICS

_RADIUS = len(WINDOW) // 2
_BOX = [1 / 7] * 7
_BLOCK = 8


# -- dehazing ---------------------------------------------------------------------------------------------------------


@METRICS.register()
class ZeroPaddedSSIM(FloatSSIM):
    """Structural similarity as measured by FFA-Net: images are not rounded and are padded with zeros.

    RGB images are clamped to [0, 1]. The window is a Gaussian of 11×11 pixels with σ = 1.5, and the SSIM map has the
    size of the image. Use this metric together with ``FloatPSNR``.
    """

    min_size = 1

    def __init__(self) -> None:
        super().__init__()

    def prepare(self, images: Tensor) -> Tensor:
        """Return the images, clamped to [0, 1] and padded with zeros."""
        return F.pad(as_floats(images), [_RADIUS] * 4)


@METRICS.register()
class PooledSSIM(FloatSSIM):
    """Structural similarity as measured by DehazeFormer: images are not rounded and are downsampled.

    RGB images are clamped to [0, 1] and downsampled by max(1, round(min(H, W) / 256)) with adaptive average pooling.
    The window is a Gaussian of 11×11 pixels with σ = 1.5 that stays inside the image. If the shorter side has at most
    384 pixels, the value equals ``FloatSSIM``. Use this metric together with ``FloatPSNR``.
    """

    def __init__(self) -> None:
        super().__init__()

    def prepare(self, images: Tensor) -> Tensor:
        """Return the images, clamped to [0, 1] and downsampled."""
        height, width = images.shape[2:]
        ratio = max(1, round(min(height, width) / 256))
        return F.adaptive_avg_pool2d(as_floats(images), (height // ratio, width // ratio))


# -- deraining --------------------------------------------------------------------------------------------------------


class _RoundedLuma(FullReference):
    """Base class of metrics on the luma of MATLAB's ``rgb2ycbcr`` for 8-bit images, rounded (half up) to 8 bits."""

    def __init__(self) -> None:
        super().__init__(test_y_channel=True)

    def prepare(self, images: Tensor) -> Tensor:
        saved = as_saved(images)
        weights = saved.new_tensor((65481, 128553, 24966)).view(1, 3, 1, 1)  # integers, so that halves are exact
        return ((saved * weights).sum(1, keepdim=True) / 255000 + 16.5).floor()


@METRICS.register()
class DerainPSNR(_RoundedLuma, PSNR):
    """PSNR in dB as measured by deraining papers with a MATLAB script.

    The luma (ITU-R BT.601, studio range) of 8-bit RGB images is rounded to 8 bits. No border is cropped. IDT, Restormer
    and others use this script on Rain200L/H, DID, DDN, SPA and Rain100L/H. The PSNR of equal images is infinite.
    """


@METRICS.register()
class DerainSSIM(_RoundedLuma, SSIM):
    """Structural similarity as measured by deraining papers with a MATLAB script.

    The luma (ITU-R BT.601, studio range) of 8-bit RGB images is rounded to 8 bits. No border is cropped. The window is
    a Gaussian of 11×11 pixels with σ = 1.5 that stays inside the image. Use this metric together with ``DerainPSNR``.
    """


class _FullRangeLuma(FullReference):
    """Base class of metrics on the luma of OpenCV's YCrCb conversion for 8-bit images, cropped to multiples of 4."""

    def __init__(self) -> None:
        super().__init__(test_y_channel=True)

    def prepare(self, images: Tensor) -> Tensor:
        height, width = (size // 4 * 4 for size in images.shape[2:])
        saved = as_saved(images[..., :height, :width])
        weights = saved.new_tensor((4899, 9617, 1868)).view(1, 3, 1, 1)  # 0.299, 0.587, 0.114 in 14 bits, as in OpenCV
        return (((saved * weights).sum(1, keepdim=True) + 2**13) / 2**14).floor()


@METRICS.register()
class RaindropPSNR(_FullRangeLuma, PSNR):
    """PSNR in dB as measured by the script of the raindrop benchmark.

    8-bit RGB images are cropped at the right and bottom to multiples of 4 and converted to full-range luma (OpenCV's
    YCrCb, integers 0 … 255). IDT uses this script on the raindrop data set of AGAN (Qian et al., CVPR 2018). The PSNR
    of equal images is infinite.
    """

    min_size = 4


@METRICS.register()
class RaindropSSIM(_FullRangeLuma):
    """Structural similarity as measured by the script of the raindrop benchmark.

    8-bit RGB images are cropped at the right and bottom to multiples of 4 and converted to full-range luma (OpenCV's
    YCrCb, integers 0 … 255). The window is that of scikit-image: 7×7 pixels of equal weight inside the image, with
    unbiased variances. Use this metric together with ``RaindropPSNR``.
    """

    min_size = 8

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the SSIM (B,)."""
        count = len(_BOX) ** 2
        return mean_ssim(output, gt, _BOX, self.peak, correction=count / (count - 1))


# -- deblurring and denoising -----------------------------------------------------------------------------------------


@METRICS.register()
class SSIM3D(FullReference):
    """Structural similarity as measured by NAFNet, with a window over height, width and channels.

    Images are rounded to 8 bits. The window is a Gaussian of 11×11×11 with σ = 1.5 (11×11 for luma and grey images).
    Images are padded with their edge values, and the SSIM map has the size of the image. Values are higher than those
    of ``SSIM`` and not comparable with them (for example 0.966 instead of 0.909 for the same image). Use this metric
    together with ``PSNR``.

    Args:
        crop_border: number of pixels that are ignored on each side.
        test_y_channel: whether to compare the luma (ITU-R BT.601, studio range, not rounded) instead of RGB.
    """

    def prepare(self, images: Tensor) -> Tensor:
        """Return the images in [0, 255], or their luma, padded with edge values."""
        return F.pad(super().prepare(images), [_RADIUS] * 4, mode="replicate")

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the SSIM (B,)."""
        channels = output.shape[1]
        mixing = torch.zeros(channels, channels, dtype=output.dtype)  # weight of channel j in the window at channel i
        for channel in range(channels):
            for offset, weight in enumerate(WINDOW, start=-_RADIUS):
                mixing[channel, min(max(channel + offset, 0), channels - 1)] += weight
        mixing = mixing.to(output.device)
        return mean_ssim(
            output, gt, WINDOW, self.peak, mix_channels=lambda images: (mixing @ images.flatten(2)).view_as(images)
        )


@METRICS.register()
class FloatSSIM3D(SSIM3D):
    """Structural similarity as measured by NAFNet on SIDD: ``SSIM3D`` of images clamped to [0, 1] and not rounded.

    Use this metric together with ``FloatPSNR``. NAFNet's option files choose it with ``use_image: false``.

    Args:
        crop_border: number of pixels that are ignored on each side.
        test_y_channel: whether to compare the luma (ITU-R BT.601, studio range, not rounded) instead of RGB.
    """

    peak = 1.0

    def prepare(self, images: Tensor) -> Tensor:
        """Return the images clamped to [0, 1], or their luma, padded with edge values."""
        return F.pad(as_floats(images, self.test_y_channel), [_RADIUS] * 4, mode="replicate")


# -- JPEG -------------------------------------------------------------------------------------------------------------


@METRICS.register()
class PSNRB(FullReference):
    """PSNR-B in dB (Yim and Bovik, IEEE TIP 2011), the metric of SwinIR for JPEG artefacts.

    A blocking term is added to the mean squared error: the mean squared difference of neighbouring pixels of the output
    at the borders of 8×8 blocks, minus that elsewhere, times log(8) / log(min(H, W)), and at least 0. Images are
    rounded to 8 bits. The PSNR-B is averaged over the channels. Height and width should be multiples of 8; otherwise
    the mean at block borders is divided by a number that is too small by one border, as in SwinIR's code.

    Args:
        crop_border: number of pixels that are ignored on each side.
        test_y_channel: whether to compare the luma (ITU-R BT.601, studio range, not rounded) instead of RGB.
    """

    unit = "dB"
    min_size = 2 * _BLOCK

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the PSNR-B (B,)."""
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
