"""Stop all processes of a run at the same iteration when one of them receives SIGTERM or SIGINT."""

import signal
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mcir.engine.distributed import DistContext

_KEY = "stop"


class StopRequest:
    """A handler of SIGTERM and SIGINT that stops all processes at the same iteration.

    A first signal only sets a flag; a second one ends the process immediately. A signal that comes too late to stop the
    run is raised again at the end of the ``with`` block.

    Attributes:
        number: number of the signal that stops the run, or 0. It is the same in all processes.
    """

    def __init__(self, context: DistContext) -> None:
        self.number = 0
        self._context = context
        self._received = 0
        self._pending: tuple[Any, Tensor] | None = None

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if self._pending is not None:
            self._pending[0].wait()
            self._pending = None
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._received and not self.number and error is None:
            signal.raise_signal(self._received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            raise SystemExit(128 + number)
        self._received = number

    def agreed(self) -> int:
        """Return the number of the signal that stops the run, or 0. Call this after every iteration.

        Processes receive a signal at different iterations. Each process therefore starts an all-reduce of its flag in
        every call and reads the result in the next one, so that no process has to wait.
        """
        if self._context.world_size == 1:
            self.number = self._received
            return self.number
        if self._pending is not None:
            work, flag = self._pending
            work.wait()
            self.number = int(flag)
        flag = torch.tensor(self._received)
        self._pending = (dist.all_reduce(flag, op=dist.ReduceOp.MAX, async_op=True), flag)
        return self.number

    def is_requested(self) -> bool:
        """Return whether any process has received a signal. Other processes may not know it yet."""
        store = self._context.store
        if self._received and store is not None:
            store.set(_KEY, "")
        return bool(self._received) or (store is not None and store.check([_KEY]))
