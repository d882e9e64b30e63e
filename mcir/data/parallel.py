"""Process images in threads: reading, decoding, resizing and encoding release Python's global interpreter lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from mcir.device import cpu_count

Progress: TypeAlias = Callable[[int, int], None]
"""Function to call after each image, with the number of finished images and the total number."""

A = TypeVar("A")
R = TypeVar("R")


def in_order(function: Callable[[A], R], items: Iterable[A], workers: int | None) -> Iterator[R]:
    """Apply a function to items in threads, and yield the results in the order of the items.

    At most ``2·workers + 1`` results are kept in memory.

    Args:
        function: function to apply to each item.
        items: items; an iterator is consumed as needed.
        workers: number of threads; None: one per CPU core.
    """
    count = workers or cpu_count()
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 2 * count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
