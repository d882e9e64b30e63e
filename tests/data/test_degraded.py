"""Tests of crops of degraded images."""

import numpy as np
import pytest
import torch

from mcir.data.degradations import build_degradation
from mcir.data.degraded import DegradedImages, as_tensor
from mcir.data.storage import Memory
from mcir.data.transforms import Window
from tests.data.images import noise

SECTIONS = [
    {"type": "BicubicDown"},
    {"type": "Chain", "degradations": [{"type": "BicubicDown"}, {"type": "BayerMosaic", "pattern": "gbrg"}]},
    {
        "type": "Chain",
        "degradations": [{"type": "BicubicDown"}, {"type": "HeteroscedasticNoise", "realisation": "fixed"}],
    },
]


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("section", SECTIONS, ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_crop_equals_the_crop_of_the_full_degraded_image(section, dtype):
    images = Memory({"a": noise(43, 61, dtype=dtype)})
    degraded_images = DegradedImages(images, build_degradation(section, 2), "rgb", 8 if dtype == np.uint8 else 16)
    size = (21, 30)
    clean, (full,) = degraded_images.read(4, "a", size, Window(0, 0, *size), rng())
    assert np.array_equal(clean, images.read("a")[:42, :60]) and full.shape == (*size, 3)
    for window in (Window(0, 0, 5, 5), Window(7, 11, 9, 4), Window(16, 25, 5, 5)):
        part, (degraded,) = degraded_images.read(4, "a", size, window, rng())
        top, left, height, width = window
        assert np.array_equal(part, clean[2 * top : 2 * (top + height), 2 * left : 2 * (left + width)])
        assert np.allclose(degraded, full[top : top + height, left : left + width], rtol=0, atol=1e-6)
        assert dtype == np.uint16 or np.array_equal(degraded, full[top : top + height, left : left + width])


def test_observations_share_the_clean_image():
    images = Memory({"a": noise(20, 20)})
    degraded_images = DegradedImages(
        images, build_degradation({"type": "HeteroscedasticNoise"}, 1), "gray", 8, observations=3
    )
    clean, degraded = degraded_images.read(0, "a", (20, 20), Window(2, 3, 10, 12), rng())
    assert clean.shape == (10, 12, 1) and [each.shape for each in degraded] == [(10, 12, 1)] * 3
    assert len({each.tobytes() for each in degraded}) == 3


@pytest.mark.parametrize("leading", [(), (2,)])
def test_as_tensor_shares_memory_or_converts_to_float(leading):
    eight = noise(4, 5)
    eight = np.broadcast_to(eight, (*leading, *eight.shape)).copy()
    shared = as_tensor(eight, 8)
    assert shared.shape == (*leading, 3, 4, 5) and shared.dtype == torch.uint8
    assert shared.data_ptr() == eight.ctypes.data
    assert np.array_equal(as_tensor(eight, 16).movedim(-3, -1), eight.astype(np.float32) / np.float32(255))
    deep = eight.astype(np.uint16) * 257
    assert torch.equal(as_tensor(deep, 16), as_tensor(eight, 16))
    ready = eight.astype(np.float32)
    assert as_tensor(ready, 8).data_ptr() == ready.ctypes.data
