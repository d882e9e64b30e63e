"""Paths from users: expand them, check names that become paths, and recognize what is safe to open."""

from __future__ import annotations

import os
import stat
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias, get_args

from mcir.text import shortened

MAX_NAME_BYTES = 200
"""Longest name of a file or folder; file systems allow 255 bytes, and mcir adds suffixes."""
_MAX_PART_BYTES, _MAX_PATH_BYTES = 255, 4095

_KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a named pipe, not a file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
)


class PathKind(NamedTuple):
    """Metadata of the type of a path.

    Attributes:
        names: values that are names, not paths, such as ``random``.
        is_output: whether the path is written. An output is always relative to the current folder.
    """

    names: tuple[str, ...] = ()
    is_output: bool = False


UserPath: TypeAlias = Annotated[str, PathKind()]
"""Text that is or may be the path of an input: an option, a constructor argument or a command-line argument.

``~`` and variables are expanded when the option file or the command line is read; see :func:`expand`. In an option
file, a relative path is looked up in the folder of this file, and then in the current folder.
"""
WeightsPath: TypeAlias = Annotated[str, PathKind(names=("random", "imagenet"))]
"""Path of a weight file, or the name of weights that do not need one."""
OutputPath: TypeAlias = Annotated[str, PathKind(is_output=True)]
"""Text that is the path of an output: expanded like ``UserPath``, and relative to the current folder."""


def path_kind(annotation: Any) -> PathKind | None:
    """Return the metadata of the type of a path, which may be a member of a union; None for other types."""
    extras = getattr(annotation, "__metadata__", ())
    found = (extra for extra in extras if isinstance(extra, PathKind))
    return next(chain(found, filter(None, map(path_kind, get_args(annotation)))), None)


def expand(text: str) -> str:
    """Return the text of a path with ``~`` and environment variables replaced by their values.

    Variables are ``$VAR`` and ``${VAR}``. A variable that is not set, and the home of an unknown user, remain.
    """
    return os.path.expanduser(os.path.expandvars(text))  # noqa: PTH111 (raises no error, and keeps the text otherwise)


def expand_path(path: str | Path) -> Path:
    """Return a path with ``~`` and environment variables replaced by their values; see :func:`expand`."""
    return Path(expand(str(path)))


def path_problem(text: str) -> str | None:
    """Return why a text cannot be a path, as the end of a sentence, or None if it can. Nothing has to exist."""
    if "\0" in text:
        return "contains a zero byte"
    if len(os.fsencode(text)) > _MAX_PATH_BYTES:
        return f"is longer than {_MAX_PATH_BYTES:,} bytes"
    if any(len(os.fsencode(part)) > _MAX_PART_BYTES for part in text.split("/")):
        return f"contains a name of more than {_MAX_PART_BYTES} bytes"
    return None


def path_inside(folder: Path, name: str) -> Path:
    """Return ``folder/name``; slashes in the name denote subfolders.

    Every file whose name comes from an image, a database or an option is written to such a path.

    Raises:
        ValueError: the name leads out of the folder, or cannot be a path.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"The name '{name}' leads out of {folder}.")
    if problem := path_problem(name):
        raise ValueError(f"The name '{shortened(name)}' {problem}.")
    return folder / name


def file_problem(path: str | Path, max_bytes: int | None = None) -> str | None:
    """Return why a path cannot be read as a file, as the end of a sentence, or None if it can.

    Opening a named pipe or a device may block forever, so call this function before opening a path from a user.

    Args:
        path: path to check. Links are followed.
        max_bytes: largest accepted size of the file. Default: any size.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 (called for each image of a folder)
    except FileNotFoundError:
        return "does not exist"
    except (OSError, ValueError) as error:  # ValueError: the path contains a zero byte
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    for is_kind, problem in _KINDS:
        if is_kind(status.st_mode):
            return problem
    if max_bytes is not None and status.st_size > max_bytes:
        return f"is too large (expected at most {max_bytes:,} bytes, got {status.st_size:,})"
    return None


def file_problem_inside(folder: Path, path: Path, max_bytes: int | None = None) -> str | None:
    """Return why a path cannot be read as a file inside a folder, as the end of a sentence, or None if it can.

    A link may not lead out of the folder. See :func:`file_problem`.
    """
    if problem := file_problem(path, max_bytes):
        return problem
    return None if path.resolve().is_relative_to(folder.resolve()) else f"is a link that leads out of {folder.name}"


def name_problem(name: str) -> str | None:
    """Return why a text cannot be the name of a file or folder, as the end of a sentence, or None if it can."""
    if not name.strip(". "):
        return "has no letters or digits"
    if found := next((character for character in name if character in "/\\" or not character.isprintable()), None):
        return f"contains {found!r}"
    if len(os.fsencode(name)) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    return None
