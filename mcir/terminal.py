"""Terminal output and log messages, in which names from files and options cannot control the terminal.

Everything that mcir prints passes through this module or :mod:`mcir.console`.
"""

from __future__ import annotations

import logging
import sys
import traceback
from types import TracebackType

from mcir.text import printable


class LogFormatter(logging.Formatter):
    """Formatter of log messages, with visible control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a log message."""
        return printable(super().format(record))


def show(text: str, flush: bool = False) -> None:
    """Print a text to the standard output."""
    print(printable(text), flush=flush)  # noqa: T201 (the only place)


def show_error(text: str) -> None:
    """Print a text to the standard error output."""
    print(printable(text), file=sys.stderr)  # noqa: T201 (the only place)


def make_tracebacks_printable() -> None:
    """Show the tracebacks of errors that end this process with visible control characters."""

    def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        show_error("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))

    sys.excepthook = show_traceback
