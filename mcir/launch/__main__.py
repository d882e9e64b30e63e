"""``python -m mcir.launch MODULE ARGUMENTS`` runs a module, and stops it with SIGTERM when the parent process ends."""

import os
import runpy
import signal
import sys
import threading


def _run_child() -> None:
    """Run the module that the first command-line argument names, and stop it when the parent process ends."""
    for name in ("SIGUSR1", "SIGUSR2"):  # for submitit; some clusters send them to every process of a job
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _stop_with_parent() -> None:
    """Send SIGTERM to this process when standard input is closed, which happens when the parent process ends."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # on Windows, this ends the process without saving


if __name__ == "__main__":
    _run_child()
