"""Plan the paths of all results before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mcir.data.codec import EXTENSIONS
from mcir.data.errors import DataError, raise_data_errors
from mcir.data.storage import stem
from mcir.inference.batch.search import Found

COMPARISONS = "comparisons"
"""Subfolder of the output folder for comparisons."""


@dataclass(frozen=True)
class Job:
    """The paths of an image and its results.

    Attributes:
        name: path relative to the input folder, see ``Found``.
        source: path of the image.
        target: path of the restored image.
        comparison: path of the comparison; None if there is none.
    """

    name: str
    source: Path
    target: Path
    comparison: Path | None = None


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
    out = out.expanduser()
    out_extension = "" if out.is_dir() else out.suffix.lower()
    if set("/\\\0") & set(suffix):
        raise DataError(f"--suffix: expected text without slashes, got {suffix!r}")
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
        jobs.append(Job(image.name, image.source, out / name, comparison if compare else None))
    _check_targets(jobs, found, out, protected)
    return out, jobs


def _check_targets(jobs: Sequence[Job], found: Sequence[Found], out: Path, protected: Iterable[Path]) -> None:
    """Check that no result overwrites a file, becomes an input, or leaves the output folder."""
    conflicts: dict[Path, str] = {}
    for file in (*(job.source for job in jobs), *protected):
        conflicts |= dict.fromkeys((_written_path(file), file.resolve()), f"would overwrite the input {file}")
    home = out.resolve()
    roots = {image.root.resolve() for image in found if image.root is not None}
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
