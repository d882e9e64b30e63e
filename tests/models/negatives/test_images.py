"""Inputs and blurred ground truths as negatives, sharpened ground truths as positives."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from mcir.errors import ArgumentError
from mcir.models import HardNegatives, InputNegatives
from tests.models.negatives.contract import make_network


def random_image(*shape, seed=0):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)) / 255


def test_an_input_of_the_same_size_is_the_negative():
    lq = random_image(2, 3, 8, 9).requires_grad_()
    outputs = InputNegatives(make_network())(lq, random_image(2, 3, 8, 9, seed=1))
    assert outputs.shape == (1, 2, 3, 8, 9) and torch.equal(outputs[0], lq.detach()) and not outputs.requires_grad


@pytest.mark.parametrize("size", [(16, 27), (17, 20)])
def test_a_smaller_input_is_resized_bicubically_with_aligned_corners(size):
    """The reference computes each output pixel from 4×4 input pixels with Keys' kernel, a = −¾, and repeated edges."""
    lq = random_image(1, 1, 8, 9)
    outputs = InputNegatives(make_network())(lq, random_image(1, 1, *size))[0, 0, 0]

    def keys(x):
        x, a = abs(x), -0.75
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    expected = np.zeros(size)
    for row, column in np.ndindex(*size):
        y, x = row * 7 / (size[0] - 1), column * 8 / (size[1] - 1)
        for i in range(int(y) - 1, int(y) + 3):
            for j in range(int(x) - 1, int(x) + 3):
                pixel = float(lq[0, 0, min(max(i, 0), 7), min(max(j, 0), 8)])
                expected[row, column] += keys(y - i) * keys(x - j) * pixel
    torch.testing.assert_close(outputs, torch.from_numpy(expected.clip(0, 1)).float(), rtol=1e-4, atol=1e-5)
    assert expected.max() > 1 or expected.min() < 0  # some values are clamped
    torch.testing.assert_close(outputs[0, 0], lq[0, 0, 0, 0])


def blur_reference(image, down, across):
    """Convolve with the outer product of the kernels, mirrored at the border."""
    result = np.zeros_like(image)
    height, width = image.shape
    wide = np.pad(image, ((len(down) // 2,) * 2, (len(across) // 2,) * 2), "symmetric")
    for row, column in np.ndindex(height, width):
        part = wide[row : row + len(down), column : column + len(across)]
        result[row, column] = (np.outer(down, across) * part).sum()
    return result


@pytest.mark.parametrize("size", [(12, 15), (2, 3)])
def test_negatives_are_blurred_with_the_random_kernels_and_rounded(size):
    gt = random_image(2, 3, *size).requires_grad_()
    hard = HardNegatives(make_network(), blurred=4, radius=2, seed=3)
    outputs = hard(gt, gt)
    assert outputs.shape == (4, 2, 3, *size) and not outputs.requires_grad
    for output, (down, across) in zip(outputs, hard.kernels(), strict=True):
        for index in np.ndindex(2, 3):
            exact = blur_reference(gt.detach().double().numpy()[index], down, across)
            levels = output[index].double().numpy() * 255
            assert np.abs(levels - np.rint(levels)).max() < 1e-4
            assert np.abs(levels - 255 * exact).max() < 0.5 + 1e-3


def test_kernels_are_gaussians_with_parameters_in_range():
    hard = HardNegatives(make_network(), blurred=500, sigma=(0.5, 2.0), radius=5)
    lengths, sigmas = set(), []
    for kernel in (kernel for pair in hard.kernels() for kernel in pair):
        radius = len(kernel) // 2
        lengths.add(len(kernel))
        assert sum(kernel) == pytest.approx(1) and kernel == kernel[::-1]
        sigmas.append((1 / (2 * np.log(kernel[radius] / kernel[radius + 1]))) ** 0.5)
    assert lengths == {3, 5, 7, 9, 11}
    assert 0.5 <= min(sigmas) < 0.51 and 1.99 < max(sigmas) <= 2.0 and np.mean(sigmas) == pytest.approx(1.25, abs=0.05)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 2.2])
def test_positives_are_sharpened_as_in_pillow(factor):
    gt = random_image(2, 3, 9, 11)
    hard = HardNegatives(make_network(), sharpened=1, sharpness=(factor, factor))
    positives = hard.positives(gt)
    assert len(positives) == 2 and positives[0] is gt
    for image, sharp in zip(gt, positives[1], strict=True):
        bytes_ = (image * 255).round().byte().permute(1, 2, 0).numpy()
        theirs = np.asarray(ImageEnhance.Sharpness(Image.fromarray(bytes_)).enhance(factor)).astype(float)
        ours = (sharp * 255).permute(1, 2, 0).numpy()
        assert np.abs(ours - theirs).max() <= max(1.0, factor) + 0.51  # Pillow rounds and truncates


def test_images_that_are_too_small_to_be_smoothed_do_not_change():
    gt = random_image(1, 3, 2, 7)
    torch.testing.assert_close(HardNegatives(make_network(), sharpened=2).positives(gt)[1:], [gt, gt])


def test_random_values_change_with_the_iteration_and_the_seed():
    gt = random_image(2, 3, 8, 8)
    one, other = HardNegatives(make_network(), seed=4), HardNegatives(make_network(), seed=5)
    outputs = []
    for iteration in range(1, 5):
        assert not torch.equal(one(gt, gt), other(gt, gt))
        outputs.append(one(gt, gt))
        for negatives in (one, other):
            negatives.update(make_network(), iteration, gt, gt)
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(outputs))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"blurred": 0}, "expected an integer ≥ 1"),
        ({"sharpened": -1}, "expected an integer ≥ 0"),
        ({"radius": 0}, "expected an integer from 1 to 100"),
        ({"sigma": (0.0, 1.0)}, r"sigma.0: expected a number in \(0, 100\], got 0.0"),
        ({"sigma": (2.0, 1.0)}, "sigma: expected numbers in ascending order"),
        ({"sharpness": (3.0, 1.0)}, "sharpness: expected numbers in ascending order"),
        ({"sigma": (0.1, float("inf"))}, "expected a number in"),
        ({"sigma": (float("nan"), 2.0)}, "expected a number in"),
        ({"sharpness": (0.5, float("inf"))}, "expected a number in"),
        ({"sharpness": (0.5, float("nan"))}, "expected a number in"),
    ],
)
def test_invalid_arguments_are_rejected(section, message):
    with pytest.raises(ArgumentError, match=message):
        HardNegatives(make_network(), **section)
