"""Read all headers before anything is computed, and group images that are restored together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcir.data.parallel import in_order
from mcir.inference.batch.jobs import Job
from mcir.inference.batch.scores import check_sizes
from mcir.inference.batch.search import Report
from mcir.inference.images import PictureInfo, probe_picture


@dataclass(frozen=True)
class Task:
    """An image to restore, or an existing result to measure or compare.

    Attributes:
        job: paths of the image and its results.
        gt: ground truth of the right size; None if there is none.
        exists: whether the result exists and is kept.
        info: size and type of the image.
    """

    job: Job
    gt: Path | None
    exists: bool
    info: PictureInfo

    @property
    def megapixels(self) -> float:
        """Size of the input image."""
        return self.info.height * self.info.width / 1e6

    @property
    def is_evaluated(self) -> bool:
        """Whether the result is measured or compared."""
        comparison = self.job.comparison
        return self.gt is not None or (comparison is not None and not (self.exists and comparison.is_file()))

    def bytes(self, scale: int, depth: int = 1) -> int:
        """Return the memory for the image and its result, or twice that if the result is evaluated.

        Args:
            scale: factor by which the result is larger.
            depth: smallest number of bytes per sample.
        """
        samples = self.info.height * self.info.width * (self.info.channels + self.info.has_alpha) * (1 + scale**2)
        return samples * max(self.info.bits // 8, depth) * (2 if self.is_evaluated else 1)


def probe_inputs(
    jobs: Sequence[Job], truths: Mapping[Job, Path], scale: int, border: int, skip_existing: bool, report: Report
) -> list[Task]:
    """Read all headers, and return a task for each image that can be restored.

    Args:
        jobs: images to restore.
        truths: ground truths.
        scale: factor by which the results are larger.
        border: pixels on each side that are not measured.
        skip_existing: whether existing results of the right size are kept.
        report: called for files that are not images, and for ground truths of the wrong size.
    """

    def probe(job: Job) -> Task | None:
        gt = truths.get(job)
        try:
            info = probe_picture(job.source)
        except ValueError as error:
            report(str(job.source), str(error))
            return None
        try:
            if gt is not None:
                check_sizes(info[:2], probe_picture(gt)[:2], scale, border)
        except ValueError as error:
            report(str(job.source), f"not measured: {error}")
            gt = None
        return Task(job, gt, skip_existing and _has_size(job.target, info.height * scale, info.width * scale), info)

    return [task for task in in_order(probe, jobs, None) if task is not None]


def batches(tasks: Sequence[Task], largest: int, bytes_of: Callable[[Task], int], limit: int) -> Iterator[list[Task]]:
    """Yield groups of tasks whose images have the same size and type, ordered by the last task of each group.

    Args:
        tasks: tasks to group.
        largest: largest number of images per group.
        bytes_of: function that returns the memory for a task.
        limit: largest memory for a group of several tasks.
    """
    waiting: dict[tuple[bool, PictureInfo], list[Task]] = {}
    for task in tasks:
        key = (task.exists, task.info)
        batch = waiting.setdefault(key, [])
        batch.append(task)
        if len(batch) == largest or (len(batch) + 1) * bytes_of(task) > limit:
            yield waiting.pop(key)
    yield from waiting.values()


def _has_size(path: Path, height: int, width: int) -> bool:
    try:
        return probe_picture(path)[:2] == (height, width)
    except ValueError:
        return False
