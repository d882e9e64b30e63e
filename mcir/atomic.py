"""Atomic file writes: a file is either complete or not there, even if the process is killed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL_DISK_BYTES = 2**16


@contextmanager
def whole_file(path: Path, durable: bool = False) -> Iterator[Path]:
    """Give the name of a temporary file, which becomes ``path`` when it is written: whole or not at all.

    Args:
        path: the file; its folder is made.
        durable: see the content on the disk before it gets its name, which takes a while.

    Raises:
        OSError: the disk is full, or the folder cannot be written; what was there before stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        if durable:
            _sync(temporary)
        temporary.replace(path)
    except BaseException as error:
        is_full = shutil.disk_usage(path.parent).free < _FULL_DISK_BYTES
        temporary.unlink(missing_ok=True)
        if is_full:  # which the writers of torch and safetensors say in words of their own
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    if durable:
        _sync(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, even after a kill."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
