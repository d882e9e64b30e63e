"""``python -m mcir.tables.held MODULE ARGUMENTS``: run a module that is asked to stop when its starter is gone.

The starter holds the other end of standard input. The kernel closes it when the starter ends, however that happens;
then the module gets SIGTERM.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    """Run the module that is named first among the arguments."""
    threading.Thread(target=_watch, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _watch() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
