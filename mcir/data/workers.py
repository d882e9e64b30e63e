"""Worker processes that load batches: their errors, their shared memory, and their end."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from mcir.data.errors import DataError
from mcir.errors import is_user_error
from mcir.parent import end_with_parent

_LOG = getLogger("mcir")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (only its size is read)


class _Failure(NamedTuple):
    """The error of a batch, as a value: DataLoader would replace its message by a traceback."""

    error: Exception


class Samples(Protocol):
    """Samples that are read in batches."""

    def __getitems__(self, indices: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the samples of a batch."""


class BatchDataset(Dataset[Any]):
    """A data set of which ``DataLoader`` loads whole batches.

    Args:
        samples: samples of the batches.
        collate: function that makes a batch from samples.
    """

    def __init__(self, samples: Samples, collate: Callable[[Sequence[Any]], Any]) -> None:
        self._samples, self._collate = samples, collate

    def __getitems__(self, indices: Sequence[Any]) -> Any:
        """Return a batch; the loader calls this method."""
        in_worker = get_worker_info() is not None
        try:
            batch = self._collate(self._samples.__getitems__(indices))
        except (ValueError, OSError) as error:
            if in_worker and is_user_error(error):
                return _Failure(error)
            raise
        return _share(batch) if in_worker else batch


class WorkerLoader(DataLoader[Any]):
    """A loader whose workers never outlive a loop over it that ends early, or the process."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        iterator = self._start()
        workers = list(iterator._workers) if self.num_workers else []
        is_complete = False
        try:
            for received in iterator:
                yield _unpack(received)
            is_complete = True
        except RuntimeError as error:
            if codes := [worker.exitcode for worker in workers if worker.exitcode]:
                raise DataError(_describe(codes[0])) from error
            raise
        finally:
            if not is_complete:  # a worker may hang, and nothing uses its batches
                _kill(workers)
                self._iterator = None

    def _start(self) -> Any:
        """Start the workers, or reuse those of the previous loop."""
        if not self.num_workers or self._iterator is not None:
            return super().__iter__()
        before = None
        if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGCHLD)
        try:
            self.multiprocessing_context.Lock()  # if this fails in the constructor of the iterator, torch prints errors
            iterator: Any = super().__iter__()
        except OSError as error:
            raise DataError(
                f"The processes that load data cannot be started: {error}. They require shared memory "
                f"({_SHARED_MEMORY}) and free process and file handles. Set 'num_worker_per_gpu: 0' to use none."
            ) from error
        if before is not None:  # torch's handler raises at any point of a training step if a worker ends
            signal.signal(signal.SIGCHLD, before)
        atexit.register(_kill, iterator._workers)  # runs before torch's handler, which waits for each worker
        return iterator


def start_worker(worker: int) -> None:
    """Limit a worker to one thread, and protect it from all signals except that of its end.

    The training process handles the signals to the terminal, the process group or the job. It needs its workers until
    it has finished its step and saved, and kills them at its end.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.set_wakeup_fd(-1)  # that of the training process
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None
    end_with_parent(parent.pid)
    if hasattr(os, "setpgid"):  # not on Windows
        os.setpgid(0, 0)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def start_method() -> str:
    """Return the start method of workers: "fork" is faster, but unsafe on macOS and unavailable on Windows."""
    can_fork = sys.platform != "darwin" and "fork" in multiprocessing.get_all_start_methods()
    return "fork" if can_fork else "spawn"


def _share(batch: Any) -> Any:
    """Move the tensors of a batch to shared memory, or return its bytes, which pass a pipe, if there is not enough."""
    try:
        for value in batch.values():
            if isinstance(value, Tensor):
                value.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError:
        return pickle.dumps(batch)
    return batch


def _unpack(received: Any) -> Any:
    """Return a batch from a worker, or raise the error of the worker."""
    if isinstance(received, _Failure):
        raise received.error
    if isinstance(received, bytes):
        _warn_once()
        return pickle.loads(received)  # noqa: S301 (from our own worker)
    return received


def _describe(code: int) -> str:
    if code > 0:
        return f"A process that loads data ended with status {code}, see above."
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return (
        f"A process that loads data was ended by {name}. The memory of the machine or of the container may be full "
        f"(including {_SHARED_MEMORY}); set a smaller 'num_worker_per_gpu', or start the container with --shm-size."
    )


def _kill(workers: Sequence[Any]) -> None:
    for worker in workers:
        if worker.is_alive():
            worker.kill()


_warned = False


def _warn_once() -> None:
    global _warned
    if _warned:
        return
    _warned = True
    size = f" of {shutil.disk_usage(_SHARED_MEMORY).total / 2**20:.0f} MiB" if _SHARED_MEMORY.is_dir() else ""
    _LOG.warning(
        "The shared memory%s (%s) is too small for the batches of the data workers. They are passed through pipes, "
        "which is slower. In a container, set a larger --shm-size.",
        size,
        _SHARED_MEMORY,
    )
