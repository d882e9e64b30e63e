"""Distribute work over processes with one compute thread each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from typing import TypeVar

import torch

from mcir.device import best_device, cpu_count
from mcir.parent import end_with_parent

T = TypeVar("T")
R = TypeVar("R")


def worker_count(jobs: int | None) -> int:
    """Return ``jobs``; by default one process on a GPU, or one per CPU core without a GPU.

    Raises:
        ValueError: ``jobs`` is less than 1.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs: expected at least 1, got {jobs}.")
    return jobs or (cpu_count() if best_device().type == "cpu" else 1)


def run_parallel(work: Callable[[T], R], items: Sequence[T], jobs: int) -> Iterator[R]:
    """Yield results as they are finished. A single job runs in this process, in order.

    After an error or a signal, no other item is started.
    """
    if jobs == 1 or len(items) < 2:
        yield from map(work, items)
        return
    waiting, spawn = iter(items), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(items)), spawn, initializer=_start_worker) as pool:
        # the executor cannot cancel items in its queue, so it only gets those that it can start
        running: set[Future[R]] = {pool.submit(work, item) for item in islice(waiting, jobs)}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                result = future.result()
                running |= {pool.submit(work, item) for item in islice(waiting, 1)}
                yield result


def _start_worker() -> None:
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None
    end_with_parent(parent.pid)
