"""Sliding windows over images, and structural similarity with any window (Wang et al., IEEE TIP 2004).

All published SSIM metrics use this formula. They differ in the window, the padding and the compared values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

_STRIP = 64  # number of rows that are processed together on a CPU, so that intermediate results fit in its cache


def gaussian(size: int = 11, sigma: float = 1.5) -> list[float]:
    """Return the normalized weights of a Gaussian window of odd ``size`` along one axis."""
    weights = [math.exp(-((index - size // 2) ** 2) / (2 * sigma**2)) for index in range(size)]
    return [weight / sum(weights) for weight in weights]


def separable_filter(images: Tensor, window: Sequence[float], zero_padding: bool = False) -> Tensor:
    """Filter images with a separable window.

    The result is a sum of shifted images along each axis, which is much faster than a depthwise convolution.

    Args:
        images: images of any floating-point type, (…, H, W).
        window: K weights of the window along one axis, symmetric, K odd.
        zero_padding: whether to pad the images with zeros instead of keeping the window inside them.

    Returns:
        The filtered images: (…, H, W) with zero padding, otherwise (…, H−K+1, W−K+1).
    """
    filter_axis = _filter_axis_padded if zero_padding else _filter_axis
    return filter_axis(filter_axis(images, window, -1), window, -2)


def _filter_axis(images: Tensor, window: Sequence[float], axis: int) -> Tensor:
    radius = len(window) // 2
    length = images.shape[axis] - 2 * radius
    total = images.narrow(axis, radius, length) * window[radius]
    for offset in range(1, radius + 1):
        total.add_(images.narrow(axis, radius - offset, length), alpha=window[radius + offset])
        total.add_(images.narrow(axis, radius + offset, length), alpha=window[radius + offset])
    return total


def _filter_axis_padded(images: Tensor, window: Sequence[float], axis: int) -> Tensor:
    radius = len(window) // 2
    total = images * window[radius]
    for offset in range(1, min(radius, images.shape[axis] - 1) + 1):
        length = images.shape[axis] - offset
        total.narrow(axis, offset, length).add_(images.narrow(axis, 0, length), alpha=window[radius + offset])
        total.narrow(axis, 0, length).add_(images.narrow(axis, offset, length), alpha=window[radius + offset])
    return total


def ssim_map(
    output: Tensor, gt: Tensor, blur: Callable[[Tensor], Tensor], peak: float, correction: float = 1.0
) -> Tensor:
    """Return the map of structural similarity (SSIM) between images of equal shape.

    With local means μ, variances σ² and covariance σ_xy, C₁ = (0.01·peak)² and C₂ = (0.03·peak)²::

        SSIM = (2 μ_x μ_y + C₁) (2 σ_xy + C₂) / ((μ_x² + μ_y² + C₁) (σ_x² + σ_y² + C₂))

    Args:
        output: restored images, (B, C, H, W).
        gt: ground truths of the same shape.
        blur: function that returns local means; it may omit pixels near the border.
        peak: largest possible pixel value.
        correction: factor of variances and covariance; n / (n − 1) makes them unbiased for a window of n pixels.
    """
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_x, mean_y = blur(output), blur(gt)
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    covariance = correction * (blur(output * gt) - product)
    variances = correction * (blur(output.square() + gt.square()) - squares)
    return (2 * product + c1) / (squares + c1) * ((2 * covariance + c2) / (variances + c2))


def mean_ssim(
    output: Tensor,
    gt: Tensor,
    window: Sequence[float],
    peak: float,
    correction: float = 1.0,
    mix_channels: Callable[[Tensor], Tensor] = lambda images: images,
) -> Tensor:
    """Return the mean structural similarity (B,) of each pair of images, with a window that stays inside them.

    Args:
        output: restored images, (B, C, H, W).
        gt: ground truths of the same shape.
        window: K weights of the window along one axis, symmetric, K odd.
        peak: largest possible pixel value.
        correction: factor of variances and covariance; see :func:`ssim_map`.
        mix_channels: function that filters along the channel axis, from (B, C, h, w) to the same shape.
    """

    def blur(images: Tensor) -> Tensor:
        return mix_channels(separable_filter(images, window))

    halo = len(window) - 1
    rows, columns = (size - halo for size in output.shape[2:])
    step = _STRIP if output.device.type == "cpu" else rows
    total = output.new_zeros(len(output))
    for top in range(0, rows, step):
        strip = slice(top, min(top + step, rows) + halo)
        x, y = output[:, :, strip], gt[:, :, strip]
        total += ssim_map(x, y, blur, peak, correction).sum((1, 2, 3))
    return total / (output.shape[1] * rows * columns)
