"""Tests of bicubic resizing: official numbers, a slow reference, and properties of any image."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mcir.data.resize import imresize

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics_resize"
SCALES = {"down2": 1 / 2, "down3": 1 / 3, "down4": 1 / 4, "up2": 2, "up4_every3": 4, "up1.5": 1.5}


def cases():
    for name in ("36x48", "37x50"):
        with np.load(GOLDEN / f"imresize_{name}.npz") as stored:
            for case in stored.files:
                if case != "input":
                    yield pytest.param(stored["input"], case, stored[case], id=f"{name}-{case}")


@pytest.mark.parametrize(("image", "case", "expected"), list(cases()))
def test_equals_the_official_numbers(image, case, expected):
    planes = torch.from_numpy(image).double().permute(2, 0, 1)
    antialias, name = not case.endswith("_noaa"), case.removesuffix("_noaa")
    if name.startswith("gray_"):
        result = imresize(planes[0], SCALES[name.removeprefix("gray_")], antialias)
    else:
        result = imresize(planes, SCALES[name], antialias).permute(1, 2, 0)
    if name.endswith("_every3"):
        result = result[::3, ::3]
    assert result.dtype == torch.float64
    assert np.abs(result.numpy() - expected).max() < 1e-6


def row_by_row(image, scale):
    """Resize (H, W) pixel by pixel, as in the definition."""

    def line(values, length):
        shrink = min(scale, 1)
        result = []
        for m in range(math.ceil(length * scale - 1e-9)):
            center = (m + 0.5) / scale - 0.5
            taps = np.arange(math.floor(center - 2 / shrink), math.ceil(center + 2 / shrink) + 1)
            x = np.abs(taps - center) * shrink
            weights = np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2) * (x <= 2)
            mirrored = np.concatenate([np.arange(length), np.arange(length)[::-1]])[taps % (2 * length)]
            result.append(np.tensordot(weights / weights.sum(), values[mirrored], 1))
        return np.stack(result)

    return line(line(image, image.shape[0]).T, image.shape[1]).T


@pytest.mark.parametrize("scale", [1 / 4, 0.37, 1 / 3, 0.9, 1, 1.7, 3])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (13, 7), (31, 40)])
def test_equals_the_definition(size, scale):
    image = np.random.default_rng(1).random(size)
    expected = row_by_row(image, scale)
    assert np.abs(imresize(torch.from_numpy(image), scale).numpy() - expected).max() < 1e-12


def test_keeps_constants_and_ramps():
    assert torch.allclose(
        imresize(torch.full((3, 20, 30), 0.3, dtype=torch.float64), 1 / 3), torch.tensor(0.3).double()
    )
    ramp = torch.arange(64, dtype=torch.float64).expand(64, 64)
    inner = imresize(ramp, 0.5)[:, 8:-8]
    assert torch.allclose(inner, (2 * torch.arange(8, 24, dtype=torch.float64) + 0.5).expand(32, -1))


def test_types_and_batches():
    image = torch.randint(0, 256, (2, 3, 12, 18), dtype=torch.uint8)
    result = imresize(image, 0.5)
    assert result.dtype == torch.float64
    assert torch.equal(result[1, 2], imresize(image[1, 2].double(), 0.5))
    assert imresize(image.float(), 0.5).dtype == torch.float32


@pytest.mark.parametrize(("shape", "scale"), [((3, 4, 4), 0), ((3, 4, 4), -1), ((4,), 0.5), ((3, 0, 4), 0.5)])
def test_wrong_shapes_and_scales_are_rejected(shape, scale):
    with pytest.raises(ValueError, match="imresize"):
        imresize(torch.zeros(shape), scale)
