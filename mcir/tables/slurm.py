"""Trainings as jobs of a Slurm cluster, through submitit.

A job is one training and bears a name that only its experiment folder has: by it Slurm's own queue tells what is on its
way, and nothing is submitted twice. Shortly before its time is over, or when it must make room, a job saves, asks to be
queued again, and goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcir.registry import suggestion
from mcir.tables.formatting import counted

if TYPE_CHECKING:
    from mcir.tables.plan import Job, Settings

PARAMETERS: dict[str, type] = {
    "account": str,
    "constraint": str,
    "cpus_per_task": int,
    "exclude": str,
    "gpus_per_node": int,
    "gres": str,
    "mail_type": str,
    "mail_user": str,
    "mem": str,
    "mem_per_cpu": str,
    "mem_per_gpu": str,
    "nodelist": str,
    "nodes": int,
    "partition": str,
    "qos": str,
    "signal_delay_s": int,
    "time": int,
    "wckey": str,
}
"""What may be asked of Slurm: options of ``sbatch``, ``time`` in minutes; and with ``signal_delay_s``, how many seconds
before the end of that time a training is asked to save."""

_DEFAULTS: dict[str, int | str] = {"time": 24 * 60, "signal_delay_s": 300}
_MOST_TIMES = 1000
"""How often a job may come to the end of its time and be queued again."""


def read_parameters(texts: Sequence[str]) -> dict[str, int | str]:
    """Read ``KEY=VALUE`` as the values that Slurm is asked for.

    Raises:
        ValueError: no such key, or a value that is no whole number where one is needed.
    """
    found: dict[str, int | str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not value or key not in PARAMETERS:
            near = suggestion(key, PARAMETERS)
            raise ValueError(f"--slurm takes KEY=VALUE, not '{text}'.{near} Keys are {', '.join(PARAMETERS)}.")
        if PARAMETERS[key] is int and not re.fullmatch(r"\d+", value):
            unit = ", in minutes" if key == "time" else ""
            raise ValueError(f"--slurm {key} is a whole number{unit}, not '{value}'.")
        found[key] = int(value) if PARAMETERS[key] is int else value
    return found


class Cluster:
    """Slurm, as it is reached from here.

    Args:
        settings: how the table is made.
        say: takes what is to be told.

    Raises:
        ValueError: submitit or Slurm is not there, or the processes cannot be shared out evenly to the nodes.
    """

    poll_seconds = 30.0

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        try:
            import submitit
        except ImportError:
            raise ValueError('--launcher slurm needs submitit: pip install -e ".[slurm]"') from None
        self._executor_class = submitit.SlurmExecutor
        self._settings = settings
        self._say = say
        nodes = int(settings.slurm.get("nodes", 1))
        if nodes < 1 or settings.processes % nodes:
            raise ValueError(f"--nproc {settings.processes} cannot be shared out evenly to {nodes} nodes.")
        self._tasks = settings.processes // nodes
        self._queue = _queue()
        self._awaited: dict[str, tuple[Job, str]] = {}

    def submit(self, job: Job) -> Path:
        """Submit a training, unless it is in the queue already; return its folder.

        Raises:
            ValueError: Slurm refuses it.
        """
        name = _name_of(job.folder)
        told = f"{job.row.name}: job {{}} for {job.folder}"
        if name in self._queue:
            self._say(told.format(self._queue[name]) + " is in the queue already")
        else:
            self._queue[name] = self._submit(job, name)
            self._say(told.format(self._queue[name]) + f" is submitted; its log: {self._log(job, self._queue[name])}")
        self._awaited[name] = job, self._queue[name]
        return job.folder

    def wait(self) -> None:
        """Wait until no training that was submitted is in the queue any more; tell of each as it ends."""
        if self._awaited:
            self._say(f"waiting for {counted(len(self._awaited), 'job')}, which would go on without this command, too")
        while self._awaited:
            try:
                queue = _queue()
            except ValueError as error:  # Slurm is busy now and then
                self._say(str(error))
                queue = dict.fromkeys(self._awaited, "")
            for name in [name for name in self._awaited if name not in queue]:
                job, number = self._awaited.pop(name)
                told = f"{job.row.name}: job {number} has ended, {job.state()}"
                if job.trained() is None:
                    told += f"; its log: {self._log(job, number)}; {job.to_go_on()}."
                self._say(told)
            if self._awaited:
                time.sleep(self.poll_seconds)

    def _submit(self, job: Job, name: str) -> str:
        from submitit.core.utils import FailedJobError

        try:
            executor = self._executor_class(self._logs(job), max_num_timeout=_MOST_TIMES)
        except RuntimeError as error:
            raise ValueError(f"--launcher slurm: {error}") from None
        executor.update_parameters(**self._parameters(job, name))
        try:
            return executor.submit(Training(job.arguments())).job_id
        except FailedJobError as error:
            raise ValueError(f"Slurm refuses the training of {job.row.name}: {error}") from None

    def _parameters(self, job: Job, name: str) -> Mapping[str, Any]:
        assert job.options is not None and job.options.datasets.train is not None
        parameters = {
            "cpus_per_task": 1 + job.options.datasets.train.num_worker_per_gpu,
            **_DEFAULTS,
            **self._settings.slurm,
            "job_name": name,
            "ntasks_per_node": self._tasks,
            "srun_args": ["--kill-on-bad-exit=1"],  # the others would wait for the one that failed
            "additional_parameters": {"requeue": True},
        }
        if job.options.num_gpu != 0 and "gres" not in parameters:
            parameters.setdefault("gpus_per_node", self._tasks)
        return parameters

    def _logs(self, job: Job) -> Path:
        return self._settings.results / "slurm" / job.folder.name

    def _log(self, job: Job, number: str) -> Path:
        return self._logs(job) / f"{number}_0_log.out"


def _name_of(folder: Path) -> str:
    """Return the name of the job that trains into a folder."""
    return f"mcir-{folder.name}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"


def _queue() -> dict[str, str]:
    """Return the numbers of this person's jobs that run or wait, by their names.

    Raises:
        ValueError: there is no Slurm here, or it does not answer.
    """
    command = ["squeue", "--me", "--noheader", "--format=%i|%j"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    except FileNotFoundError:
        raise ValueError("--launcher slurm: there is no `squeue` here; start on a machine of the cluster.") from None
    except subprocess.CalledProcessError as error:
        raise ValueError(f"Slurm does not answer: {error.stderr.strip() or error}") from None
    lines = (line.partition("|") for line in listed.splitlines())
    return {name: number for number, _, name in lines}


class Training:
    """A training as a job, one process a task: what submitit calls on the cluster.

    Args:
        arguments: of ``mcir train``.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = list(arguments)
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Train and return the exit status: 0, or 128 plus the signal that stopped it.

        Raises:
            RuntimeError: the training failed; the log of the job says why.
        """
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        command = [sys.executable, "-m", "mcir.tables.held", "mcir.train", *self.arguments]
        ours = {signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]}  # some clusters send it to every process of the job
        signal.pthread_sigmask(signal.SIG_BLOCK, ours)
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 — as on the person's own machine
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ours)
        status = self._child.wait()
        if status not in (0, 128 + signal.SIGTERM, 128 + signal.SIGINT):
            raise RuntimeError(f"The training ended with status {status}.")
        return status

    def checkpoint(self) -> Any:
        """Let the training save and end, and return what goes on with it: submitit asks before the time is over."""
        from submitit.helpers import DelayedSubmission

        if self._child is not None:
            self._child.terminate()
            with contextlib.suppress(ChildProcessError):  # this interrupts the other wait, which is to see its status
                os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Training(self.arguments))
