"""Atomic file writes: a file is complete or does not exist, even if the process is killed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from mcir.paths import file_problem, name_problem

_TEMPORARY = re.compile(r"\..+\.(\d+)")
_FULL_DISK_BYTES = 2**16


def check_writable(path: Path) -> None:
    """Check that a file, or a folder of files, can be written, before the work whose result it contains.

    Args:
        path: file or folder. Neither it nor its folder has to exist, and neither is created.

    Raises:
        ValueError: no file can be created there.
    """
    folder = next(each for each in (path.absolute(), *path.absolute().parents) if each.is_dir())
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = f" ({error.strerror})" if error.errno != errno.ENOENT else ""  # of /proc
        raise ValueError(f"{path} cannot be written: no file can be created in {folder}{reason}.") from error


@contextmanager
def atomic_file(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield the path of a temporary file to write, and rename it to ``path`` when the block ends without an error.

    Args:
        path: file to create or replace. Missing folders are created.
        durable: whether to sync the file to the disk before renaming it, which is slower.

    Raises:
        OSError: the disk is full, the folder is not writable, or the path is a folder, pipe or device. An existing file
            is not changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and (problem := file_problem(path)):  # renaming would replace a device by a file
        raise FileExistsError(errno.EEXIST, f"{problem}; nothing was written", str(path))
    name = path.name if name_problem(path.name) is None else f"{zlib.crc32(os.fsencode(path.name)):08x}"  # if too long
    temporary = path.with_name(f".{name}.{os.getpid()}")
    try:
        with full_disk_errors(path):
            yield temporary
            if durable:
                _sync(temporary)
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync(path.parent)


@contextmanager
def full_disk_errors(path: Path) -> Iterator[None]:
    """Replace the errors of a library that writes a file by a clear one if the disk is full.

    Args:
        path: file or folder that the library writes.

    Raises:
        OSError: an error occurred, and the disk is full.
    """
    try:
        yield
    except Exception as error:  # torch, safetensors and lmdb raise unclear errors
        if shutil.disk_usage(path.parent).free < _FULL_DISK_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Create or replace a file atomically.

    Raises:
        OSError: the disk is full or the folder is not writable. An existing file is not changed.
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder of mcir and in its subfolders."""
    for parent, _, names in os.walk(folder):
        for name in names:
            process = _TEMPORARY.fullmatch(name)
            if process and not psutil.pid_exists(int(process[1])):
                Path(parent, name).unlink(missing_ok=True)


def append(path: Path, data: bytes) -> None:
    """Append data to a file, which is created if necessary, completely or not at all.

    Raises:
        OSError: the disk is full or the file is not writable. The file is not changed.
    """
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while data:  # a disk that becomes full accepts only the start
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)
            raise


def _sync(path: Path) -> None:
    """Write the cached content of a file, or the entries of a folder, to the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders, and does not need to
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows syncs writable files only
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
