"""Plan where each result is written, before anything is computed."""

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
"""Folder of the comparisons below the results."""


@dataclass(frozen=True)
class Job:
    """An image to restore.

    Attributes:
        name: path below the input folder, see ``Found``.
        source: file.
        target: file of the result.
        comparison: file of the comparison; None if there is none.
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
    """Return the folder of the results, and a job for each image.

    Args:
        found: images to restore.
        out: folder of the results; for one image that was named itself also a file.
        extension: extension of all results, such as ``.png``; default: that of the image.
        suffix: text that is appended to each name.
        compare: whether comparisons are made.
        protected: other files that must not be overwritten.

    Raises:
        DataError: a result would overwrite an image, another result or a protected file, would be found as an input
            the next time, or would leave the folder of the results through a link.
    """
    out = out.expanduser()
    out_extension = "" if out.is_dir() else out.suffix.lower()
    if set("/\\\0") & set(suffix):
        raise DataError(f"--suffix: expected the end of a name without slashes, got {suffix!r}")
    if out_extension in EXTENSIONS:
        if len(found) != 1 or found[0].root is not None:
            raise DataError(f"{out}: a file name, for one image; name a folder for a folder or several files")
        if suffix or (extension is not None and extension != out.suffix):
            raise DataError(f"{out}: a complete file name; remove --suffix and --format")
        out, names = out.parent, [out.name]
    else:
        if out_extension in Image.registered_extensions() or (out.exists() and not out.is_dir()):
            raise DataError(f"{out}: name a folder, or a file with one of {', '.join(sorted(EXTENSIONS))}")
        names = [f"{stem(one.name)}{suffix}{extension or _own_extension(one)}" for one in found]
    jobs = [
        Job(one.name, one.source, out / name, _comparison(out, name) if compare else None)
        for one, name in zip(found, names, strict=True)
    ]
    _check_targets(jobs, found, out, protected)
    return out, jobs


def _own_extension(found: Found) -> str:
    extension = found.source.suffix
    return extension if extension.lower() in EXTENSIONS else ".png"


def _comparison(out: Path, name: str) -> Path:
    return out / COMPARISONS / (name if name.endswith(".png") else f"{name}.png")


def _check_targets(jobs: Sequence[Job], found: Sequence[Found], out: Path, protected: Iterable[Path]) -> None:
    """Raise if a result would do harm."""
    owners: dict[Path, str] = {}
    for file in (*(job.source for job in jobs), *protected):
        owners |= dict.fromkeys((_written(file), file.resolve()), f"would overwrite the input {file}")
    home = out.resolve()
    roots = {one.root.resolve() for one in found if one.root is not None}
    roots = {root for root in roots if root == home or home in root.parents}
    problems = []
    for job in jobs:
        for path in filter(None, (job.target, job.comparison)):
            target = _written(path)
            if (problem := owners.get(target)) is None and home not in target.parents:
                problem = f"would be written to {target}, through a link"
            elif problem is None and any(root in target.parents for root in roots):
                problem = "would be among the input images, and be restored itself the next time"
            owners.setdefault(target, f"is also that of {job.source}")
            if problem:
                problems.append(f"{job.source}: its result {path} {problem}")
                break
    raise_data_errors(problems, f"results in {out} (name another folder with -o, or fewer inputs)")


def _written(path: Path) -> Path:
    """Return the file that is replaced by writing to a path: links among its parents are followed, its own is not."""
    return path.parent.resolve() / path.name
