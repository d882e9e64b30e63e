"""Tests of errors in data."""

import pytest

from mcir.data.errors import DataError, raise_data_errors


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
