"""One run at a time in a folder: a lock that the kernel takes back from whoever ends, however that happens.

It is a record lock of POSIX, not a ``flock``: processes that load data are forks of the training, and would hold the
latter for seconds after the training was killed. It holds between machines where the network file system keeps locks.
"""

import fcntl
import logging
import os
import socket
import struct
from pathlib import Path
from typing import TextIO

_LOG = logging.getLogger("mcir")
_FLOCK = "hhqqi0q"  # struct flock of 64-bit Linux: kind, whence, start, length, process


class RunDirInUseError(ValueError):
    """Another process writes into the folder."""


def hold(folder: Path) -> TextIO:
    """Take a folder for this process, until the file that is returned is closed or the process ends.

    The lock is the file ``.NAME.lock`` beside the folder, as the folder itself may be renamed; it says who holds it. A
    file system that keeps no locks is told of in the log, and nothing is held.

    Raises:
        RunDirInUseError: another process holds it; the message says which one, and on which machine.
    """
    place = _place(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    file = place.open("a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise RunDirInUseError(
            f"{folder} is in use by {holder}: two runs would write into one another. "
            "Wait for it or stop it, or give this run another name."
        ) from None
    except OSError as error:
        _LOG.warning("%s: no lock can be kept here (%s). See to it that no second run writes there.", folder, error)
        return file
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def is_held(folder: Path) -> bool:
    """Return whether another process holds a folder, as far as this machine can tell; nothing is locked for that.

    The holder itself must not ask: a process that closes a file loses all its locks on it.
    """
    try:
        with _place(folder.absolute()).open("rb") as file:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            (kind, *_) = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    except OSError:
        return False
    return bool(kind != fcntl.F_UNLCK)


def _place(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")
