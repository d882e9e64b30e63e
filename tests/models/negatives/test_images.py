"""The input and the blurred ground truth as negatives, the sharpened one as a positive."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from mcir.models import HardNegatives, InputNegatives
from tests.models.negatives.test_history import network


def picture(*shape, seed=0):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)) / 255


def test_the_input_is_the_negative():
    lq = picture(2, 3, 8, 9).requires_grad_()
    outputs = InputNegatives(network())(lq, picture(2, 3, 8, 9, seed=1))
    assert outputs.shape == (1, 2, 3, 8, 9) and torch.equal(outputs[0], lq.detach()) and not outputs.requires_grad


@pytest.mark.parametrize("size", [(16, 27), (17, 20)])
def test_a_smaller_input_is_resized_bicubically_with_its_corners_in_place(size):
    """Each output pixel as a sum over 4×4 input pixels with Keys' kernel, a = −¾, edges repeated."""
    lq = picture(1, 1, 8, 9)
    outputs = InputNegatives(network())(lq, picture(1, 1, *size))[0, 0, 0]

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
    assert expected.max() > 1 or expected.min() < 0  # something is clamped
    torch.testing.assert_close(outputs[0, 0], lq[0, 0, 0, 0])


def blurred_slowly(image, down, across):
    """The two-dimensional sum with the outer product of the kernels, pixels beyond the border mirrored."""
    result = np.zeros_like(image)
    height, width = image.shape
    wide = np.pad(image, ((len(down) // 2,) * 2, (len(across) // 2,) * 2), "symmetric")
    for row, column in np.ndindex(height, width):
        part = wide[row : row + len(down), column : column + len(across)]
        result[row, column] = (np.outer(down, across) * part).sum()
    return result


@pytest.mark.parametrize("size", [(12, 15), (2, 3)])
def test_negatives_are_blurred_by_the_drawn_kernels_and_rounded(size):
    gt = picture(2, 3, *size).requires_grad_()
    hard = HardNegatives(network(), blurred=4, radius=2, seed=3)
    outputs = hard(gt, gt)
    assert outputs.shape == (4, 2, 3, *size) and not outputs.requires_grad
    for output, (down, across) in zip(outputs, hard.kernels(), strict=True):
        for index in np.ndindex(2, 3):
            exact = blurred_slowly(gt.detach().double().numpy()[index], down, across)
            levels = output[index].double().numpy() * 255
            assert np.abs(levels - np.rint(levels)).max() < 1e-4
            assert np.abs(levels - 255 * exact).max() < 0.5 + 1e-3


def test_kernels_are_gaussians_of_the_ranges():
    hard = HardNegatives(network(), blurred=500, sigma=(0.5, 2.0), radius=5)
    lengths, sigmas = set(), []
    for kernel in (kernel for pair in hard.kernels() for kernel in pair):
        radius = len(kernel) // 2
        lengths.add(len(kernel))
        assert sum(kernel) == pytest.approx(1) and kernel == kernel[::-1]
        sigmas.append((1 / (2 * np.log(kernel[radius] / kernel[radius + 1]))) ** 0.5)
    assert lengths == {3, 5, 7, 9, 11}
    assert 0.5 <= min(sigmas) < 0.51 and 1.99 < max(sigmas) <= 2.0 and np.mean(sigmas) == pytest.approx(1.25, abs=0.05)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 2.2])
def test_positives_are_sharpened_as_pillow_does_it(factor):
    gt = picture(2, 3, 9, 11)
    hard = HardNegatives(network(), sharpened=1, sharpness=(factor, factor))
    positives = hard.positives(gt)
    assert len(positives) == 2 and positives[0] is gt
    for image, sharp in zip(gt, positives[1], strict=True):
        bytes_ = (image * 255).round().byte().permute(1, 2, 0).numpy()
        theirs = np.asarray(ImageEnhance.Sharpness(Image.fromarray(bytes_)).enhance(factor)).astype(float)
        ours = (sharp * 255).permute(1, 2, 0).numpy()
        assert np.abs(ours - theirs).max() <= max(1.0, factor) + 0.51  # Pillow rounds what is smoothed, and cuts off


def test_images_too_small_to_be_smoothed_stay_as_they_are():
    gt = picture(1, 3, 2, 7)
    torch.testing.assert_close(HardNegatives(network(), sharpened=2).positives(gt)[1:], [gt, gt])


def test_what_is_drawn_depends_on_seed_and_iteration_alone():
    gt = picture(2, 3, 8, 8)
    one, same, another = (HardNegatives(network(), seed=seed) for seed in (4, 4, 5))
    seen = []
    for iteration in range(1, 5):
        torch.manual_seed(iteration)
        assert torch.equal(one(gt, gt), same(gt[:, :], gt))
        assert all(map(torch.equal, one.positives(gt), same.positives(gt)))
        assert not torch.equal(one(gt, gt), another(gt, gt))
        parts = torch.cat([one(half, half) for half in gt.split(1)], dim=1)
        assert torch.equal(parts, one(gt, gt))  # a divided batch is blurred alike
        seen.append(one(gt, gt))
        for kind in (one, same, another):
            kind.update(network(), iteration, gt, gt)
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(seen))
    resumed = HardNegatives(network(), seed=4)
    resumed.load_state_dict(one.state_dict())
    assert torch.equal(resumed(gt, gt), one(gt, gt))
    resumed.start_from(network())
    assert torch.equal(resumed(gt, gt), seen[0])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"blurred": 0}, "at least 1"),
        ({"sharpened": -1}, "at least 0"),
        ({"radius": 0}, "at least 1"),
        ({"sigma": (0.0, 1.0)}, "sigma above 0"),
        ({"sigma": (2.0, 1.0)}, "ranges"),
        ({"sharpness": (3.0, 1.0)}, "ranges"),
        ({"sigma": (0.1, float("inf"))}, "finite ranges"),
        ({"sigma": (float("nan"), 2.0)}, "finite ranges"),
        ({"sharpness": (0.5, float("inf"))}, "finite ranges"),
        ({"sharpness": (0.5, float("nan"))}, "finite ranges"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(section, message):
    with pytest.raises(ValueError, match=message):
        HardNegatives(network(), **section)
