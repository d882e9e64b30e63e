"""Work on many images in threads: reading, decoding, resizing and encoding run outside of Python's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias, TypeVar

Progress: TypeAlias = Callable[[int, int], None]
"""Told after each image: how many of how many are done."""

A = TypeVar("A")
R = TypeVar("R")


def in_order(function: Callable[[A], R], items: Iterable[A], workers: int | None) -> Iterator[R]:
    """Apply a function in threads and yield the results in order, with few of them waiting at a time."""
    count = workers or os.cpu_count() or 1
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
