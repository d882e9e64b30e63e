"""Errors in image data, and checks of constructor arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from mcir.registry import ArgumentError

MAX_LISTED = 10


class DataError(ValueError):
    """Error in images, folders or databases. The message names them."""


def raise_data_errors(problems: Sequence[str], source: str) -> None:
    """Raise one error that lists the problems of a set of images; do nothing if there are none.

    Args:
        problems: descriptions of the problems, one line each, starting with the file.
        source: name of the set of images, for the first line of the message.

    Raises:
        DataError: there are problems; the message lists ten of them and counts the others.
    """
    if not problems:
        return
    lines = [f"{source}: {len(problems)} {'problem' if len(problems) == 1 else 'problems'}", *problems[:MAX_LISTED]]
    if len(problems) > MAX_LISTED:
        lines.append(f"… and {len(problems) - MAX_LISTED} more")
    raise DataError("\n  ".join(lines))


def check_argument(name: str, value: object, is_valid: bool, expected: str) -> None:
    """Check a constructor argument.

    Args:
        name: name of the argument.
        value: its value.
        is_valid: whether the value is accepted.
        expected: description of the accepted values.

    Raises:
        ArgumentError: the value is not accepted.
    """
    if not is_valid:
        raise ArgumentError(name, f"expected {expected}, got {value!r}.")


def check_choice(name: str, value: object, choices: Any) -> None:
    """Check that a constructor argument is one of the values of a ``Literal`` type.

    Raises:
        ArgumentError: the value is not one of them.
    """
    known = get_args(choices)
    check_argument(name, value, value in known, f"one of {', '.join(map(repr, known))}")
