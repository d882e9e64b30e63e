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
    """Yield the name of a temporary file to write, and rename it to ``path`` at the end.

    Args:
        path: the file to create or replace. Its folder is created.
        durable: whether to flush the file to the disk before it is renamed, which takes longer.

    Raises:
        OSError: the disk is full, or the folder is not writable; an existing file is not changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        if durable:
            _flush(temporary)
        temporary.replace(path)
    except BaseException as error:
        is_full = shutil.disk_usage(path.parent).free < _FULL_DISK_BYTES
        temporary.unlink(missing_ok=True)
        if is_full:  # torch and safetensors report it in other words
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    if durable:
        _flush(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """Create or replace a file atomically.

    Raises:
        OSError: the disk is full, or the folder is not writable; an existing file is not changed.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def _flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders, and writes their names at once
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows flushes only writable files
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
