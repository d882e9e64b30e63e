"""End a process when its parent process ends, even if the parent is killed.

On Linux the kernel sends the signal, which works while this process is blocked in a read or a lock. Elsewhere a thread
watches the parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading

import psutil

KILL: int = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has only SIGTERM
"""Signal that a process cannot handle or ignore."""

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int, number: int = KILL) -> None:
    """Send a signal to this process when its parent process ends. Call this in the main thread.

    Args:
        parent: id of the parent process, known to the parent before it started this process.
        number: number of the signal.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it ended before the call
            os.kill(os.getpid(), number)
    else:
        threading.Thread(target=_watch, args=(parent, number), daemon=True).start()


def _watch(parent: int, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(parent).wait()
    os.kill(os.getpid(), number)
