"""Sliding windows over images, and structural similarity with any window (Wang et al., IEEE TIP 2004).

Every published SSIM is this formula. They differ in the window, in the padding, and in the compared values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

_STRIP = 64  # rows per step on a CPU, so that intermediate results stay in its cache


def gaussian(size: int = 11, sigma: float = 1.5) -> list[float]:
    """Return the weights of a Gaussian window of odd ``size`` along one axis, with sum 1."""
    weights = [math.exp(-((index - size // 2) ** 2) / (2 * sigma**2)) for index in range(size)]
    return [weight / sum(weights) for weight in weights]


def blurred(images: Tensor, window: Sequence[float], zero_padding: bool = False) -> Tensor:
    """Return the weighted means of images (…, H, W) under a separable window.

    They are sums of shifted images along each axis, which is much faster than a convolution of single channels.

    Args:
        images: images (…, H, W) of any floating-point type.
        window: K weights along one axis, symmetric, K odd.
        zero_padding: extend the images with zeros, instead of keeping the window inside them.

    Returns:
        means (…, H, W) with zero padding, otherwise (…, H−K+1, W−K+1).
    """
    along = _along_with_zeros if zero_padding else _along
    return along(along(images, window, -1), window, -2)


def _along(images: Tensor, window: Sequence[float], axis: int) -> Tensor:
    radius = len(window) // 2
    length = images.shape[axis] - 2 * radius
    total = images.narrow(axis, radius, length) * window[radius]
    for offset in range(1, radius + 1):
        total.add_(images.narrow(axis, radius - offset, length), alpha=window[radius + offset])
        total.add_(images.narrow(axis, radius + offset, length), alpha=window[radius + offset])
    return total


def _along_with_zeros(images: Tensor, window: Sequence[float], axis: int) -> Tensor:
    radius = len(window) // 2
    total = images * window[radius]
    for offset in range(1, min(radius, images.shape[axis] - 1) + 1):
        length = images.shape[axis] - offset
        total.narrow(axis, offset, length).add_(images.narrow(axis, 0, length), alpha=window[radius + offset])
        total.narrow(axis, 0, length).add_(images.narrow(axis, offset, length), alpha=window[radius + offset])
    return total


def similarity(
    output: Tensor, gt: Tensor, blur: Callable[[Tensor], Tensor], peak: float, correction: float = 1.0
) -> Tensor:
    """Return the map of structural similarity between images of equal shape.

    With means μ, variances σ² and the covariance σ_xy under the window, C₁ = (0.01·peak)² and C₂ = (0.03·peak)²::

        SSIM = (2 μ_x μ_y + C₁) (2 σ_xy + C₂) / ((μ_x² + μ_y² + C₁) (σ_x² + σ_y² + C₂))

    Args:
        output: restored images (B, C, H, W).
        gt: ground truths of the same shape.
        blur: function that returns the mean under the window at each pixel; it may omit pixels near the border.
        peak: largest possible pixel value.
        correction: factor of variances and covariance; n / (n − 1) makes those of n pixels unbiased.
    """
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_x, mean_y = blur(output), blur(gt)
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    covariance = correction * (blur(output * gt) - product)
    variances = correction * (blur(output.square() + gt.square()) - squares)
    return (2 * product + c1) / (squares + c1) * ((2 * covariance + c2) / (variances + c2))


def mean_similarity(
    output: Tensor,
    gt: Tensor,
    window: Sequence[float],
    peak: float,
    correction: float = 1.0,
    across: Callable[[Tensor], Tensor] = lambda images: images,
) -> Tensor:
    """Return the mean structural similarity (B,) of each pair of images, with a window that stays inside them.

    Args:
        output: restored images (B, C, H, W).
        gt: ground truths of the same shape.
        window: K weights along one axis, symmetric, K odd.
        peak: largest possible pixel value.
        correction: factor of variances and covariance.
        across: function that applies the window across channels, from (B, C, h, w) to the same shape.
    """
    halo = len(window) - 1
    rows, columns = (size - halo for size in output.shape[2:])
    step = _STRIP if output.device.type == "cpu" else rows
    total = output.new_zeros(len(output))
    for top in range(0, rows, step):
        strip = slice(top, min(top + step, rows) + halo)
        x, y = output[:, :, strip], gt[:, :, strip]
        total += similarity(x, y, lambda images: across(blurred(images, window)), peak, correction).sum((1, 2, 3))
    return total / (output.shape[1] * rows * columns)
