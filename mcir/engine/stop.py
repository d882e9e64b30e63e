"""Stop all processes of a run at the same iteration when one of them receives a signal or fails."""

import signal
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mcir.engine.distributed import DistContext, OtherProcessFailedError
from mcir.engine.watchdog import Watchdog
from mcir.models.batch import Batch

_FAILED = 255  # above all numbers of signals


class _WaitEnded(BaseException):
    """A signal was received while a batch was loaded. Code that loads data must not handle it."""


class StopRequest:
    """A handler of SIGTERM, SIGINT and SIGHUP that stops all processes at the same iteration.

    A first signal only sets a flag, and ends the wait for data; a second one ends the process immediately. A signal
    that comes too late to stop the run is raised again at the end of the ``with`` block. An ignored signal, like SIGHUP
    under ``nohup``, stays ignored. A process that hangs ends some seconds after the signal; see
    :class:`~mcir.engine.watchdog.Watchdog`.

    Attributes:
        number: number of the signal that stops the run, or 0. It is the same in all processes.
        failed: whether a process of the run has failed. It is the same in all processes.
        watchdog: the watchdog of this process.
    """

    latency = 2
    """Largest number of iterations between a request and the stop."""

    def __init__(self, context: DistContext) -> None:
        names = (name for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
        numbers = [getattr(signal, name) for name in names]
        self.number, self.failed = 0, False
        self.watchdog = Watchdog(numbers)
        self._numbers = numbers
        self._context = context
        self._received = 0
        self._failure: BaseException | None = None
        self._waits = False
        self._pending: tuple[Any, Tensor] | None = None

    def __enter__(self) -> "StopRequest":
        numbers = [number for number in self._numbers if signal.getsignal(number) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._receive) for number in numbers}
        self.watchdog.__enter__()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if self._pending is not None and error is None:
            self._pending[0].wait()
            self._pending = None
        self.watchdog.__exit__()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        is_ended_by_launcher = error is not None and self._context.world_size > 1  # because another process ended
        if self._received and not self.number and not self.failed and (error is None or is_ended_by_launcher):
            signal.raise_signal(self._received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            raise SystemExit(128 + number)
        self._received = number
        if self._waits:
            self._waits = False
            raise _WaitEnded

    def interruptible(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches until a signal is received, which ends the wait for the next batch.

        With several processes, the first batches are waited for, because a process that stops needs them to reach the
        iteration at which all processes stop; see :func:`~mcir.engine.batches.loaded_ahead`.
        """
        iterator, awaited = iter(batches), 0 if self._context.world_size == 1 else self.latency
        while True:
            try:
                self._waits = awaited <= 0
                if self._waits and self._received:
                    return
                batch = next(iterator)
                self._waits = False
            except (_WaitEnded, StopIteration):
                return
            finally:
                self._waits = False
            awaited -= 1
            yield batch

    def fail(self, error: Exception) -> None:
        """Stop all processes because this process cannot load a batch. It can still use those that it has loaded."""
        self._failure = error

    def agreed(self) -> int:
        """Return a true value if the run stops: the number of the signal, or 255. Call this after every iteration.

        Processes receive a signal at different iterations. Each process therefore starts an all-reduce of its flag in
        every call and reads the result in the next one, so that no process has to wait.
        """
        self.watchdog.progress()
        if self._context.world_size == 1:
            self.number = self._received
            return self.number
        stops = 0
        if self._pending is not None:
            work, flag = self._pending
            work.wait()
            stops = int(flag)
        self.failed = stops == _FAILED
        self.number = 0 if self.failed else stops
        flag = torch.tensor(self._received if self._failure is None else _FAILED)
        self._pending = (dist.all_reduce(flag, op=dist.ReduceOp.MAX, async_op=True), flag)
        return stops

    def is_requested(self) -> bool:
        """Return whether any process has received a signal or has failed. Other processes may not know it yet."""
        self.watchdog.progress()
        if self._received:
            self._context.request_stop()
        return bool(self._received) or self._context.is_stop_requested()

    def raise_failure(self) -> None:
        """Raise the error of this process, if it failed.

        Raises:
            OtherProcessFailedError: another process failed.
        """
        if self.failed:
            raise self._failure or OtherProcessFailedError
