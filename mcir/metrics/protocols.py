"""The test protocols of single papers, each a metric of its own, so that a number can say how it was measured.

As in ``fidelity``, images (B, C, H, W) in [0, 1] go in, arithmetic is float64, and one number an image comes out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mcir.metrics.fidelity import WINDOW, FullReference, as_floats, as_saved, decibels
from mcir.metrics.windows import mean_similarity
from mcir.registry import METRICS

_RADIUS = len(WINDOW) // 2
_BOX = [1 / 7] * 7
_BLOCK = 8


# -- dehazing ---------------------------------------------------------------------------------------------------------


@METRICS.register()
class ZeroPaddedSSIM(FullReference):
    """FFA-Net's structural similarity: of floats, under a window that sees zeros beyond the image.

    RGB in [0, 1], clamped and not rounded; a Gaussian of 11×11 pixels with σ 1.5; mean over a map as large as the
    image. It goes with ``FloatPSNR``.
    """

    def __init__(self) -> None:
        super().__init__()

    def values(self, images: Tensor) -> Tensor:
        """Return the images clamped to [0, 1], with zeros around."""
        return F.pad(as_floats(images), [_RADIUS] * 4)

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the similarity of each pair of images in [0, 1]."""
        return mean_similarity(output, gt, WINDOW, 1)


