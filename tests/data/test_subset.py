"""Subsets by names: nested, and the same for ever."""

from itertools import pairwise

import pytest

from mcir.data.subset import shuffled, subset

NAMES = [f"{index:04d}" for index in range(200)]


def test_the_order_is_known_for_ever():
    """``printf 0:a | sha256sum`` begins with 9df3, b: e021, c: be08, d: 7d98, e: e078."""
    assert shuffled(["a", "b", "c", "d", "e"], 0) == [3, 0, 2, 1, 4]


def test_smaller_ones_lie_in_larger_ones():
    subsets = [subset(NAMES, count, 3) for count in (1, 10, 50, 200)]
    assert [len(each) for each in subsets] == [1, 10, 50, 200]
    assert all(set(small) < set(large) for small, large in pairwise(subsets))
    assert all(each == sorted(each) for each in subsets)
    assert subset(NAMES, 50, 4) != subsets[2]


def test_names_keep_their_order_in_another_set():
    every_other = NAMES[::2]
    kept = [NAMES[index] for index in shuffled(NAMES, 0) if NAMES[index] in every_other]
    assert [every_other[index] for index in shuffled(every_other, 0)] == kept


@pytest.mark.parametrize("count", [0, -1, 201])
def test_too_many_or_none(count):
    with pytest.raises(ValueError, match=f"{count} of 200 images"):
        subset(NAMES, count, 0)
