"""Training batches, in one or several stages with different crop and batch sizes."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from typing import Any, NamedTuple

from mcir.config import DatasetOptions
from mcir.data import Prefetcher, training_loader
from mcir.data.loader import sizes_to_weight
from mcir.engine.distributed import DistContext
from mcir.errors import KeyPath, Location, Where, locate_errors
from mcir.models.batch import Batch
from mcir.registry import DATASETS, Section

_LOG = logging.getLogger("mcir")


class TrainingStage(NamedTuple):
    """A part of a training with constant crop and batch sizes."""

    start: int
    """Number of iterations before the stage."""
    batch_size: int
    """Batch size of each process."""
    section: Section
    """Section of the data set."""
    where: Where | None
    """Function that returns the locations of the section's values in the option file."""


def training_stages(options: DatasetOptions, where: Where | None = None) -> list[TrainingStage]:
    """Return the stages of a training; without ``progressive``, there is one.

    Args:
        options: options of the training set.
        where: function that returns the locations of its values in the option file.
    """
    first = TrainingStage(0, options.batch_size_per_gpu, options.section, where)
    later = (
        TrainingStage(
            stage.start,
            stage.batch_size_per_gpu,
            {**options.section, "gt_size": stage.gt_size},
            _where_in_stage(where, number),
        )
        for number, stage in enumerate(options.progressive)
    )
    return [first, *later]


class TrainBatches:
    """The training batches of one process. A batch depends only on the seed and the iteration.

    All stages crop the same images. A stage continues the order of the images where the previous stage ended.

    Args:
        options: options of the training set.
        seed: seed for the order of the images and for every sample.
        dist: this process.
        where: function that returns the locations of the options in the option file.

    Raises:
        ValueError: images cannot be read, or are smaller than the crops of a stage.
    """

    def __init__(self, options: DatasetOptions, seed: int, dist: DistContext, where: Where | None = None) -> None:
        self._workers = options.num_worker_per_gpu
        self._seed, self._dist = seed, dist
        self._stages = training_stages(options, where)
        self._weights = options.weights
        self._datasets = [DATASETS.build(stage.section, where=stage.where) for stage in self._stages]
        if options.weights:
            with locate_errors(where):
                sizes_to_weight(self._datasets[0], options.weights)

    @property
    def images(self) -> int:
        """Number of images in the training set."""
        return len(self._datasets[0])

    def iterate(self, start: int = 0, channels_last: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the batches of all iterations after ``start``, on the device of this process.

        Args:
            start: number of iterations that are already done.
            channels_last: whether the images have the channels-last memory layout.
        """
        for number, end in enumerate([*(stage.start for stage in self._stages[1:]), None]):
            if end is None or start < end:
                yield from islice(self._open(number, start, channels_last), None if end is None else end - start)
                start = end or start

    def _open(self, number: int, start: int, channels_last: bool) -> Prefetcher:
        """Open the loader of a stage at an iteration."""
        stage = self._stages[number]
        if len(self._stages) > 1:
            size = stage.section.get("gt_size")
            _LOG.info("From iteration %d on: crops of %s, batch size %d.", stage.start + 1, size, stage.batch_size)
        pairs = pairwise(self._stages[: number + 1])
        loader = training_loader(
            self._datasets[number],
            batch_size=stage.batch_size,
            num_workers=self._workers,
            seed=self._seed,
            rank=self._dist.rank,
            world_size=self._dist.world_size,
            start=start - stage.start,
            offset=sum((after.start - stage.start) * stage.batch_size for stage, after in pairs)
            * self._dist.world_size,
            weights=self._weights,
        )
        return Prefetcher(loader, self._dist.device, channels_last)


def loaded_ahead(batches: Iterator[Batch], count: int, on_failure: Callable[[Exception], None]) -> Iterator[Batch]:
    """Yield batches that are loaded before they are used.

    If a batch cannot be loaded, a process can thus take part in some more iterations, in which all processes agree to
    stop.

    Args:
        batches: iterator that loads batches.
        count: number of iterations between the loading and the use of a batch.
        on_failure: function that is called with the error as soon as a batch cannot be loaded.

    Raises:
        Exception: the error of ``batches``, after all loaded batches were used.
    """
    loaded: deque[Batch] = deque()
    failure: Exception | None = None
    has_ended = False
    while True:
        while not has_ended and len(loaded) <= count:
            try:
                loaded.append(next(batches))
            except StopIteration:
                has_ended = True
            except Exception as error:
                has_ended, failure = True, error
                on_failure(error)
        if not loaded:
            break
        yield loaded.popleft()
    if failure is not None:
        raise failure


def _where_in_stage(where: Where | None, number: int) -> Where | None:
    """Return the function ``where`` of a later stage, whose crop and batch sizes have locations of their own."""
    if where is None:
        return None

    def locate(path: KeyPath) -> Location:
        is_own = not path or path[0] in ("gt_size", "batch_size_per_gpu")
        return where(("progressive", number, *path) if is_own else path)

    return locate
