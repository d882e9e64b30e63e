"""From a data set to batches on the device.

Batches are uint8 until they are on the device, and lie in memory as images lie in files (channels last), so that
neither a worker nor the collation moves single bytes about.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mcir.data.errors import DataError
from mcir.data.ring import Ring
from mcir.data.sampler import EndlessBatches, SampleIndex, Share

Batch: TypeAlias = dict[str, Any]

_PREFETCHED_BATCHES = 4
_SLACK = 1024  # for the alignment of tensors in a slot


def training_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    num_workers: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
    offset: int = 0,
) -> DataLoader[Any]:
    """Return an endless loader whose batches depend on the seed, the rank and the iteration alone.

    Args:
        dataset: takes a ``SampleIndex`` as index, has a length.
        batch_size: samples of this rank in an iteration.
        num_workers: processes that prepare batches; the batches are the same for any number, 0 included.
        seed: of the order and of every sample, ≥ 0.
        rank: this process, of ``world_size``.
        world_size: number of processes.
        start: iterations that are already consumed; the first batch is that of iteration ``start``.
        offset: samples that batches of another size consumed before iteration 0.

    Raises:
        ValueError: a number is out of range.
    """
    batches = EndlessBatches(_length(dataset), batch_size, seed, rank, world_size, start, offset)
    combine: Callable[..., Any] = collate
    if num_workers > 0 and _can_fork():
        size = batch_size * sum(value.nbytes for value in dataset[0].values() if isinstance(value, Tensor))
        combine = Ring(collate, size + _SLACK, num_workers, _PREFETCHED_BATCHES + 2)
    return _loader(dataset, batches, num_workers, combine)


def evaluation_loader(
    dataset: Dataset[Any], *, num_workers: int = 0, rank: int = 0, world_size: int = 1
) -> DataLoader[Any]:
    """Return a loader of single images in order: rank r gets the items r, r + world_size, … once.

    A batch carries the list ``index`` as well: the number of its item in the data set.
    """
    share = Share(_length(dataset), rank, world_size)
    return _loader(_Numbered(dataset), [[index] for index in share], num_workers, collate)


def to_device(batch: Mapping[str, Any], device: torch.device | str, channels_last: bool = False) -> Batch:
    """Return a batch whose images are float32 on a device.

    Args:
        batch: images (B, C, H, W) or (B, K, C, H, W), uint8 or float32 in [0, 1]; other tensors, which go to the device
            as they are; and anything else, which stays as it is.
        device: where to.
        channels_last: the order in memory of every image; contiguous (B, C, H, W) without.
    """
    order = torch.channels_last if channels_last else torch.contiguous_format
    moved = dict(batch)
    for key, value in batch.items():
        if isinstance(value, Tensor) and value.dim() in (4, 5):
            there = value.to(device, non_blocking=True)
            image = there.flatten(0, -4).to(torch.float32, memory_format=order).view(value.shape)
            moved[key] = image.div_(255) if value.dtype == torch.uint8 else image
        elif isinstance(value, Tensor):
            moved[key] = value.to(device, non_blocking=True)
    return moved


class Prefetcher:
    """The batches of a loader on a device; on CUDA the next one is copied while the present one is used.

    Args:
        loader: yields batches as the loaders above.
        device: where to.
        channels_last: the order in memory.
    """

    def __init__(self, loader: Iterable[Batch], device: torch.device | str, channels_last: bool = False) -> None:
        self._batches = iter(loader)
        self._device = torch.device(device)
        self._channels_last = channels_last
        make_stream: Callable[..., torch.cuda.Stream] = torch.cuda.Stream
        self._stream = make_stream(self._device) if self._device.type == "cuda" else None
        self._ahead: Batch | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._stream is None:
            return to_device(next(self._batches), self._device, self._channels_last)
        batch = self._copied() if self._ahead is None else self._ahead
        if batch is None:
            raise StopIteration
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for value in batch.values():
            if isinstance(value, Tensor) and value.is_cuda:
                value.record_stream(current)
        self._ahead = self._copied()
        return batch

    def _copied(self) -> Batch | None:
        batch = next(self._batches, None)
        if batch is None:
            return None
        with torch.cuda.stream(self._stream):
            return to_device(batch, self._device, self._channels_last)


def collate(items: Sequence[Mapping[str, Any]]) -> Batch:
    """Return items as one batch: images (…, C, H, W) as (B, …, C, H, W), smaller tensors stacked, the rest as lists.

    In memory the channels of every pixel lie together.

    Raises:
        DataError: images of one batch differ in size or type.
    """
    batch: Batch = {}
    for key, first in items[0].items():
        values = [item[key] for item in items]
        if isinstance(first, Tensor) and first.dim() in (3, 4):
            if any(value.shape != first.shape or value.dtype != first.dtype for value in values):
                kinds = sorted({f"{tuple(value.shape)} {value.dtype}" for value in values})
                raise DataError(
                    f"The images '{key}' of a batch differ: {', '.join(kinds)}. Set gt_size to cut equal crops."
                )
            batch[key] = torch.stack([value.movedim(-3, -1) for value in values]).movedim(-1, -3)
        elif isinstance(first, Tensor):
            batch[key] = torch.stack(values)
        else:
            batch[key] = values
    return batch


class _Numbered(Dataset[Any]):
    """A data set whose items say their index."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, index: int | SampleIndex) -> dict[str, Any]:
        return {**self._dataset[index], "index": index}


def _loader(
    dataset: Dataset[Any], batches: Iterable[Sequence[Any]], num_workers: int, combine: Callable[..., Any]
) -> DataLoader[Any]:
    with_workers: dict[str, Any] = {}
    if num_workers > 0:
        with_workers = {
            "persistent_workers": True,
            "prefetch_factor": _PREFETCHED_BATCHES,
            "worker_init_fn": _start_worker,
            "multiprocessing_context": "fork" if _can_fork() else None,
        }
    return DataLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=num_workers,
        collate_fn=combine,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else opening a loader would draw from the generator of the networks
        **with_workers,
    )


def _start_worker(worker: int) -> None:
    """Keep a worker to one thread, and out of the group of processes that Ctrl-C or a scheduler sends a signal to.

    Such a signal is for the training process, which needs its workers until it has made its step and saved.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    else:  # Windows has no such groups, and no SIGTERM for them
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _can_fork() -> bool:
    return "fork" in multiprocessing.get_all_start_methods()


def _length(dataset: Dataset[Any]) -> int:
    return len(dataset)  # type: ignore[arg-type]
