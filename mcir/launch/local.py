"""Trainings on this machine, in child processes that end with their parent."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

from mcir.launch.job import TrainingJob

Log: TypeAlias = Callable[[str], None]


def child_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of Python that run ``mcir train`` until this process ends."""
    return ["-m", "mcir.launch", str(os.getpid()), "mcir.train", *arguments]


def run_here(job: TrainingJob, processes: int, log: Log) -> int:
    """Train in a number of processes on this machine, and return the exit status of ``mcir train``."""
    several = ["--nproc_per_node", str(processes)] if processes > 1 else []
    command = [sys.executable, *child_arguments(job.arguments), *several]
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
