"""Work that is shared out over processes, one thread of arithmetic each."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def worker_count(jobs: int | None) -> int:
    """Return how many jobs run at a time: as asked, or as many as there are cores, or one on a GPU.

    Raises:
        ValueError: fewer than one is asked for.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs is at least 1, not {jobs}.")
    return jobs or (1 if torch.cuda.is_available() else len(os.sched_getaffinity(0)))


def run_parallel(work: Callable[[T], R], items: Sequence[T], jobs: int) -> Iterator[R]:
    """Yield what ``work`` makes of each item, as it is done; with one job, here and in order."""
    if jobs == 1 or len(items) < 2:
        yield from map(work, items)
        return
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(items)), spawning, initializer=_begin) as pool:
        pending = {pool.submit(work, item) for item in items}
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, however that happened."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
