"""Ctrl-C while a command starts. An interrupted import of a library may fail with any error, or print a traceback."""

import os
import signal
from types import FrameType


def exit_on_interrupt() -> None:
    """Let Ctrl-C end this process at once with status 130, unless it is ignored or handled otherwise."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def raise_on_interrupt() -> None:
    """Let Ctrl-C raise ``KeyboardInterrupt`` again, after :func:`exit_on_interrupt`."""
    if signal.getsignal(signal.SIGINT) == _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
