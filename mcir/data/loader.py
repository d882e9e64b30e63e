"""Load batches in worker processes and move them to the device.

Images stay uint8 until they are on the device. Their memory layout is channels last, as decoders return them, so that
neither workers nor ``collate`` transpose images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mcir.data.errors import DataError
from mcir.data.sampler import EndlessBatches, SampleIndex
from mcir.data.workers import BatchDataset, WorkerLoader, start_method, start_worker
from mcir.errors import ArgumentError
from mcir.seeding import seed_generators

Batch: TypeAlias = dict[str, Any]

_PREFETCHED_BATCHES = 4
_LARGEST_RATIO = 1000


@runtime_checkable
class Grouped(Protocol):
    """A data set of several folders. The images of a folder have successive indices."""

    group_sizes: Sequence[int]
    """Number of images in each folder."""


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
    weights: Sequence[float] = (),
) -> DataLoader[Any]:
    """Return an endless loader whose batches depend only on the seed, the rank and the iteration.

    Args:
        dataset: data set with a length. Its index is a ``SampleIndex``, which is also an integer.
        batch_size: number of samples of this rank per iteration.
        num_workers: number of worker processes; 0: this process loads the batches. It has no effect on the batches.
        seed: seed of the order and of every sample, ≥ 0.
        rank: rank of this process.
        world_size: number of processes.
        start: iteration of the first batch.
        offset: number of samples of the stream that were used before iteration 0 with another batch size.
        weights: relative probabilities with which a sample is drawn from each folder of the data set, whose attribute
            ``group_sizes`` is the number of images in each folder. Default: each image is used equally often.

    Raises:
        ArgumentError: the number of weights is not that of the folders, or a folder has no image.
    """
    groups = sizes_to_weight(dataset, weights) if weights else ()
    batches = EndlessBatches(_length(dataset), batch_size, seed, rank, world_size, start, offset, groups, weights)
    return _loader(dataset, batches, num_workers)


def evaluation_loader(
    dataset: Dataset[Any], *, num_workers: int = 0, rank: int = 0, world_size: int = 1
) -> DataLoader[Any]:
    """Return a loader of batches of one image, in order: rank r gets the images r, r + world_size, … once.

    A batch has the additional entry ``index``, a list with the index of the image in the data set.
    """
    indices = range(rank, _length(dataset), world_size)
    return _loader(_WithIndex(dataset), [[index] for index in indices], num_workers)


def to_device(batch: Mapping[str, Any], device: torch.device | str, channels_last: bool = False) -> Batch:
    """Return a batch on a device, with images as float32.

    Args:
        batch: images (B, C, H, W) or (B, K, C, H, W), uint8 or float32 in [0, 1], and other entries. Other tensors
            are moved without conversion; the rest is unchanged.
        device: target device.
        channels_last: whether to return images in the channels-last memory format instead of the contiguous one.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    moved = dict(batch)
    for key, value in batch.items():
        if isinstance(value, Tensor) and value.dim() in (4, 5):
            on_device = value.to(device, non_blocking=True)
            image = on_device.flatten(0, -4).to(torch.float32, memory_format=memory_format).view(value.shape)
            moved[key] = image.div_(255) if value.dtype == torch.uint8 else image
        elif isinstance(value, Tensor):
            moved[key] = value.to(device, non_blocking=True)
    return moved


class Prefetcher:
    """Iterator that moves the batches of a loader to a device; on CUDA, the next batch is copied during the step.

    Args:
        loader: training or evaluation loader.
        device: target device.
        channels_last: whether images get the channels-last memory format.
    """

    def __init__(self, loader: Iterable[Batch], device: torch.device | str, channels_last: bool = False) -> None:
        self._batches = iter(loader)
        self._device = torch.device(device)
        self._channels_last = channels_last
        make_stream: Callable[..., torch.cuda.Stream] = torch.cuda.Stream
        self._stream = make_stream(self._device) if self._device.type == "cuda" else None
        self._next: Batch | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._stream is None:
            return to_device(next(self._batches), self._device, self._channels_last)
        batch = self._copy_next() if self._next is None else self._next
        if batch is None:
            raise StopIteration
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for value in batch.values():
            if isinstance(value, Tensor) and value.is_cuda:
                value.record_stream(current)
        self._next = self._copy_next()
        return batch

    def _copy_next(self) -> Batch | None:
        batch = next(self._batches, None)
        if batch is None:
            return None
        with torch.cuda.stream(self._stream):
            return to_device(batch, self._device, self._channels_last)


