"""The text log of a training: ``train.log`` in its folder."""

import logging
import traceback
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType

from mcir.atomic import append
from mcir.engine.guard import NotFiniteError
from mcir.engine.log_output import LogOutput
from mcir.errors import is_user_error
from mcir.text import printable

TEXT_LOG = "train.log"
_KEPT = 10_000
"""Number of messages that are kept in memory until they can be written."""


class TextLog(logging.Handler):
    """Everything that a training prints, with the time, and the error that ends it.

    Within its ``with`` block it receives the log messages of mcir. Messages before :meth:`open` are kept until then. If
    the file cannot be written, the training continues; see :class:`LogOutput`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._file: Path | None = None
        self._early: list[bytes] = []
        self._output = LogOutput(TEXT_LOG, keep=_KEPT)

    def __enter__(self) -> "TextLog":
        logging.getLogger("mcir").addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Log the error that ends the training, with its traceback if it may be a bug."""
        if isinstance(error, NotFiniteError) or (error is not None and is_user_error(error)):
            self.write(f"ERROR: {error}")
        elif isinstance(error, Exception):
            self.write("ERROR: " + "".join(traceback.format_exception(error)))
        logging.getLogger("mcir").removeHandler(self)

    def open(self, folder: Path) -> None:
        """Write the messages so far, and all later ones, to the file in a folder."""
        self._file = folder / TEXT_LOG
        for data in self._early:
            self._append(data)
        self._early.clear()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a log message."""
        level = f"{record.levelname}: " if record.levelno >= logging.WARNING else ""
        self.write(level + self.format(record))

    def write(self, text: str) -> None:
        """Write a text. Its other lines are indented by the width of the time."""
        time = f"{datetime.now():%Y-%m-%d %H:%M:%S}  "
        lines = printable(text).rstrip("\n").split("\n")
        data = (time + f"\n{' ' * len(time)}".join(lines) + "\n").encode()
        self._locked(lambda: self._early.append(data) if self._file is None else self._append(data))

    def retry(self) -> None:
        """Write what could not be written before."""
        self._locked(self._output.retry)

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        self._output.write(partial(append, self._file, data))

    def _locked(self, action: Callable[[], None]) -> None:
        """Call a function with the lock of log messages, because other threads log, too."""
        self.acquire()
        try:
            action()
        finally:
            self.release()
