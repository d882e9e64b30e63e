"""Trainings as Slurm jobs, with submitit."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcir.launch.job import TrainingJob
from mcir.launch.local import Log, child_arguments
from mcir.launch.options import LaunchOptions

_SLURM_DEFAULTS: dict[str, int | str] = {"time": 24 * 60, "signal_delay_s": 300}
_MAX_REQUEUES = 1000


class SlurmCluster:
    """The Slurm cluster to which this machine belongs.

    The name of a job contains a hash of its experiment folder. A training that is already in the queue is recognized by
    this name.

    Raises:
        ValueError: submitit or Slurm is missing.
    """

    poll_seconds = 30.0

    def __init__(self, options: LaunchOptions, log: Log) -> None:
        try:
            import submitit
        except ImportError:
            raise ValueError('--launcher slurm requires submitit: pip install -e ".[slurm]" in the clone.') from None
        self._executor_class = submitit.SlurmExecutor
        self._options, self._log = options, log
        self._queue = _queued_jobs()
        self._submitted: dict[str, TrainingJob] = {}

    def submit(self, job: TrainingJob) -> None:
        """Submit a training, unless it is already in the queue.

        Raises:
            ValueError: Slurm rejects the job.
        """
        folder_hash = hashlib.sha256(str(job.folder.resolve()).encode()).hexdigest()[:8]
        name = f"mcir-{job.folder.name}-{folder_hash}"
        if name in self._queue:
            state = "is already in the queue"
        else:
            self._queue[name] = self._submit(job, name)
            state = f"is submitted; its log: {self._log_file(job, self._queue[name])}"
        self._log(f"{job.name}: job {self._queue[name]} for {job.folder} {state}")
        self._submitted[name] = job

    def wait(self) -> None:
        """Wait until all submitted jobs have ended, and log the result of each."""
        ids, waiting = dict(self._queue), dict(self._submitted)
        if waiting:
            self._log(f"waiting for {len(waiting)} Slurm job(s); they continue if this command is stopped")
        while waiting:
            try:
                queue = _queued_jobs()
            except ValueError as error:  # a busy Slurm controller sometimes does not answer
                self._log(str(error))
                queue = dict.fromkeys(waiting, "")
            for name in waiting.keys() - queue.keys():
                job = waiting.pop(name)
                text = f"{job.name}: job {ids[name]} has ended, {job.progress()}"
                if not job.checkpoint.is_file():
                    text += f"; its log: {self._log_file(job, ids[name])}; {job.next_start()}."
                self._log(text)
            if waiting:
                time.sleep(self.poll_seconds)

    def _submit(self, job: TrainingJob, name: str) -> str:
        from submitit.core.utils import FailedJobError

        try:
            executor = self._executor_class(self._options.logs / job.folder.name, max_num_timeout=_MAX_REQUEUES)
        except RuntimeError as error:
            raise ValueError(f"--launcher slurm: {error}") from None
        executor.update_parameters(**self._parameters(job, name))
        try:
            return executor.submit(SlurmTask(job.arguments)).job_id
        except FailedJobError as error:
            raise ValueError(f"Slurm rejects the job of {job.name}: {error}") from None

    def _parameters(self, job: TrainingJob, name: str) -> Mapping[str, Any]:
        data = job.options.datasets.train
        parameters = {
            "cpus_per_task": 1 + (data.num_worker_per_gpu if data else 0),
            **_SLURM_DEFAULTS,
            **self._options.slurm,
            "job_name": name,
            "nodes": self._options.nnodes,
            "ntasks_per_node": self._options.nproc_per_node,
            "srun_args": ["--kill-on-bad-exit=1"],  # otherwise the other tasks wait for a task that failed
            "additional_parameters": {"requeue": True},
        }
        if job.options.num_gpu not in (0, "cpu") and "gres" not in parameters:
            parameters.setdefault("gpus_per_node", self._options.nproc_per_node)
        return parameters

    def _log_file(self, job: TrainingJob, job_id: str) -> Path:
        return self._options.logs / job.folder.name / f"{job_id}_0_log.out"


def _queued_jobs() -> dict[str, str]:
    """Return the ids of the user's running and waiting jobs by name.

    Raises:
        ValueError: Slurm is missing or does not answer.
    """
    command = ["squeue", "--me", "--noheader", "--format=%i|%j"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    except FileNotFoundError:
        raise ValueError("--launcher slurm: there is no command `squeue`. Use a machine of the cluster.") from None
    except subprocess.CalledProcessError as error:
        raise ValueError(f"Slurm does not answer: {error.stderr.strip() or error}") from None
    return {name: job_id for job_id, _, name in (line.partition("|") for line in listed.splitlines())}


class SlurmTask:
    """One task of a Slurm job: it runs one process of a training.

    submitit pickles the object and calls it on the cluster. Before the time limit, submitit calls ``checkpoint``, which
    saves the training, and submits the returned task as a new job, which resumes the training.

    Args:
        arguments: arguments of ``mcir train``.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = list(arguments)
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Train, and return the exit status: 0, or 128 + n if signal n stopped the training.

        Raises:
            RuntimeError: the training failed; the log of the job contains its error message.
        """
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        command = [sys.executable, *child_arguments(self.arguments)]
        if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" and "--auto_resume" not in command:
            command.append("--auto_resume")
        self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 (our own module)
        status = self._child.wait()
        if status not in (0, 128 + signal.SIGTERM, 128 + signal.SIGINT):
            raise RuntimeError(f"The training ended with status {status}.")
        return status

    def checkpoint(self) -> Any:
        """Stop the training, which saves a checkpoint, and return the task that resumes it."""
        import psutil
        from submitit.helpers import DelayedSubmission

        if self._child is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._child.terminate()
                psutil.Process(self._child.pid).wait()  # Popen.wait() is interrupted by this call and holds its lock
        resumed = [*self.arguments, *(["--auto_resume"] if "--auto_resume" not in self.arguments else [])]
        return DelayedSubmission(SlurmTask(resumed))
