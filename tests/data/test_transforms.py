"""Crops and orientations, against numpy."""

from itertools import product

import numpy as np
import pytest

from mcir.data.transforms import Orientation, Window, draw_geometry, in_color, orient, padded, place
from tests.data.pictures import noise


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("way", [Orientation(*way) for way in product([False, True], repeat=3)])
def test_orient_equals_numpy(way, channels, dtype):
    image = noise(9, 6, channels).astype(dtype)[1:8, 1:6]  # a view, as crops are
    expected = image[:, ::-1] if way.hflip else image
    expected = expected[::-1] if way.vflip else expected
    expected = expected.transpose(1, 0, 2) if way.transpose else expected
    laid = orient(image, way)
    assert np.array_equal(laid, expected)
    assert laid.dtype == dtype
    assert laid.flags.c_contiguous and laid.flags.writeable
    assert not np.shares_memory(laid, image)


def test_all_eight_ways_come_equally_often():
    rng = np.random.default_rng(0)
    ways = [draw_geometry(rng, True, True).orientation for _ in range(4000)]
    counts = [ways.count(way) for way in product([False, True], repeat=3)]
    assert min(counts) > 400 and max(counts) < 600


def test_options_do_not_shift_other_draws():
    for seed in range(20):
        draws = [draw_geometry(np.random.default_rng(seed), *use) for use in product([False, True], repeat=2)]
        assert len({draw.crop for draw in draws}) == 1
        assert draws[0].orientation == (False, False, False)
        assert draws[3].orientation == (draws[2].orientation.hflip, *draws[1].orientation[1:])


def test_every_place_can_be_drawn():
    places = {place((u, v), 5, 4, 3)[:2] for u in np.linspace(0, 0.999, 30) for v in np.linspace(0, 0.999, 30)}
    assert places == set(product(range(3), range(2)))
    assert place((0.5, 0.5), 5, 4, None) == (0, 0, 5, 4)
    assert place((0.9, 0.9), 5, 4, 5) == (0, 0, 5, 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_padding_mirrors_and_repeats_edges(channels):
    image = noise(2, 9, channels)
    wide = padded(image, 7)
    assert np.array_equal(wide, np.pad(image, ((0, 5), (0, 0), (0, 0)), "symmetric"))
    assert padded(image, 2) is image


def test_windows_widen_up_to_the_border():
    assert Window(1, 10, 4, 4).widened(3, 20, 15) == (0, 7, 8, 8)
    assert Window(1, 2, 3, 4).times(2) == (2, 4, 6, 8)


def test_colors():
    grey, colour = noise(4, 5, 1), noise(4, 5, 3)
    assert np.array_equal(in_color(grey, "rgb"), np.repeat(grey, 3, axis=2))
    assert in_color(colour, "rgb") is colour and in_color(grey, "gray") is grey
    luma = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(in_color(colour, "gray")[:, :, 0] - luma).max() <= 0.51


def test_windows_around_and_within_others():
    one, two = Window(3, 10, 4, 5), Window(5, 7, 8, 2)
    assert one.around(two) == two.around(one) == Window(3, 7, 10, 8) and one.around(one) == one
    image = noise(20, 20)
    around = one.around(two)

    def part(whole, window):
        return whole[window.top : window.top + window.height, window.left : window.left + window.width]

    for window in (one, two):
        assert np.array_equal(part(part(image, around), window.within(around)), part(image, window))
