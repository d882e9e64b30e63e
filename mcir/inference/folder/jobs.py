"""Which pictures a person means, and where what is made of them goes: known in full before anything is computed."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mcir.data.codec import EXTENSIONS
from mcir.data.errors import DataError, raise_for
from mcir.data.storage import Folder, stem

COMPARISONS = "comparisons"
"""The folder below the results that holds pictures of before and after."""

_MAGIC = frozenset("*?[")
_SCALE = re.compile(r"x\d$")

Tell = Callable[[str, str], None]
"""Told of what cannot be restored: its name and the reason."""


@dataclass(frozen=True)
class Found:
    """A picture that is meant.

    Attributes:
        source: its file.
        name: its path below the folder, or the fixed part of the pattern, that it was found in; with ``/``.
        below: that folder; None for a file that was named itself.
    """

    source: Path
    name: str
    below: Path | None = None


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


def find_pictures(inputs: Sequence[str], leave_out: Sequence[Path], tell: Tell) -> list[Found]:
    """Return the pictures that files, folders and patterns mean, each once, in order.

    A folder is searched at any depth, links to folders included; what is hidden is left out, and so are files without a
    picture's ending. A file that is named itself is taken whatever its ending.

    Args:
        inputs: paths, or patterns with ``*``, ``?``, ``[…]`` and ``**``; what is there is a path, whatever its letters.
        leave_out: folders that are not searched where they lie within an input, like that of the results.
        tell: told of folders that cannot be read, and of what has a picture's ending and is no file.

    Raises:
        DataError: something is not there, or there is no picture.
    """
    apart = [folder.expanduser().resolve() for folder in leave_out]
    found: list[Found] = []
    problems = []
    for text in inputs:
        path = Path(text).expanduser()
        if not text:
            problems.append("an input is empty: name a file, a folder or a pattern")
        elif path.is_file():
            found.append(Found(path, path.name))
        elif path.is_dir():
            if len(inputs) == 1 or path.resolve() not in apart:  # `mcir restore photos/* -o photos/restored`, again
                found += _in_folder(path, path, apart, tell)
        elif path.exists() or path.is_symlink():
            problems.append(f"{text}: neither a file nor a folder")
        elif not (fits := _fitting(path, apart, tell)):
            problems.append(f"{text}: no picture fits this pattern" if fits is not None else f"{text}: is not there")
        else:
            found += fits
    raise_for(problems, "pictures to restore")
    if not found:
        raise DataError(
            f"no picture found in {', '.join(inputs)}, at any depth; looked for {', '.join(sorted(EXTENSIONS))}"
        )
    once: dict[str, Found] = {}
    for one in found:
        once.setdefault(os.path.abspath(one.source), one)  # noqa: PTH100 (links are not followed)
    return list(once.values())


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


class GroundTruths:
    """What pictures should look like, found by their names without ending.

    That of ``babyx2.png`` may also be called ``baby.png``, as in the usual copies of Set5 and the like.

    Args:
        folder: holds them in the same sub-folders as the pictures, or all in itself; for one picture also a file.

    Raises:
        DataError: there is no such folder, or no picture in it.

    Attributes:
        files: all of them.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder.expanduser()
        self._single = self.root if self.root.is_file() else None
        keys = [] if self._single else Folder(self.root).keys()
        if not keys and not self._single:
            raise DataError(f"{self.root}: no picture found; looked for {', '.join(sorted(EXTENSIONS))}")
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            self._by_stem[stem(key)].append(key)
        self.files = [self._single] if self._single else [self.root / key for key in keys]

    def of(self, jobs: Sequence[Job], tell: Tell) -> dict[Job, Path]:
        """Return the ground truth of each picture that has one.

        Args:
            jobs: the pictures.
            tell: told of those without one, or with several.

        Raises:
            DataError: none has one, or a file is given for several pictures.
        """
        if self._single:
            if len(jobs) != 1:
                raise DataError(f"{self.root}: is one ground truth for {len(jobs)} pictures; name a folder")
            return {jobs[0]: self._single}
        found, faults = {}, []
        for job in jobs:
            keys = self._called(stem(job.name)) or self._called(_SCALE.sub("", stem(job.name)))
            same = [key for key in keys if Path(key).suffix == job.source.suffix] or keys
            if len(same) == 1:
                found[job] = self.root / same[0]
            elif same:
                faults.append((str(job.source), f"several ground truths, {', '.join(sorted(same))}"))
            else:
                faults.append((str(job.source), f"no ground truth {self.root / stem(job.name)} (of any ending)"))
        if not found:
            raise DataError(f"{self.root}: none of {len(jobs)} pictures has a ground truth; {': '.join(faults[0])}")
        for fault in faults:
            tell(*fault)
        return found

    def _called(self, name: str) -> list[str]:
        return self._by_stem.get(name) or self._by_stem.get(name.rpartition("/")[2], [])


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


def _in_folder(folder: Path, below: Path, apart: Sequence[Path], tell: Tell) -> Iterator[Found]:
    """Yield the pictures of a folder at any depth, sorted; a link back to a folder around it is not followed."""

    def fail(error: OSError) -> None:
        tell(f"{error.filename}/", error.strerror or str(error))

    top = folder.resolve()
    inside = {one for one in apart if top in one.parents}
    around: dict[str, frozenset[str]] = {}
    found = []
    for here, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(here)
        above = around.get(os.path.dirname(here), frozenset())  # noqa: PTH120
        around[here] = above | {real}
        if real in above or Path(real) in inside:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(here, name) for name in sorted(files) if not name.startswith(".")]
        found += [path for path in paths if _is_picture(path, tell)]
    yield from (Found(path, path.relative_to(below).as_posix(), below) for path in sorted(found))


def _fitting(pattern: Path, apart: Sequence[Path], tell: Tell) -> list[Found] | None:
    """Return the pictures that fit a pattern, in files and folders; None where it is no pattern."""
    base, rest = Path(pattern.anchor), list(pattern.parts[bool(pattern.anchor) :])
    while rest and (base / rest[0]).exists():  # a folder may be called `a[1]`
        base /= rest.pop(0)
    if not any(_MAGIC & set(part) for part in rest) or not base.is_dir():
        return None
    top = base.resolve()
    inside = {one for one in apart if top in one.parents}
    found: list[Found] = []
    for path in sorted(base.glob(str(Path(*rest)))):
        if any(part.startswith(".") for part in path.relative_to(base).parts):
            continue
        real = path.resolve()
        if any(one == real or one in real.parents for one in inside):
            continue
        if path.is_dir():
            found += _in_folder(path, base, apart, tell)
        elif _is_picture(path, tell):
            found.append(Found(path, path.relative_to(base).as_posix(), base))
    return found


def _is_picture(path: Path, tell: Tell) -> bool:
    """Tell whether a file has a picture's ending, and say so where it has and is none."""
    if path.suffix.lower() not in EXTENSIONS:
        return False
    if not path.is_file():  # to open a pipe would take for ever
        tell(str(path), "a link to nothing" if path.is_symlink() else "not a file")
        return False
    return True


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
    raise_for(problems, f"results in {out} (name another folder with -o, or fewer inputs at a time)")


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
