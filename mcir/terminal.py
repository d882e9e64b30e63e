"""Terminal output and log messages, in which names from files and options cannot control the terminal.

Everything that mcir prints passes through this module or :mod:`mcir.console`.
"""

from __future__ import annotations

import logging
import sys
import traceback
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
