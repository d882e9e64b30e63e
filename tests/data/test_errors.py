"""Tests of errors in data and of checks of arguments."""

from typing import Literal

import pytest

from mcir.data.errors import DataError, check_argument, check_choice, raise_data_errors
from mcir.registry import ArgumentError


def test_no_problems_raise_no_error():
    raise_data_errors([], "a set")


@pytest.mark.parametrize("count", [1, 10, 11, 400])
def test_ten_problems_are_listed_and_the_rest_is_counted(count):
    with pytest.raises(DataError) as caught:
        raise_data_errors([f"file{index:03d}: bad" for index in range(count)], "a set")
    first, *lines = str(caught.value).split("\n")
    assert first == f"a set: {count} problem{'s' if count > 1 else ''}"
    assert [line.strip() for line in lines[:10]] == [f"file{index:03d}: bad" for index in range(min(count, 10))]
    assert [line.strip() for line in lines[10:]] == ([f"… and {count - 10} more"] if count > 10 else [])


def test_wrong_arguments_are_named():
    check_argument("size", 3, True, "a positive integer")
    with pytest.raises(ArgumentError, match=r"^size: expected a positive integer, got -3\.$") as caught:
        check_argument("size", -3, False, "a positive integer")
    assert caught.value.name == "size"
    check_choice("color", "rgb", Literal["rgb", "gray"])
    with pytest.raises(ArgumentError, match=r"^color: expected one of 'rgb', 'gray', got 'y'"):
        check_choice("color", "y", Literal["rgb", "gray"])
