"""What is to be done with each picture, by its header and those beside it; and which are done together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcir.data.parallel import in_order
from mcir.inference.batch.jobs import Job
from mcir.inference.batch.measured import require_fit
from mcir.inference.batch.search import Tell
from mcir.inference.images import PictureInfo, probe_picture


@dataclass(frozen=True)
class Task:
    """A picture to be restored, or one that was and is only to be measured or shown.

    Attributes:
        job: the picture, and where its result goes.
        gt: its ground truth; None where there is none, or one that does not fit.
        is_there: whether its result is there and is kept.
        kind: what the header says.
    """

    job: Job
    gt: Path | None
    is_there: bool
    kind: PictureInfo

    @property
    def megapixels(self) -> float:
        """Of the picture as it is."""
        return self.kind.height * self.kind.width / 1e6

    @property
    def is_shown(self) -> bool:
        """Whether the result is to be measured, or set beside the picture."""
        comparison = self.job.comparison
        return self.gt is not None or (comparison is not None and not (self.is_there and comparison.is_file()))

    def bytes(self, scale: int, depth: int = 1) -> int:
        """Return how much memory it takes from reading to writing, and twice that where it is measured.

        Args:
            scale: how much larger the result is.
            depth: bytes of a sample, at least.
        """
        samples = self.kind.height * self.kind.width * (self.kind.channels + self.kind.has_alpha) * (1 + scale**2)
        return samples * max(self.kind.bits // 8, depth) * (2 if self.is_shown else 1)


def look_at(
    jobs: Sequence[Job], truths: Mapping[Job, Path], scale: int, border: int, skip_existing: bool, tell: Tell
) -> list[Task]:
    """Read all headers and return what is to be done.

    Args:
        jobs: the pictures.
        truths: their ground truths.
        scale: how much larger the results are.
        border: pixels on each side that are not measured.
        skip_existing: keep results that are there and have the right size.
        tell: told of pictures that are none, and of ground truths that do not fit.
    """

    def look(job: Job) -> Task | None:
        gt = truths.get(job)
        try:
            kind = probe_picture(job.source)
        except ValueError as error:
            tell(str(job.source), str(error))
            return None
        if gt is not None:
            try:
                require_fit(kind[:2], probe_picture(gt)[:2], scale, border)
            except ValueError as error:
                tell(str(job.source), f"not measured: {error}")
                gt = None
        size = (kind.height * scale, kind.width * scale)
        return Task(job, gt, skip_existing and _size(job.target) == size, kind)

    return [task for task in in_order(look, jobs, None) if task is not None]


def batches(tasks: Sequence[Task], most: int, bytes_of: Callable[[Task], int], room: int) -> Iterator[list[Task]]:
    """Yield pictures of one kind together, in the order of the last of each batch.

    Args:
        tasks: the pictures.
        most: how many at once.
        bytes_of: the memory that each takes.
        room: how much of it a batch of several takes at most.
    """
    waiting: dict[tuple[bool, PictureInfo], list[Task]] = {}
    for task in tasks:
        alike = (task.is_there, task.kind)
        batch = waiting.setdefault(alike, [])
        batch.append(task)
        if len(batch) == most or sum(map(bytes_of, batch)) + bytes_of(task) > room:
            yield waiting.pop(alike)
    yield from waiting.values()


def _size(path: Path) -> tuple[int, int] | None:
    """Return the height and width of a picture, or None where there is none."""
    try:
        return probe_picture(path)[:2]
    except ValueError:
        return None
