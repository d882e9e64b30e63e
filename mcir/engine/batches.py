"""The batches of a run: one training set, or the same cut otherwise from stage to stage."""

import logging
from typing import Any

from mcir.config import DatasetOptions
from mcir.data import Prefetcher, training_loader
from mcir.engine.distributed import DistContext
from mcir.registry import DATASETS, KeyPath, Location, Where

_LOG = logging.getLogger("mcir")


class TrainBatches:
    """The batches of a run from any iteration on; what an iteration gets depends on the seed and its number alone.

    Where the options have progressive stages, each cuts crops and batches of its own from the same images, and goes on
    in their order where the stage before it ended.

    Args:
        options: the training set.
        seed: of the order and of every sample.
        process: this process; each gets its share of a batch.
        where: function that finds the locations of the section's values in the option file.

    Raises:
        ValueError: images cannot be read or are smaller than a crop of any stage.
    """

    def __init__(self, options: DatasetOptions, seed: int, process: DistContext, where: Where | None = None) -> None:
        self._workers = options.num_worker_per_gpu
        self._seed, self._process = seed, process
        sections = [options.section, *({**options.section, "gt_size": stage.gt_size} for stage in options.progressive)]
        locators = [where, *(_where_in_stage(where, number) for number in range(len(options.progressive)))]
        self._datasets = [
            DATASETS.build(section, where=locate) for section, locate in zip(sections, locators, strict=True)
        ]
        self._starts = [0, *(stage.start for stage in options.progressive)]
        self._batch_sizes = [options.batch_size_per_gpu, *(stage.batch_size_per_gpu for stage in options.progressive)]
        self._gt_sizes = [section.get("gt_size") for section in sections]
        self._channels_last = False
        self._iteration = 0
        self._batches: Prefetcher | None = None

    @property
    def images(self) -> int:
        """How many images the training set has."""
        return len(self._datasets[0])

    def begin(self, iteration: int, channels_last: bool) -> None:
        """Start with the batch that follows ``iteration`` iterations, in the given memory layout."""
        self._iteration, self._channels_last = iteration, channels_last
        self._batches = None

    def __next__(self) -> dict[str, Any]:
        """Return the next batch, on the device."""
        if self._batches is None or self._iteration in self._starts[1:]:
            self._batches = None  # lets the workers of the stage before go
            self._batches = self._open()
        batch = next(self._batches)
        self._iteration += 1
        return batch

    def _open(self) -> Prefetcher:
        """Open the loader of the stage that the next iteration belongs to."""
        starts, process = self._starts, self._process
        stage = max(index for index, start in enumerate(starts) if start <= self._iteration)
        past = zip(starts[:stage], starts[1 : stage + 1], self._batch_sizes[:stage], strict=True)
        if len(starts) > 1:
            _LOG.info(
                "From iteration %d on: crops of %s, batches of %d.",
                starts[stage] + 1,
                self._gt_sizes[stage],
                self._batch_sizes[stage],
            )
        loader = training_loader(
            self._datasets[stage],
            batch_size=self._batch_sizes[stage],
            num_workers=self._workers,
            seed=self._seed,
            rank=process.rank,
            world_size=process.world_size,
            start=self._iteration - starts[stage],
            offset=sum((end - start) * size for start, end, size in past) * process.world_size,
        )
        return Prefetcher(loader, process.device, self._channels_last)


def _where_in_stage(where: Where | None, number: int) -> Where | None:
    """Return ``where`` for a data set whose crop size is that of a stage."""
    if where is None:
        return None

    def locate(path: KeyPath) -> Location:
        if path and path[0] != "gt_size":
            return where(path)
        return where(("progressive", number, *path))

    return locate
