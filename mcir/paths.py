"""Paths from users: expand them, check names that become paths, and recognize what is safe to open."""

from __future__ import annotations

import os
import stat
from pathlib import Path

MAX_NAME_BYTES = 200
"""Longest name of a file or folder; file systems allow 255 bytes, and mcir adds suffixes."""

_KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a named pipe, not a file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
)


def expand_path(path: str | Path) -> Path:
    """Return a path with ``~`` and environment variables (``$VAR``, ``${VAR}``) replaced by their values."""
    return Path(os.path.expandvars(path)).expanduser()


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


def name_problem(name: str) -> str | None:
    """Return why a text cannot be the name of a file or folder, as the end of a sentence, or None if it can."""
    if not name.strip(". "):
        return "has no letters or digits"
    if found := next((character for character in name if character in "/\\" or not character.isprintable()), None):
        return f"contains {found!r}"
    if len(os.fsencode(name)) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    return None
