"""Where what is made of each picture goes: known in full before anything is computed."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mcir.data.codec import EXTENSIONS
from mcir.data.errors import DataError, raise_data_errors
from mcir.data.storage import stem
from mcir.inference.batch.search import Found

COMPARISONS = "comparisons"
"""The folder below the results that holds pictures of before and after."""


@dataclass(frozen=True)
class Job:
    """A picture that is to be restored.

    Attributes:
        name: as ``Found`` has it.
        source: its file.
        target: where the restored picture goes.
        comparison: where the picture of before and after goes; None where none is wanted.
    """

    name: str
    source: Path
    target: Path
    comparison: Path | None = None


def place(
    found: Sequence[Found],
    out: Path,
    ending: str | None = None,
    suffix: str = "",
    compare: bool = False,
    keep: Iterable[Path] = (),
) -> tuple[Path, list[Job]]:
    """Say where each result goes, and return the folder of all that is written and the pictures' jobs.

    Args:
        found: the pictures.
        out: the folder of the results; with one picture that was named itself also a file with a picture's ending.
        ending: of all results, like ``.png``; without it that of the picture.
        suffix: put at the end of each name.
        compare: whether pictures of before and after are wanted.
        keep: further files that are never written.

    Raises:
        DataError: a result would take the place of a picture, of another result or of one of ``keep``, would be found
            as a picture the next time, or would leave the folder by a link.
    """
    out = out.expanduser()
    if "/" in suffix or "\0" in suffix:
        raise DataError(f"--suffix is the end of a name, without a slash, not {suffix!r}")
    if _is_file(out):
        if len(found) != 1 or found[0].below is not None:
            raise DataError(f"{out}: is the name of one picture; for a folder or several files name a folder")
        if suffix or (ending is not None and ending != out.suffix):
            raise DataError(f"{out}: is the whole name of the result; leave out --suffix and --format")
        one, target, out = found[0], out, out.parent
        jobs = [Job(one.name, one.source, target, _comparison(out, target.name) if compare else None)]
    else:
        if out.exists() and not out.is_dir():
            raise DataError(f"{out}: is a file; name a folder, or a file with one of {', '.join(sorted(EXTENSIONS))}")
        jobs = []
        for one in found:
            own = one.source.suffix
            name = f"{stem(one.name)}{suffix}{ending or (own if own.lower() in EXTENSIONS else '.png')}"
            jobs.append(Job(one.name, one.source, out / name, _comparison(out, name) if compare else None))
    _require_places(jobs, found, out, keep)
    return out, jobs


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove what killed processes left of files that they were writing (``mcir.data.codec.whole_file``)."""
    names: dict[Path, set[str]] = defaultdict(set)
    for path in paths:
        names[path.parent].add(path.name)
    for folder in filter(Path.is_dir, names):
        for entry in folder.iterdir():
            name, _, process = entry.name[1:].rpartition(".")
            if entry.name.startswith(".") and name in names[folder] and process.isdecimal() and not _runs(int(process)):
                entry.unlink(missing_ok=True)


# -- parts ------------------------------------------------------------------------------------------------------------


def _is_file(out: Path) -> bool:
    """Tell whether the results' place is the name of one picture.

    Raises:
        DataError: it is, but of a kind that is not written.
    """
    ending = out.suffix.lower()
    if out.is_dir():
        return False
    if ending not in EXTENSIONS and ending in Image.registered_extensions():
        raise DataError(
            f"{out}: pictures of this kind are not written; those that are: {', '.join(sorted(EXTENSIONS))}"
        )
    return ending in EXTENSIONS


def _comparison(out: Path, name: str) -> Path:
    return out / COMPARISONS / (name if name.endswith(".png") else f"{name}.png")


def _require_places(jobs: Sequence[Job], found: Sequence[Found], out: Path, keep: Iterable[Path]) -> None:
    """See that every result has a place of its own where it does no harm."""
    kept: dict[Path, str] = {}
    for job in jobs:
        kept |= dict.fromkeys((_place(job.source), job.source.resolve()), f"the picture {job.source}")
    for file in keep:
        kept |= dict.fromkeys((_place(file), file.resolve()), f"{file}, which is read")
    home = out.resolve()
    folders = {one.below.resolve() for one in found if one.below is not None}
    sources = {folder for folder in folders if folder == home or home in folder.parents}
    owners: dict[Path, str] = {}
    problems = []
    for job in jobs:
        for path in filter(None, (job.target, job.comparison)):
            there = _place(path)
            if there in kept:
                problems.append(f"{job.source}: its result {path} would take the place of {kept[there]}")
            elif home not in there.parents:
                problems.append(f"{job.source}: its result {path} would be written elsewhere, to {there}, by a link")
            elif any(folder in there.parents for folder in sources):
                problems.append(
                    f"{job.source}: its result {path} would lie among the pictures and be restored itself the next time"
                )
            elif there in owners:
                problems.append(f"{job.source}: its result {path} is also that of {owners[there]}")
            else:
                owners[there] = str(job.source)
                continue
            break
    raise_data_errors(problems, f"results in {out} (name another folder with -o, or fewer inputs at a time)")


def _place(path: Path) -> Path:
    """Return where a file that is written to a path appears: links among its folders are followed, its own is not."""
    return path.parent.resolve() / path.name


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
