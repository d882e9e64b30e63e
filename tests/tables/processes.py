"""Real processes: a training that waits in the middle, and what is left of processes when one is killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PATIENT = """
import os, time
from pathlib import Path
from mcir.registry import LOSSES
from mcir.losses import L1Loss

@LOSSES.register()
class PatientLoss(L1Loss):
    calls = 0

    def __init__(self) -> None:
        super().__init__()

    def forward(self, output, gt):
        PatientLoss.calls += not output.is_meta  # a rehearsal without data does not count
        if PatientLoss.calls == 2:
            written = Path("writing" + os.environ.get("RANK", "0"))
            written.write_text(str(os.getpid()))
            written.rename("reached" + os.environ.get("RANK", "0"))
            while Path("hold").exists():
                time.sleep(0.05)
        return super().forward(output, gt)
"""
CHANGES = ["imports=['patient']", "train.pixel_opt={type: PatientLoss}", "train.total_iter=4", "val.val_freq=4"]
"""What makes the tiny training wait in its second iteration, while there is a file ``hold``."""


def children_of(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def is_there(pid):
    """Whether a process still runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(true, seconds=120):
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not true():
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
        self.begun.touch()
        time.sleep(600)
"""


def check_killed(folder, arguments, loss, again):
    """Kill ``mcir reproduce`` of two jobs in a step that never ends: it is alone while it runs, and leaves no process.

    ``loss`` is the option of the endless loss, and ``again`` does the same a second time in this process.
    """
    (folder / "endless.py").write_text(_ENDLESS)
    endless = json.dumps({"type": "EndlessLoss", "begun": str(folder / "begun")})
    changes = ["--set", 'imports=["endless"]', f"{loss}={endless}"]
    command = [sys.executable, "-m", "mcir.cli", "reproduce", *arguments, "--quick", "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}:{folder}"}
    process = subprocess.Popen(
        [*command, "--results", "out", *changes],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until((folder / "begun").exists)
        workers = children_of(process.pid)
        assert len(workers) >= 2
        with pytest.raises(ValueError, match=rf"out is in use by process {process.pid} on "):
            again(folder / "out")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    try:
        until(lambda: not any(map(is_there, workers)))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
