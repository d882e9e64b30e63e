"""Checks of arguments that have no domain in their annotation. A wrong value raises an ``ArgumentError``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcir.errors import ArgumentError, suggestion


def check_argument(name: str, value: object, is_valid: bool, expected: str) -> None:
    """Check an argument.

    Args:
        name: name of the argument.
        value: value of the argument.
        is_valid: whether the value is accepted.
        expected: description of the accepted values.
    """
    if not is_valid:
        raise ArgumentError(name, f"expected {expected}, got {value!r}.")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Check that an argument is one of the choices."""
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise ArgumentError(name, f"expected one of {known}, got {value!r}.{suggestion(value, choices)}")


def check_at_least(minimum: int, **arguments: int | Sequence[int]) -> None:
    """Check that integers, or all integers of lists, are at least ``minimum``."""
    for name, value in arguments.items():
        numbers = [value] if isinstance(value, int) else list(value)
        expected, got = ("an integer", value) if isinstance(value, int) else ("integers", numbers)
        check_argument(name, got, all(number >= minimum for number in numbers), f"{expected} ≥ {minimum}")


def check_unsupported(**arguments: tuple[Any, Any, str]) -> None:
    """Check that arguments have the only value that is supported. One error names all other arguments.

    Args:
        arguments: value, supported value, and reason why no other value is supported, by argument name.
    """
    wrong = {
        name: f"expected {supported!r}, got {value!r} ({reason})"
        for name, (value, supported, reason) in arguments.items()
        if value != supported
    }
    if wrong:
        first, *others = wrong
        messages = [wrong[first], *(f"{name}: {wrong[name]}" for name in others)]
        raise ArgumentError(first, "; ".join(messages) + ".")
