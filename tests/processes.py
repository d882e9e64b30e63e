"""Helpers for tests with real processes: a training that pauses in the middle, and the processes that a kill leaves."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PAUSING_LOSS = """
import os, time
from pathlib import Path
from mcir.registry import LOSSES
from mcir.losses import L1Loss

@LOSSES.register()
class PausingLoss(L1Loss):
    calls = 0

    def __init__(self) -> None:
        super().__init__()

    def forward(self, output, gt):
        PausingLoss.calls += not output.is_meta  # the dry run without data does not count
        if PausingLoss.calls == 2:
            written = Path("writing" + os.environ.get("RANK", "0"))
            written.write_text(str(os.getpid()))
            written.rename("reached" + os.environ.get("RANK", "0"))
            while Path("hold").exists():
                time.sleep(0.05)
        return super().forward(output, gt)
"""
CHANGES = ["imports=['pausing']", "train.pixel_opt={type: PausingLoss}", "train.total_iter=4", "val.val_freq=4"]
"""Overrides that pause the tiny training in its second iteration while the file ``hold`` exists."""


def children_of(pid):
    """Return the process ids of the running children of a process."""
    return [child.pid for child in psutil.Process(pid).children() if is_running(child.pid)]


def is_running(pid):
    """Return whether a process runs and is not a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition, seconds=120):
    """Wait until a condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


_ENDLESS = """
import time
from pathlib import Path
from mcir.registry import LOSSES
from mcir.losses import L1Loss

@LOSSES.register()
class EndlessLoss(L1Loss):
    def __init__(self, begun: str) -> None:
        super().__init__()
        self.begun = Path(begun)

    def forward(self, output, gt):
        if not output.is_meta:  # the dry run without data does not count
            self.begun.touch()
            time.sleep(600)
        return super().forward(output, gt)
"""


def check_killed(folder, arguments, loss, again):
    """Kill ``mcir reproduce`` of two jobs in a step that never ends: it is alone while it runs, and leaves no process.

    ``loss`` is the option of the endless loss, and ``again`` does the same a second time in this process.
    """
    (folder / "endless.py").write_text(_ENDLESS)
    endless = json.dumps({"type": "EndlessLoss", "begun": str(folder / "begun")})
    changes = ["--set", 'imports=["endless"]', f"{loss}={endless}"]
    command = [sys.executable, "-m", "mcir.cli", "reproduce", *arguments, "--quick", "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[1]}:{folder}"}
    process = subprocess.Popen(
        [*command, "--results", "out", *changes],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until((folder / "begun").exists)
        workers = children_of(process.pid)
        assert len(workers) >= 2
        with pytest.raises(ValueError, match=rf"out is in use by process {process.pid} on "):
            again(folder / "out")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    try:
        wait_until(lambda: not any(map(is_running, workers)))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def in_child(function):
    """Run a function in a forked process and return its result."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(write, pickle.dumps(function()))
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        data = stream.read()
    assert os.waitpid(child, 0)[1] == 0
    return pickle.loads(data)
