"""Tests of the checks of constructor arguments."""

import re

import pytest

from mcir import checks
from mcir.errors import ArgumentError


@pytest.mark.parametrize(
    ("check", "positional", "arguments"),
    [
        ("check_argument", ("size", 3, True, "a number"), {}),
        ("check_choice", ("color", "rgb", ("rgb", "gray")), {}),
        ("check_at_least", (1,), {"depth": 1, "depths": [1, 2], "heads": ()}),
        ("check_unsupported", (), {"fast": (False, False, "never used")}),
    ],
)
def test_a_valid_argument_is_accepted(check, positional, arguments):
    getattr(checks, check)(*positional, **arguments)


@pytest.mark.parametrize(
    ("check", "positional", "arguments", "message"),
    [
        ("check_argument", ("size", "x", False, "a number"), {}, "size: expected a number, got 'x'."),
        ("check_choice", ("color", "grey", ("rgb", "gray")), {},
         "color: expected one of 'rgb', 'gray', got 'grey'. Did you mean 'gray'?"),
        ("check_at_least", (1,), {"width": 2, "depth": 0}, "depth: expected an integer ≥ 1, got 0."),
        ("check_at_least", (2,), {"depths": (2, 1)}, "depths: expected integers ≥ 2, got [2, 1]."),
        ("check_unsupported", (), {"a": (1, 1, "fine"), "b": (2, 1, "slow"), "c": ("x", None, "unused")},
         "b: expected 1, got 2 (slow); c: expected None, got 'x' (unused)."),
    ],
)  # fmt: skip
def test_an_invalid_argument_is_named_with_the_expected_and_the_actual_value(check, positional, arguments, message):
    with pytest.raises(ArgumentError, match=f"^{re.escape(message)}$") as caught:
        getattr(checks, check)(*positional, **arguments)
    assert caught.value.name == message.partition(":")[0]
