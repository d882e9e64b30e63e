"""Tests of crops and orientations."""

from itertools import product

import numpy as np
import pytest

from mcir.data.transforms import (
    Orientation,
    Window,
    convert_color,
    crop_image,
    crop_window,
    draw_geometry,
    orient,
    pad_to_size,
)
from tests.data.images import noise


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("orientation", [Orientation(*flips) for flips in product([False, True], repeat=3)])
def test_orient_equals_numpy(orientation, channels, dtype):
    image = noise(9, 6, channels).astype(dtype)[1:8, 1:6]  # a view, like a crop
    expected = image[:, ::-1] if orientation.hflip else image
    expected = expected[::-1] if orientation.vflip else expected
    expected = expected.transpose(1, 0, 2) if orientation.transpose else expected
    result = orient(image, orientation)
    assert np.array_equal(result, expected)
    assert result.dtype == dtype
    assert result.flags.c_contiguous and result.flags.writeable
    assert not np.shares_memory(result, image)


def test_all_eight_orientations_are_equally_likely():
    rng = np.random.default_rng(0)
    drawn = [draw_geometry(rng, True, True)[1] for _ in range(4000)]
    counts = [drawn.count(flips) for flips in product([False, True], repeat=3)]
    assert min(counts) > 400 and max(counts) < 600


def test_options_do_not_change_other_draws():
    for seed in range(20):
        draws = [draw_geometry(np.random.default_rng(seed), *use) for use in product([False, True], repeat=2)]
        assert len({crop for crop, _ in draws}) == 1
        none, rotated, flipped, both = (orientation for _, orientation in draws)
        assert none == (False, False, False)
        assert both == (flipped.hflip, *rotated[1:])


def test_every_position_can_be_drawn():
    positions = {crop_window((u, v), 5, 4, 3)[:2] for u in np.linspace(0, 0.999, 30) for v in np.linspace(0, 0.999, 30)}
    assert positions == set(product(range(3), range(2)))
    assert crop_window((0.5, 0.5), 5, 4, None) == (0, 0, 5, 4)
    assert crop_window((0.9, 0.9), 5, 4, 5) == (0, 0, 5, 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_padding_mirrors_and_repeats_the_border(channels):
    image = noise(2, 9, channels)
    padded = pad_to_size(image, 7)
    assert np.array_equal(padded, np.pad(image, ((0, 5), (0, 0), (0, 0)), "symmetric"))
    assert pad_to_size(image, 2) is image


def test_windows_are_widened_up_to_the_border():
    assert Window(1, 10, 4, 4).widened(3, 20, 15) == (0, 7, 8, 8)
    assert Window(1, 2, 3, 4).times(2) == (2, 4, 6, 8)


def test_convert_color():
    gray, color = noise(4, 5, 1), noise(4, 5, 3)
    assert np.array_equal(convert_color(gray, "rgb"), np.repeat(gray, 3, axis=2))
    assert convert_color(color, "rgb") is color and convert_color(gray, "gray") is gray
    luma = color @ np.array([0.299, 0.587, 0.114])
    assert np.abs(convert_color(color, "gray")[:, :, 0] - luma).max() <= 0.51


def test_unions_and_relative_positions_of_windows():
    one, two = Window(3, 10, 4, 5), Window(5, 7, 8, 2)
    assert one.union(two) == two.union(one) == Window(3, 7, 10, 8) and one.union(one) == one
    image = noise(20, 20)
    union = one.union(two)

    for window in (one, two):
        inner = crop_image(crop_image(image, union), window.relative_to(union))
        assert np.array_equal(inner, crop_image(image, window))