def collate(items: Sequence[Mapping[str, Any]]) -> Batch:
    """Collate samples: stack images (…, C, H, W) in channels-last layout, stack other tensors, and list the rest.

    Raises:
        DataError: the images of a batch differ in size or type.
    """
    batch: Batch = {}
    for key, first in items[0].items():
        values = [item[key] for item in items]
        if isinstance(first, Tensor) and first.dim() in (3, 4):
            if any(value.shape != first.shape or value.dtype != first.dtype for value in values):
                found = sorted({f"{tuple(value.shape)} {value.dtype}" for value in values})
                raise DataError(
                    f"The images '{key}' of a batch differ: {', '.join(found)}. Set gt_size to get crops of one size."
                )
            batch[key] = torch.stack([value.movedim(-3, -1) for value in values]).movedim(-1, -3)
        elif isinstance(first, Tensor):
            batch[key] = torch.stack(values)
        else:
            batch[key] = values
    return batch


class _Seeded(Dataset[Any]):
    """A data set that seeds the global random generators for each batch, from the first sample's seed and position.

    Data sets that draw from the global generators then give the same samples in any number of workers and after a
    resume, and other samples in other processes.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitems__(self, samples: Sequence[int | SampleIndex]) -> list[dict[str, Any]]:
        """Return the samples of a batch; the loader calls this method."""
        first = SampleIndex.of(samples[0])
        seed_generators((first.seed, first.position))
        return [self._dataset[sample] for sample in samples]


class _WithIndex(Dataset[Any]):
    """A data set whose samples contain their index."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, index: int | SampleIndex) -> dict[str, Any]:
        return {**self._dataset[index], "index": index}


def _loader(dataset: Dataset[Any], batches: Iterable[Sequence[Any]], num_workers: int) -> DataLoader[Any]:
    with_workers: dict[str, Any] = {}
    if num_workers > 0:
        with_workers = {
            "persistent_workers": True,
            "prefetch_factor": _PREFETCHED_BATCHES,
            "worker_init_fn": start_worker,
            "multiprocessing_context": start_method(),
        }
    return WorkerLoader(
        BatchDataset(_Seeded(dataset), collate),
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=num_workers,
        collate_fn=_as_is,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # otherwise iterating draws from the global generator
        **with_workers,
    )


def _as_is(batch: Any) -> Any:
    return batch


def sizes_to_weight(dataset: Dataset[Any], weights: Sequence[float]) -> Sequence[int]:
    """Return the number of images in each folder of a data set, of which there are as many as weights.

    Raises:
        ArgumentError: the number of weights is not that of the folders, the weights differ too much, or a folder has
            no image.
    """
    if not isinstance(dataset, Grouped):
        raise ArgumentError("weights", f"expected a data set with folders, got {type(dataset).__name__}.")
    sizes = dataset.group_sizes
    if len(weights) != len(sizes):
        folders = "1 folder" if len(sizes) == 1 else f"{len(sizes)} folders"
        raise ArgumentError("weights", f"expected a weight for each of the {folders}, got {len(weights)} weights.")
    if max(weights) > _LARGEST_RATIO * min(weights):
        largest = f"expected weights of which the largest is at most {_LARGEST_RATIO:,} times the smallest"
        raise ArgumentError("weights", f"{largest}, got {min(weights):g} and {max(weights):g}.")
    if 0 in sizes:
        raise ArgumentError("weights", f"expected folders with images, got none from folder {sizes.index(0) + 1}.")
    return sizes


def _length(dataset: Dataset[Any]) -> int:
    return len(dataset)  # type: ignore[arg-type]
