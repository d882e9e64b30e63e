"""What goes wrong with a person's images, said in one message."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 10


class DataError(ValueError):
    """Images, folders or data bases that do not fit what was asked for; the message names the files."""


def raise_data_errors(problems: Sequence[str], what: str) -> None:
    """Raise one error for all problems of a set of images, or return where there is none.

    Args:
        problems: one line for each offending file, the file's name first.
        what: the set, for the first line of the message.

    Raises:
        DataError: there are problems; the message lists the first ten and counts the rest.
    """
    if not problems:
        return
    lines = [f"{what}: {len(problems)} {'problem' if len(problems) == 1 else 'problems'}", *problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"… and {len(problems) - SHOWN} more")
    raise DataError("\n  ".join(lines))
