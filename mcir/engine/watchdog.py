"""End a process that does not react to a signal."""

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

PATIENCE_S = 8.0
"""Time in seconds in which a run has to react to a signal. Slow iterations get twice their usual time."""

_SECOND_SIGNAL_S = 2.0
_DECAY = 0.9


class Watchdog:
    """A thread that ends the process if it makes no progress after a signal.

    Python's own signal handlers run in the main thread. They never run if it waits for another process, a file or a GPU
    that does not respond.

    Args:
        numbers: numbers of the signals.
    """

    def __init__(self, numbers: Collection[int]) -> None:
        self._numbers = frozenset(numbers)
        self._last = time.monotonic()
        self._usual = 0.0
        self._is_paused = False

    def __enter__(self) -> "Watchdog":
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._before = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._last = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._before)
        self._sender.send(b"\0")
        self._thread.join()
        self._receiver.close()
        self._sender.close()

    def progress(self) -> None:
        """Record that the run makes progress. Call this after each iteration and each image of a validation."""
        now = time.monotonic()
        self._usual = max(now - self._last, _DECAY * self._usual)
        self._last = now

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the block, which saves a checkpoint, take any time, unless there is a second signal."""
        self._is_paused = True
        try:
            yield
        finally:
            self._last = time.monotonic()
            self._is_paused = False

    def _watch(self) -> None:
        received, began, limit, is_second = 0, 0.0, PATIENCE_S, False
        while True:
            end = max(self._last, began) + limit if received else None
            if end is not None and time.monotonic() > end and (is_second or not self._is_paused):
                _end(received, limit)
            wait = None if end is None else max(0.1, end - time.monotonic())
            if not select.select([self._receiver], [], [], wait)[0]:
                continue
            for number in self._receiver.recv(64):
                if number == 0:
                    return
                if number in self._numbers:
                    is_second = bool(received)
                    limit = _SECOND_SIGNAL_S if is_second else max(PATIENCE_S, 2 * self._usual)
                    received, began = number, time.monotonic()


def _end(number: int, seconds: float) -> None:
    text = (
        f"mcir: no iteration was finished within {seconds:.0f} s of signal {number}, so the process ends. What was "
        "trained since the last checkpoint is lost.\n"
    )
    os.write(2, text.encode())
    os._exit(128 + number)
