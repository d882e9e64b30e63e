"""Process items in three steps: while one item is computed, threads read the next and write the previous ones."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Input = TypeVar("Input")
Output = TypeVar("Output")


def pipelined(
    items: Iterable[Item],
    size: Callable[[Item], int],
    read: Callable[[Item], Input],
    compute: Callable[[Item, Input], Output],
    write: Callable[[Item, Output], None],
    limit: int,
    stop: threading.Event,
) -> Iterator[Item]:
    """Read, compute and write items, and yield each one after it is written, in order.

    Args:
        items: items to process.
        size: function that returns the bytes that an item uses from its reading until it is written.
        read: first step, called in threads.
        compute: second step, called in the thread of the caller.
        write: third step, called in threads.
        limit: largest total size of the items in progress; a larger item is processed alone.
        stop: event that is set when a step fails or the caller stops; a long ``write`` may check it.
    """
    pending = deque(items)
    reading: deque[tuple[Item, Future[Input]]] = deque()
    writing: deque[tuple[Item, Future[None]]] = deque()
    threads = min(8, os.cpu_count() or 1)

    def next_fits() -> bool:
        used = sum(size(item) for item, _ in (*reading, *writing))
        return len(reading) <= threads and (not used or used + size(pending[0]) <= limit)

    with ThreadPoolExecutor(threads) as pool:
        try:
            while pending or reading or writing:
                while pending and next_fits():
                    reading.append((pending[0], pool.submit(read, pending.popleft())))
                if reading:  # without a variable for the input, which would keep it in memory
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
