"""How the trainings of a table are started: here, one after another, or each as a job of a Slurm cluster."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence

from mcir.features.base import imagenet_file
from mcir.tables.plan import Job, Settings
from mcir.tables.slurm import Cluster

Say = Callable[[str], None]


def train(jobs: Sequence[Job], settings: Settings, say: Say) -> bool:
    """Train what is not trained, or go on with it, where all that it needs is there.

    Returns whether every training is at its end or, where the jobs of a cluster are not waited for, on its way.

    Raises:
        ValueError: there is no Slurm here, or it refuses a job.
    """
    if settings.launcher == "slurm":
        cluster = Cluster(settings, say)
        on_its_way = {cluster.submit(job) for job in jobs if _can_train(job, say)}
        if not settings.wait:
            return all(job.options is not None and (job.trained() or job.folder in on_its_way) for job in jobs)
        cluster.wait()
    else:
        for job in jobs:
            if _can_train(job, say):
                _train_here(job, settings.processes, say)
    return all(job.options is not None and job.trained() for job in jobs)


def _can_train(job: Job, say: Say) -> bool:
    """Return whether it is to be trained and can be; what is missing is told."""
    if job.options is None or job.trained() is not None:
        return False
    missing = job.missing_to_train()
    if missing:
        say(f"{job.row.name}: cannot be trained, {', '.join(missing)} missing")
        return False
    try:
        for network in job.feature_networks():  # once, before many processes want them, or a job without a network
            imagenet_file(network)
    except ValueError as error:
        say(f"{job.row.name}: cannot be trained. {error}")
        return False
    return True


def _train_here(job: Job, processes: int, say: Say) -> None:
    command = [sys.executable, "-m", "mcir.tables.held"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    command += ["mcir.train", *job.arguments()]
    say(f"{job.row.name}: {shlex.join(command)}")
    child = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 — our own module, the person's own arguments
    try:
        status = child.wait()
    except KeyboardInterrupt:  # the training got it, too, and saves before it ends
        child.wait()
        raise
    finally:
        assert child.stdin is not None
        child.stdin.close()
    if status:
        say(f"{job.row.name}: the training ended with status {status}, why is told above; {job.to_go_on()}.")
