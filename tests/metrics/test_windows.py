"""Filtering with a window equals a convolution, and SSIM in strips equals SSIM of the whole image."""

import math

import pytest
import torch
from torch.nn import functional as F

from mcir.metrics import windows
from mcir.metrics.windows import gaussian, mean_ssim, separable_filter, ssim_map


def test_the_gaussian_is_the_published_window():
    window = gaussian()
    assert len(window) == 11 and math.isclose(sum(window), 1)
    assert window == pytest.approx(window[::-1], abs=0)
    assert math.isclose(window[7] / window[5], math.exp(-(2**2) / (2 * 1.5**2)))


@pytest.mark.parametrize("window", [gaussian(), [1 / 7] * 7, gaussian(3, 0.8), [1.0]])
@pytest.mark.parametrize("zero_padding", [False, True])
def test_filtering_equals_a_convolution(window, zero_padding):
    images = torch.rand(2, 3, 12, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    axis = torch.tensor(window, dtype=torch.float64)
    kernel = torch.outer(axis, axis).expand(3, 1, -1, -1)
    expected = F.conv2d(images, kernel, padding=len(window) // 2 if zero_padding else 0, groups=3)
    torch.testing.assert_close(separable_filter(images, window, zero_padding), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 2, 3, 1), (2, 1, 5, 40)])
def test_zero_padding_of_images_smaller_than_the_window(shape):
    images = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    padded = F.pad(images, [5] * 4)
    torch.testing.assert_close(
        separable_filter(images, gaussian(), True), separable_filter(padded, gaussian()), rtol=0, atol=1e-14
    )


def test_filtering_does_not_modify_its_input():
    images = torch.rand(1, 1, 12, 12)
    before = images.clone()
    separable_filter(images, gaussian(), True)
    separable_filter(images, gaussian())
    assert torch.equal(images, before)


@pytest.mark.parametrize("height", [11, 12, 26, 27, 40])
def test_strips_do_not_change_the_value(height, monkeypatch):
    monkeypatch.setattr(windows, "_STRIP", 8)
    output, gt = torch.rand(2, 2, 3, height, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = ssim_map(output, gt, lambda x: separable_filter(x, gaussian()), 1).mean((1, 2, 3))
    torch.testing.assert_close(mean_ssim(output, gt, gaussian(), 1), expected, rtol=0, atol=1e-14)
