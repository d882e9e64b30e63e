"""Problems with single images, which are reported at the end and do not stop the others."""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from rich.table import Table
from rich.text import Text

from mcir.console import Console
from mcir.inference.images import PictureError
from mcir.text import printable

P = ParamSpec("P")
R = TypeVar("R")

TABLE_WIDTH = 160
"""Width of tables if there is no terminal."""

_FATAL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


class Problems:
    """The problems with images, by the names of the images."""

    def __init__(self) -> None:
        self._reasons: defaultdict[str, list[str]] = defaultdict(list)

    def report(self, name: str, reason: str) -> None:
        """Store a problem with an image."""
        self._reasons[name].append(reason)

    def attempt(self, source: Path, work: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R | None:
        """Call a function for an image; store an error and return None, unless the error affects all images."""
        try:
            return work(*arguments, **options)
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            if is_fatal(error):
                raise
            if isinstance(error, PictureError) and error.path == source:
                self.report(str(source), error.reason)
            else:
                self.report(str(source), reason_of(error))
            return None

    def texts(self) -> dict[str, str]:
        """Return the problems of each image, sorted by name."""
        return {printable(name): "; ".join(map(printable, texts)) for name, texts in sorted(self._reasons.items())}

    def print(self, console: Console) -> None:
        """Print a table of the problems to the standard error output; nothing without problems."""
        if not self._reasons:
            return
        table = Table("image", "problem")
        for name, reason in self.texts().items():
            table.add_row(Text(name, overflow="fold"), Text(reason, overflow="fold"))
        Console(width=table_width(console), stderr=True).print(table)


def table_width(console: Console) -> int | None:
    """Return the width of tables: that of the terminal (None), or a fixed one if there is no terminal."""
    return None if console.is_terminal else TABLE_WIDTH


def is_fatal(error: BaseException | None) -> bool:
    """Return whether an error, or its cause, prevents writing any other image."""
    if isinstance(error, OSError) and error.errno in _FATAL:
        return True
    return error is not None and is_fatal(error.__cause__)


def reason_of(error: BaseException) -> str:
    """Return the message of an error in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
