"""Plan a run before anything is computed: the paths of its results, its ground truths, and the sizes of all images."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from mcir.data.errors import DataError, raise_data_errors
from mcir.data.listing import EXTENSIONS, Report
from mcir.data.parallel import in_order
from mcir.data.storage import Folder, comparable, stem
from mcir.inference.batch.scores import check_sizes
from mcir.inference.batch.search import Found
from mcir.inference.images import PictureError, PictureInfo, probe_picture

COMPARISONS = "comparisons"
"""Subfolder of the output folder for comparisons."""

FoundImage = TypeVar("FoundImage", bound=Found)


@dataclass(frozen=True)
class Job(Found):
    """An image and the paths of its results.

    Attributes:
        target: path of the restored image.
        comparison: path of the comparison; None if there is none.
    """

    target: Path
    comparison: Path | None


@dataclass(frozen=True)
class Task(Job):
    """An image to restore, or an existing result to measure or compare.

    Attributes:
        gt: ground truth of the right size; None if there is none.
        exists: whether the result exists and is kept.
        info: size and type of the image.
    """

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
        comparison = self.comparison
        return self.gt is not None or (comparison is not None and not (self.exists and comparison.is_file()))

    def bytes(self, scale: int, depth: int = 1) -> int:
        """Return the memory for the image and its result, or twice that if the result is evaluated.

        Args:
            scale: factor by which the result is larger.
            depth: smallest number of bytes per sample.
        """
        samples = self.info.height * self.info.width * (self.info.channels + self.info.has_alpha) * (1 + scale**2)
        return samples * max(self.info.bits // 8, depth) * (2 if self.is_evaluated else 1)


def plan_outputs(
    found: Sequence[Found],
    out: Path,
    extension: str | None = None,
    suffix: str = "",
    compare: bool = False,
    protected: Iterable[Path] = (),
) -> tuple[Path, list[Job]]:
    """Return the output folder, and a job for each image.

    Args:
        found: images to restore.
        out: output folder; for a single image whose path is an input, also an output file.
        extension: extension of all results, such as ``.png``; default: that of the image.
        suffix: text that is appended to each name.
        compare: whether comparisons are made.
        protected: other files that must not be overwritten.

    Raises:
        DataError: ``out`` or ``suffix`` is invalid; or a result would overwrite an image, another result or a protected
            file, would be restored by the next run, or would be written outside the output folder through a link.
    """
    out_extension = "" if out.is_dir() else out.suffix.lower()
    if set("/\\\0") & set(suffix):
        raise DataError(f"--suffix: expected text without slashes, got '{suffix}'")
    if out_extension in EXTENSIONS:
        if len(found) != 1 or found[0].root is not None:
            raise DataError(f"{out}: expected a folder for several images or a folder of images, got a file name")
        if suffix or (extension is not None and extension != out.suffix):
            raise DataError(f"{out}: --suffix and --format have no effect on a complete file name; remove them")
        out, names = out.parent, [out.name]
    else:
        if out_extension in Image.registered_extensions() or (out.exists() and not out.is_dir()):
            raise DataError(f"{out}: expected a folder, or a file with one of {', '.join(sorted(EXTENSIONS))}")
        names = []
        for image in found:
            own = image.source.suffix if image.source.suffix.lower() in EXTENSIONS else ".png"
            names.append(f"{stem(image.name)}{suffix}{extension or own}")
    jobs = []
    for image, name in zip(found, names, strict=True):
        comparison = out / COMPARISONS / (name if name.endswith(".png") else f"{name}.png")
        jobs.append(Job(**vars(image), target=out / name, comparison=comparison if compare else None))
    _check_targets(jobs, out, protected)
    return out, jobs


def _check_targets(jobs: Sequence[Job], out: Path, protected: Iterable[Path]) -> None:
    """Check that no result overwrites a file, becomes an input, or leaves the output folder."""
    conflicts: dict[Path, str] = {}
    for file in (*(job.source for job in jobs), *protected):
        conflicts |= dict.fromkeys((_written_path(file), file.resolve()), f"would overwrite the input {file}")
    home = out.resolve()
    roots = {job.root.resolve() for job in jobs if job.root is not None}
    roots = {root for root in roots if root == home or home in root.parents}
    problems = []
    for job in jobs:
        for path in filter(None, (job.target, job.comparison)):
            target = _written_path(path)
            if (problem := conflicts.get(target)) is None and home not in target.parents:
                problem = f"would be written to {target}, through a link"
            elif problem is None and any(root in target.parents for root in roots):
                problem = "would be one of the input images of the next run"
            conflicts.setdefault(target, f"is also the result of {job.source}")
            if problem:
                problems.append(f"{job.source}: its result {path} {problem}")
                break
    raise_data_errors(problems, f"results in {out} (name another folder with -o, or fewer inputs)")


def _written_path(path: Path) -> Path:
    """Return the path that a write replaces: links among its parent folders are followed, a link itself is not."""
    return path.parent.resolve() / path.name


def find_ground_truths(path: Path) -> list[Path]:
    """Return all images in a folder of ground truths, or the path of a single ground truth.

    Raises:
        DataError: the folder does not exist or contains no image.
    """
    if path.is_file():
        return [path]
    keys = Folder(path).keys()
    if not keys:
        raise DataError(f"{path}: no image found; searched for {', '.join(sorted(EXTENSIONS))}")
    return [path / key for key in keys]


def match_ground_truths(
    images: Sequence[FoundImage], path: Path, files: Sequence[Path], report: Report
) -> dict[FoundImage, Path]:
    """Return the ground truth of each image that has one; report images without a ground truth, or with several.

    A ground truth has the name of its image, with any extension, in the same subfolder or in the folder itself. The
    ground truth of ``babyx2.png`` may also be called ``baby.png``, as in common copies of Set5.

    Args:
        images: images to restore.
        path: folder of the ground truths; for a single image also a file.
        files: all ground truths.
        report: function that is called with an image and its problem.

    Raises:
        DataError: no image has a ground truth, or there is one file for several images.
    """
    if path.is_file():
        if len(images) != 1:
            raise DataError(f"{path}: expected a folder for {len(images)} images, got one ground truth")
        return {images[0]: path}
    by_stem: defaultdict[str, list[Path]] = defaultdict(list)
    for file in files:
        by_stem[comparable(stem(file.relative_to(path).as_posix()))].append(file)
    truths: dict[FoundImage, Path] = {}
    problems = []
    for image in images:
        name = comparable(stem(image.name))
        candidates = [part for full in (name, re.sub(r"x\d$", "", name)) for part in (full, full.rpartition("/")[2])]
        named = next((by_stem[candidate] for candidate in candidates if candidate in by_stem), [])
        named = [file for file in named if file.suffix == image.source.suffix] or named
        if len(named) == 1:
            truths[image] = named[0]
        elif named:
            problems.append((str(image.source), f"several ground truths: {', '.join(map(str, sorted(named)))}"))
        else:
            problems.append((str(image.source), f"no ground truth {path / name} with any extension"))
    if not truths:
        raise DataError(f"{path}: none of {len(images)} images has a ground truth; {': '.join(problems[0])}")
    for problem in problems:
        report(*problem)
    return truths


def probe_inputs(
    jobs: Sequence[Job], truths: Mapping[Job, Path], scale: int, border: int, skip_existing: bool, report: Report
) -> list[Task]:
    """Read all headers, and return a task for each image that can be restored.

    Args:
        jobs: images to restore.
        truths: ground truths; those of the wrong size are reported and ignored.
        scale: factor by which the results are larger.
        border: pixels on each side that are not measured.
        skip_existing: whether existing results of the right size are kept.
        report: function that is called with an image and its problem.
    """

    def task(job: Job) -> Task | None:
        probed = probe(job, truths.get(job), scale, border, report)
        if probed is None:
            return None
        info, gt = probed
        exists = skip_existing and _has_size(job.target, info.height * scale, info.width * scale)
        return Task(**vars(job), gt=gt, exists=exists, info=info)

    return [found for found in in_order(task, jobs) if found is not None]


def probe(
    image: Found, gt: Path | None, scale: int, border: int, report: Report
) -> tuple[PictureInfo, Path | None] | None:
    """Read the headers of an image and its ground truth.

    Args:
        image: image to restore.
        gt: ground truth; one of the wrong size is reported and ignored.
        scale: factor by which the result is larger.
        border: pixels on each side that are not measured.
        report: function that is called with the image and its problem.

    Returns:
        The size and type of the image, and its ground truth; None for an image that cannot be read, which is reported.
    """
    try:
        info = probe_picture(image.source)
    except PictureError as error:
        report(str(image.source), error.reason)
        return None
    try:
        if gt is not None:
            check_sizes(info[:2], probe_picture(gt)[:2], scale, border)
    except ValueError as error:
        report(str(image.source), f"not measured: {error}")
        gt = None
    return info, gt


def _has_size(path: Path, height: int, width: int) -> bool:
    try:
        return probe_picture(path)[:2] == (height, width)
    except ValueError:
        return False


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
