"""Find option files by name, in the current folder and among those that come with mcir."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from mcir.config.tree import OptionError, Problem
from mcir.errors import Location, closest, suggestion
from mcir.paths import file_problem
from mcir.text import shortened

FOLDER = "options"
SUFFIX = ".yml"
FOR_EDITORS = "# yaml-language-server: $schema="  # the first line of an option file: the schema, a path or a URL
_BASES = "_base_/"  # subfolder of the files that are only bases of others; they are not listed


def shipped() -> Path:
    """Return the folder of the option files that come with mcir.

    An installed package contains it. In a clone, it is the folder ``options`` next to the package.
    """
    package = Path(__file__).parents[1]
    installed = package / FOLDER
    return installed if installed.is_dir() else package.parent / FOLDER


def schema_path() -> Path:
    """Return the JSON schema that comes with mcir, which the first line of an option file may name for editors."""
    return shipped() / "schema.json"


def shipped_names(pattern: str = "*") -> list[str]:
    """Return the names of the option files that come with mcir, sorted, without suffix: ``sr/edsr_light_x4``.

    Args:
        pattern: a glob pattern for the whole name; ``*`` also matches ``/``.
    """
    folder = shipped()
    names = (file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob(f"*{SUFFIX}"))
    return sorted(name for name in names if not name.startswith(_BASES) and fnmatchcase(name, pattern))


def find_file(name: str | Path) -> Path:
    """Return the path of an option file.

    The file is searched in the current folder, in the folder ``options`` in it, and among the files that come with
    mcir.

    Args:
        name: path or name, with or without the suffix ``.yml``.

    Raises:
        OptionError: there is no such file; the message lists the searched folders and the closest name.
    """
    path = Path(name)
    found = next(_files(Path(), path), None) or find_by_name(path)
    if found is None and (os.path.exists(path) or path.is_absolute()):  # noqa: PTH110 (any text, also with zero bytes)
        return path  # an error that explains the problem is raised when it is read
    if found is None:
        searched = f"the current folder, {FOLDER}/ in it, and {shipped()}"
        message = f"The file does not exist.{_did_you_mean(Path(), name)} Searched in: {searched}."
        raise OptionError([Problem(Location(str(name)), message)])
    return found


def find_by_name(name: str | Path) -> Path | None:
    """Return the option file with a name in ``options/`` of the current folder, or else that which comes with mcir."""
    return find_in(Path(FOLDER), name) or find_in(shipped(), name)


def find_base(file: Path, name: str, location: Location) -> Path:
    """Return the path of a base of an option file.

    Args:
        file: option file.
        name: path relative to the option file, or name of a file that comes with mcir.
        location: location of the name in the option file, for the error.

    Raises:
        OptionError: there is no such file; the message contains the closest name.
    """
    path = Path(os.path.normpath(file.parent / name))  # shorter in messages, unless `..` follows a link
    if file_problem(path) is not None:
        path = file.parent / name
    problem = file_problem(path)
    found = path if problem is None else find_in(shipped(), name)
    if found is None:
        message = f"'{shortened(name)}': The file {problem}.{_did_you_mean(file.parent, name)}"
        raise OptionError([Problem(location, message)])
    return found


def find_in(folder: Path, name: str | Path) -> Path | None:
    """Return the option file with a name in a folder; None if there is none or if the name leads outside the folder."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        return None
    return next(_files(folder, path), None)


def _files(folder: Path, path: Path) -> Iterator[Path]:
    names = (path,) if path.suffix == SUFFIX or not path.name else (path, path.with_name(f"{path.name}{SUFFIX}"))
    return (folder / name for name in names if file_problem(folder / name) is None)


def _did_you_mean(folder: Path, name: str | Path) -> str:
    """Return a suggestion for a missing file: a file of the same folder, or else one that comes with mcir."""
    path = Path(name)
    files = (folder / path.parent).glob(f"*{SUFFIX}") if os.path.isdir(folder / path.parent) else ()  # noqa: PTH112
    near = closest(path.name, [file.name for file in files])
    return suggestion(str(name), shipped_names()) if near is None else f" Did you mean '{path.with_name(near)}'?"
