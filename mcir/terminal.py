"""Terminal output and log messages, in which names from files and options cannot control the terminal.

Everything that mcir prints passes through this module or :mod:`mcir.console`.
"""

from __future__ import annotations

import logging
import shutil
import sys
import textwrap
import traceback
from collections.abc import Iterable
from types import TracebackType

from mcir.text import printable

_WARNING, _ERROR = "yellow", "red"


class LogFormatter(logging.Formatter):
    """Formatter of log messages, with visible control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a log message."""
        return printable(super().format(record))


class LogHandler(logging.Handler):
    """Print log messages to the standard error output: at a terminal, warnings in yellow and errors in red."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a log message."""
        colours = {logging.WARNING: _WARNING, logging.ERROR: _ERROR, logging.CRITICAL: _ERROR}
        try:
            show_error(self.format(record), colours.get(record.levelno, ""))
        except Exception:  # as in the handlers of Python
            self.handleError(record)


def show(text: str, flush: bool = False) -> None:
    """Print a text to the standard output."""
    print(printable(text), flush=flush)  # noqa: T201 (the only place)


def show_hint(text: str) -> None:
    """Print how to continue after a list, below it, if a person reads it at a terminal."""
    if sys.stdout.isatty():
        show(f"\n{text}")


def show_table(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and descriptions to the standard output.

    At a terminal, descriptions wrap in their column, or below the names if these take half of the width. In a pipe or a
    file, each row is one line.
    """
    rows = [(name, " ".join(text.split())) for name, text in rows]
    indent = max((len(name) for name, _ in rows), default=0) + 2
    if not sys.stdout.isatty():
        show("\n".join(f"{name:<{indent}}{text}".rstrip() for name, text in rows))
        return
    columns = shutil.get_terminal_size().columns
    is_below = 2 * indent > columns
    for name, text in rows:
        margin = " " * (4 if is_below else indent)
        lines = textwrap.wrap(text, max(columns - len(margin) - 1, 20), break_on_hyphens=False)
        if is_below:
            show("\n".join([name, *(f"{margin}{line}" for line in lines)]))
        else:
            show(f"\n{margin}".join([f"{name:<{indent}}{''.join(lines[:1])}", *lines[1:]]))


def show_error(text: str, colour: str = _ERROR) -> None:
    """Print a text to the standard error output, at a terminal in a colour; see :class:`mcir.console.Console`."""
    if sys.stderr.isatty():
        from mcir.console import Console  # slow to import

        console = Console(stderr=True)
        with console.capture() as captured:
            console.print_wrapped(text, colour)
        sys.stderr.write(captured.get())  # not the console: below a progress row, Python's stream is replaced
    else:
        print(printable(text), file=sys.stderr)  # noqa: T201 (the only place)


def make_tracebacks_printable() -> None:
    """Show the tracebacks of errors that end this process with visible control characters."""

    def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        show_error("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))

    sys.excepthook = show_traceback
