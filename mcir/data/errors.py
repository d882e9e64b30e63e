"""Errors in image data."""

from __future__ import annotations

from collections.abc import Sequence

from mcir.errors import ComponentError

MAX_LISTED = 10


class DataError(ComponentError):
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
