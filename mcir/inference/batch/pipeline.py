"""Work on many things in three steps: threads read the next and write the last while one is computed.

What is held at a time is bounded in bytes; a thing that is larger than that passes alone.
"""

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
    room: int,
    stop: threading.Event,
) -> Iterator[A]:
    """Read, compute and write, and yield each item when it is written, in order.

    Args:
        items: what is worked on.
        size: bytes that are held for an item from its reading until it is written.
        read: runs in threads.
        compute: runs in the thread of the caller.
        write: runs in threads.
        room: bytes that may be held; an item that needs more is held alone.
        stop: set when the caller has enough or a step raises; a long ``write`` may look at it and leave off.
    """
    waiting = deque((item, size(item)) for item in items)
    reading: deque[tuple[A, int, Future[B]]] = deque()
    writing: deque[tuple[A, int, Future[None]]] = deque()
    held = 0
    threads = min(8, os.cpu_count() or 1)

    def compute_next() -> None:  # apart, so that nothing of it is held afterwards
        item, bytes_held, future = reading.popleft()
        writing.append((item, bytes_held, pool.submit(write, item, compute(item, future.result()))))

    with ThreadPoolExecutor(threads) as pool:
        try:
            while waiting or reading or writing:
                while waiting and len(reading) <= threads and (held + waiting[0][1] <= room or not held):
                    item, bytes_held = waiting.popleft()
                    held += bytes_held
                    reading.append((item, bytes_held, pool.submit(read, item)))
                if reading:
                    compute_next()
                while writing and (writing[0][2].done() or not reading):
                    item, bytes_held, future = writing.popleft()
                    future.result()
                    held -= bytes_held
                    yield item
                    if waiting:
                        break
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
