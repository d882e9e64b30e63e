"""Which pictures a person means by files, folders and patterns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcir.data.codec import EXTENSIONS
from mcir.data.errors import DataError, raise_data_errors

Tell = Callable[[str, str], None]
"""Told of what cannot be restored: its name and the reason."""

_MAGIC = frozenset("*?[")


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
    raise_data_errors(problems, "pictures to restore")
    if not found:
        raise DataError(
            f"no picture found in {', '.join(inputs)}, at any depth; looked for {', '.join(sorted(EXTENSIONS))}"
        )
    once: dict[str, Found] = {}
    for one in found:
        once.setdefault(os.path.abspath(one.source), one)  # noqa: PTH100 (links are not followed)
    return list(once.values())


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
