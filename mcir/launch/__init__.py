"""Start trainings in several processes on this machine and others, or as Slurm jobs with submitit."""

from __future__ import annotations

from collections.abc import Sequence

from mcir.launch.elastic import run_processes
from mcir.launch.job import TrainingJob
from mcir.launch.local import Log, run_here
from mcir.launch.options import SLURM_PARAMETERS, Launcher, LaunchOptions, read_slurm_parameters
from mcir.launch.slurm import SlurmCluster

__all__ = [
    "SLURM_PARAMETERS",
    "LaunchOptions",
    "Launcher",
    "Log",
    "SlurmCluster",
    "TrainingJob",
    "launch",
    "read_slurm_parameters",
    "start",
]


def launch(options: LaunchOptions, arguments: Sequence[str], log: Log = print) -> int:
    """Start one training in several processes or as a Slurm job, and return the exit status of ``mcir train``.

    ``arguments`` are those of ``mcir train``, without those of :class:`~mcir.arguments.LaunchArguments`.

    Raises:
        ValueError: the option file is not valid, other machines cannot be reached, submitit or Slurm is missing, or
            Slurm rejects the job.
    """
    job = TrainingJob.from_arguments(arguments)
    if options.launcher != "slurm":
        return run_processes(job.arguments, options)
    (status,) = start([job], options, log)
    return status


def start(jobs: Sequence[TrainingJob], options: LaunchOptions, log: Log) -> list[int]:
    """Start trainings and return the exit status of each; 0 for submitted jobs with ``wait=False``.

    Raises:
        ValueError: submitit or Slurm is missing, or Slurm rejects a job.
    """
    assert options.launcher in ("torchrun", "slurm")
    if options.launcher == "torchrun":
        return [run_here(job, options.nproc_per_node, log) for job in jobs]
    cluster = SlurmCluster(options, log)
    for job in jobs:
        cluster.submit(job)
    if not options.wait:
        return [0] * len(jobs)
    cluster.wait()
    return [0 if job.checkpoint.is_file() else 1 for job in jobs]
