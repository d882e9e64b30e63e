"""Real processes: a training that waits in the middle, and what is left of processes when one is killed."""

import time
from pathlib import Path

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
        PatientLoss.calls += 1
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
