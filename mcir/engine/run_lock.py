"""A lock on the folder of a run, so that two processes never write to the same folder.

The operating system releases the lock when the process ends or is killed. Forked data-loading workers do not hold the
lock, because filelock closes the inherited file in them.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mcir.atomic import write_atomically


class RunDirInUseError(ValueError):
    """The folder of a run is locked by another process."""


@contextmanager
def lock_run_dir(folder: Path) -> Iterator[None]:
    """Lock a folder for this process.

    The lock is the file ``.NAME.lock`` next to the folder, because the folder may be renamed.

    Raises:
        RunDirInUseError: another process has locked the folder. The message contains its id and its machine.
    """
    file = _lock_file(folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    holder = file.with_suffix(".holder")  # on Windows, other processes cannot read a locked file
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        owner = holder.read_text(encoding="utf-8").strip() if holder.exists() else "another process"
        raise RunDirInUseError(
            f"{folder} is in use by {owner}. Wait until that process ends, stop it, or give this run another name."
        ) from None
    try:
        write_atomically(holder, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def is_locked(folder: Path) -> bool:
    """Return whether a process has locked a folder. Locks of other machines may not be visible."""
    file = _lock_file(folder.absolute())
    if not file.exists():
        return False
    try:
        with FileLock(file).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # the lock file belongs to another user, or the file system does not support locks
        return False


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")