@METRICS.register()
class PooledSSIM(FullReference):
    """DehazeFormer's structural similarity: of floats, after images were averaged down to about 256 pixels.

    RGB in [0, 1], clamped and not rounded, is pooled by max(1, round(min(H, W) / 256)), adaptively; then a Gaussian of
    11×11 pixels with σ 1.5 that stays on the image. For images of up to 384 pixels it is ``FloatSSIM``. It goes with
    ``FloatPSNR``.
    """

    smallest = len(WINDOW)

    def __init__(self) -> None:
        super().__init__()

    def values(self, images: Tensor) -> Tensor:
        """Return the images clamped to [0, 1] and pooled."""
        height, width = images.shape[2:]
        ratio = max(1, round(min(height, width) / 256))
        return F.adaptive_avg_pool2d(as_floats(images), (height // ratio, width // ratio))

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the similarity of each pair of images in [0, 1]."""
        return mean_similarity(output, gt, WINDOW, 1)


# -- deraining --------------------------------------------------------------------------------------------------------


class _RoundedLuma(FullReference):
    """Metrics on the luma as MATLAB's ``rgb2ycbcr`` makes it of 8-bit images: rounded (half up) to 8 bits itself."""

    def __init__(self) -> None:
        super().__init__(test_y_channel=True)

    def values(self, images: Tensor) -> Tensor:
        saved = as_saved(images)
        weights = saved.new_tensor((65481, 128553, 24966)).view(1, 3, 1, 1)  # whole numbers, so that a half is a half
        return ((saved * weights).sum(1, keepdim=True) / 255000 + 16.5).floor()


@METRICS.register()
class DerainPSNR(_RoundedLuma):
    """The deraining papers' PSNR in dB, as their MATLAB script computes it on saved files.

    Luma (ITU-R BT.601, studio range) of 8-bit RGB, itself rounded to 8 bits; no border is cropped. IDT, and Restormer
    and those who share the script, on Rain200L/H, DID, DDN, SPA and Rain100L/H. Infinite for equal images.
    """

    unit = "dB"

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the ratio of each pair of lumas."""
        return decibels(output, gt, 255)


@METRICS.register()
class DerainSSIM(_RoundedLuma):
    """The deraining papers' structural similarity, as their MATLAB script computes it on saved files.

    Luma (ITU-R BT.601, studio range) of 8-bit RGB, itself rounded to 8 bits; no border is cropped; a Gaussian of 11×11
    pixels with σ 1.5 that stays on the image. It goes with ``DerainPSNR``.
    """

    smallest = len(WINDOW)

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the similarity of each pair of lumas."""
        return mean_similarity(output, gt, WINDOW, 255)


class _FullRangeLuma(FullReference):
    """Metrics on the luma as OpenCV's YCrCb makes it of 8-bit images, on sides cut to multiples of 4."""

    def __init__(self) -> None:
        super().__init__(test_y_channel=True)

    def values(self, images: Tensor) -> Tensor:
        height, width = (size // 4 * 4 for size in images.shape[2:])
        saved = as_saved(images[..., :height, :width])
        weights = saved.new_tensor((4899, 9617, 1868)).view(1, 3, 1, 1)  # 0.299, 0.587, 0.114 in 14 bits, as OpenCV has
        return (((saved * weights).sum(1, keepdim=True) + 2**13) / 2**14).floor()


@METRICS.register()
class RaindropPSNR(_FullRangeLuma):
    """The raindrop benchmark's PSNR in dB, as its Python script computes it on saved files.

    Full-range luma (OpenCV's YCrCb, whole numbers 0 … 255) of 8-bit RGB; right and bottom are cut to multiples of 4.
    IDT on the raindrop set of AGAN (Qian et al., CVPR 2018). Infinite for equal images.
    """

    unit = "dB"
    smallest = 4

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the ratio of each pair of lumas."""
        return decibels(output, gt, 255)


@METRICS.register()
class RaindropSSIM(_FullRangeLuma):
    """The raindrop benchmark's structural similarity, as its Python script computes it on saved files.

    Full-range luma (OpenCV's YCrCb, whole numbers 0 … 255) of 8-bit RGB; right and bottom are cut to multiples of 4.
    The window is scikit-image's: 7×7 pixels of equal weight that stay on the image, variances unbiased. It goes with
    ``RaindropPSNR``.
    """

    smallest = 8

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the similarity of each pair of lumas."""
        count = len(_BOX) ** 2
        return mean_similarity(output, gt, _BOX, 255, correction=count / (count - 1))


# -- deblurring and denoising -----------------------------------------------------------------------------------------


@METRICS.register()
class SSIM3D(FullReference):
    """NAFNet's structural similarity: the window reaches over the colours, too.

    8-bit images; one Gaussian of 11×11×11 with σ 1.5 over height, width and colour, the edge pixel going on beyond each
    side; mean over a map as large as the image. It reads higher than ``SSIM`` (0.966 where that says 0.909), so numbers
    of the two do not compare. It goes with ``PSNR``. On luma or grey it is a window of 11×11.

    Args:
        crop_border: pixels left out on each side.
        test_y_channel: compare the luma (ITU-R BT.601, studio range, not rounded) rather than RGB.

    Raises:
        ValueError: a negative border.
    """

    def values(self, images: Tensor) -> Tensor:
        """Return the images in [0, 255], or their luma, with the edge pixels going on around."""
        return F.pad(super().values(images), [_RADIUS] * 4, mode="replicate")

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the similarity of each pair of images in [0, 255]."""
        channels = output.shape[1]
        shares = torch.zeros(channels, channels, dtype=output.dtype)  # of colour j in the window around colour i
        for colour in range(channels):
            for offset, weight in enumerate(WINDOW, start=-_RADIUS):
                shares[colour, min(max(colour + offset, 0), channels - 1)] += weight
        shares = shares.to(output.device)
        return mean_similarity(
            output, gt, WINDOW, 255, across=lambda images: (shares @ images.flatten(2)).view_as(images)
        )


# -- JPEG -------------------------------------------------------------------------------------------------------------


@METRICS.register()
class PSNRB(FullReference):
    """PSNR-B in dB (Yim and Bovik, IEEE TIP 2011), as SwinIR measures the removal of JPEG's artefacts.

    To the mean squared error is added how much larger the steps between neighbouring pixels of the output are on the
    borders of 8×8 blocks than elsewhere, so blocks that are still seen cost more. 8-bit images; mean over channels of
    the dB. Sides should be multiples of 8: on others a step is divided by the number of borders between whole blocks,
    as in SwinIR's code, which counts one too few there.

    Args:
        crop_border: pixels left out on each side.
        test_y_channel: compare the luma (ITU-R BT.601, studio range, not rounded) rather than RGB.

    Raises:
        ValueError: a negative border.
    """

    unit = "dB"
    smallest = 2 * _BLOCK

    def compare(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the ratio of each pair of images in [0, 255]."""
        height, width = output.shape[2:]
        down, across = output.diff(dim=2).square(), output.diff(dim=3).square()
        on_borders = down[:, :, _BLOCK - 1 :: _BLOCK].sum((2, 3)) + across[..., _BLOCK - 1 :: _BLOCK].sum((2, 3))
        borders = width * (height // _BLOCK - 1) + height * (width // _BLOCK - 1)
        others = width * (height - 1) + height * (width - 1) - borders
        elsewhere = (down.sum((2, 3)) + across.sum((2, 3)) - on_borders) / others
        excess = (on_borders / borders - elsewhere).clamp(min=0)
        blocking = math.log2(_BLOCK) / math.log2(min(height, width)) * excess
        error = (output - gt).square().mean((2, 3)) + blocking
        return (10 * torch.log10(255**2 / error)).mean(1)
