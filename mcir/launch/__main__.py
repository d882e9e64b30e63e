"""``python -m mcir.launch PARENT MODULE ARGUMENTS`` runs a module, and stops it with SIGTERM when the parent ends."""

import runpy
import signal
import sys

from mcir.parent import end_with_parent


def _run_child() -> None:
    """Run a module, whose name follows the id of the parent process on the command line."""
    for name in ("SIGUSR1", "SIGUSR2"):  # for submitit; some clusters send them to every process of a job
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    end_with_parent(int(sys.argv[1]), signal.SIGTERM)  # on Windows, this ends the process without saving
    del sys.argv[:2]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    _run_child()
