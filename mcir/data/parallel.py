"""Process images in threads: reading, decoding, resizing and encoding release Python's global interpreter lock."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from mcir.device import cpu_count

Progress: TypeAlias = Callable[[int, int], None]
"""Function to call after each image, with the number of finished images and the total number."""

A = TypeVar("A")
R = TypeVar("R")


def in_order(
    function: Callable[[A], R], items: Collection[A], workers: int | None = None, progress: Progress | None = None
) -> Iterator[R]:
    """Apply a function to items in threads, and yield the results in the order of the items.

    At most ``2·workers + 1`` results are kept in memory.

    Args:
        function: function to apply to each item.
        items: items to process.
        workers: number of threads; None: one per CPU core.
        progress: function to call after the result of each item was used.
    """
    count = workers or cpu_count()
    remaining = iter(items)
    with ThreadPoolExecutor(count) as pool:
        pending: deque[Future[R]] = deque()
        try:
            for done in range(1, len(items) + 1):
                new = itertools.islice(remaining, 2 * count + 1 - len(pending))
                pending.extend(pool.submit(function, item) for item in new)
                yield pending.popleft().result()
                if progress is not None:
                    progress(done, len(items))
        finally:
            for future in pending:
                future.cancel()
