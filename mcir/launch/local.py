"""Trainings on this machine, in child processes that end with their parent."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import TypeAlias

from mcir.launch.job import TrainingJob

Log: TypeAlias = Callable[[str], None]


def child_command() -> list[str]:
    """Return a command that runs a module until this process ends; the module and its arguments follow it."""
    return [sys.executable, "-m", "mcir.launch", str(os.getpid())]


def run_here(job: TrainingJob, processes: int, log: Log) -> int:
    """Train in a number of processes on this machine, and return the exit status of ``mcir train``."""
    command = child_command()
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    command += ["mcir.train", *job.arguments]
    log(f"{job.name}: {shlex.join(command)}")
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 (our own module)
    try:
        status = child.wait()
    except KeyboardInterrupt:  # the child gets it from the terminal, too, and saves
        child.wait()
        raise
    if status:
        ended = str(job.collapse or f"the training ended with status {status}, see above")
        log(f"{job.name}: {ended}; {job.next_start()}.")
    return status
