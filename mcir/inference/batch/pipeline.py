"""Process items in three steps: threads read the next items and write the last ones while one is computed."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


def pipelined(
    items: Iterable[A],
    size: Callable[[A], int],
    read: Callable[[A], B],
    compute: Callable[[A, B], C],
    write: Callable[[A, C], None],
    limit: int,
    stop: threading.Event,
) -> Iterator[A]:
    """Read, compute and write items, and yield each one when it is written, in order.

    Args:
        items: items to process.
        size: returns the bytes that an item uses from its reading until it is written.
        read: first step, called in threads.
        compute: second step, called in the thread of the caller.
        write: third step, called in threads.
        limit: bytes that all items use at most; a larger item is processed alone.
        stop: set when a step fails or the caller stops; a long ``write`` may look at it.
    """
    pending = deque(items)
    reading: deque[tuple[A, Future[B]]] = deque()
    writing: deque[tuple[A, Future[None]]] = deque()
    threads = min(8, os.cpu_count() or 1)

    def has_room() -> bool:
        used = sum(size(item) for item, _ in (*reading, *writing))
        return len(reading) <= threads and (not used or used + size(pending[0]) <= limit)

    with ThreadPoolExecutor(threads) as pool:
        try:
            while pending or reading or writing:
                while pending and has_room():
                    reading.append((pending[0], pool.submit(read, pending.popleft())))
                if reading:  # no variable keeps what was read
                    item = reading[0][0]
                    writing.append((item, pool.submit(write, item, compute(item, reading.popleft()[1].result()))))
                while writing and (writing[0][1].done() or not reading):
                    item, future = writing.popleft()
                    future.result()
                    yield item
                    if pending:
                        break
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
