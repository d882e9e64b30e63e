"""Windows against convolutions written out, and the similarity in strips against the whole."""

import math

import pytest
import torch
from torch.nn import functional as F

from mcir.metrics import windows
from mcir.metrics.windows import blurred, gaussian, mean_similarity, similarity


def test_the_gaussian_is_the_published_window():
    window = gaussian()
    assert len(window) == 11 and math.isclose(sum(window), 1)
    assert window == pytest.approx(window[::-1], abs=0)
    assert math.isclose(window[7] / window[5], math.exp(-(2**2) / (2 * 1.5**2)))


@pytest.mark.parametrize("window", [gaussian(), [1 / 7] * 7, gaussian(3, 0.8), [1.0]])
@pytest.mark.parametrize("zeros_beyond", [False, True])
def test_blurring_is_a_convolution(window, zeros_beyond):
    images = torch.rand(2, 3, 12, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    axis = torch.tensor(window, dtype=torch.float64)
    kernel = torch.outer(axis, axis).expand(3, 1, -1, -1)
    expected = F.conv2d(images, kernel, padding=len(window) // 2 if zeros_beyond else 0, groups=3)
    torch.testing.assert_close(blurred(images, window, zeros_beyond), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 2, 3, 1), (2, 1, 5, 40)])
def test_images_smaller_than_the_window_may_see_zeros(shape):
    images = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    padded = F.pad(images, [5] * 4)
    torch.testing.assert_close(blurred(images, gaussian(), True), blurred(padded, gaussian()), rtol=0, atol=1e-14)


def test_blurring_changes_nothing_in_its_place():
    images = torch.rand(1, 1, 12, 12)
    before = images.clone()
    blurred(images, gaussian(), True)
    blurred(images, gaussian())
    assert torch.equal(images, before)


@pytest.mark.parametrize("height", [11, 12, 26, 27, 40])
def test_strips_of_rows_change_nothing(height, monkeypatch):
    monkeypatch.setattr(windows, "_STRIP", 8)
    output, gt = torch.rand(2, 2, 3, height, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = similarity(output, gt, lambda x: blurred(x, gaussian()), 1).mean((1, 2, 3))
    torch.testing.assert_close(mean_similarity(output, gt, gaussian(), 1), expected, rtol=0, atol=1e-14)
