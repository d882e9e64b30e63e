"""The training batches of a run: one data set, whose crops and batch sizes may change from stage to stage."""

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any

from mcir.config import DatasetOptions
from mcir.data import Prefetcher, training_loader
from mcir.engine.distributed import DistContext
from mcir.errors import KeyPath, Location, Where
from mcir.registry import DATASETS

_LOG = logging.getLogger("mcir")


class TrainBatches:
    """The training batches of one process. The batch of an iteration depends only on the seed and its number.

    Progressive stages cut other crops from the same images. Each stage continues the order of the images where the
    stage before it ended.

    Args:
        options: the training set.
        seed: the seed of the order of the images and of every sample.
        dist: this process; every process gets its share of a batch.
        where: the function that finds the locations of the section's values in the option file.

    Raises:
        ValueError: images cannot be read or are smaller than the crops of a stage.
    """

    def __init__(self, options: DatasetOptions, seed: int, dist: DistContext, where: Where | None = None) -> None:
        self._workers = options.num_worker_per_gpu
        self._seed, self._dist = seed, dist
        sections = [options.section, *({**options.section, "gt_size": stage.gt_size} for stage in options.progressive)]
        locators = [where, *(_where_in_stage(where, number) for number in range(len(options.progressive)))]
        self._datasets = [
            DATASETS.build(section, where=locator) for section, locator in zip(sections, locators, strict=True)
        ]
        self._starts = [0, *(stage.start for stage in options.progressive)]
        self._batch_sizes = [options.batch_size_per_gpu, *(stage.batch_size_per_gpu for stage in options.progressive)]
        self._gt_sizes = [section.get("gt_size") for section in sections]

    @property
    def images(self) -> int:
        """The number of images in the training set."""
        return len(self._datasets[0])

    def iterate(self, start: int = 0, channels_last: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the batches of all later iterations, on the device of this process.

        Args:
            start: the number of iterations that are done already.
            channels_last: the memory format of the images.
        """
        for stage, end in enumerate([*self._starts[1:], None]):
            if end is None or start < end:
                yield from islice(self._open(stage, start, channels_last), None if end is None else end - start)
                start = end or start

    def _open(self, stage: int, start: int, channels_last: bool) -> Prefetcher:
        """Open the loader of a stage at an iteration."""
        if len(self._starts) > 1:
            size, count = self._gt_sizes[stage], self._batch_sizes[stage]
            _LOG.info("From iteration %d on: crops of %s, batches of %d.", self._starts[stage] + 1, size, count)
        earlier = zip(self._starts[:stage], self._starts[1 : stage + 1], self._batch_sizes[:stage], strict=True)
        loader = training_loader(
            self._datasets[stage],
            batch_size=self._batch_sizes[stage],
            num_workers=self._workers,
            seed=self._seed,
            rank=self._dist.rank,
            world_size=self._dist.world_size,
            start=start - self._starts[stage],
            offset=sum((end - begin) * size for begin, end, size in earlier) * self._dist.world_size,
        )
        return Prefetcher(loader, self._dist.device, channels_last)


def _where_in_stage(where: Where | None, number: int) -> Where | None:
    """Return ``where`` for the data set of a stage, whose crop size has its own location."""
    if where is None:
        return None

    def locate(path: KeyPath) -> Location:
        return where(path) if path and path[0] != "gt_size" else where(("progressive", number, *path))

    return locate
