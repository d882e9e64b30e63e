"""Start trainings on this machine with torchrun, or as Slurm jobs with submitit.

``python -m mcir.launch MODULE ARGUMENTS`` runs a module, and stops it with SIGTERM when the parent process ends.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mcir.arguments import OptionFileArguments, add_arguments
from mcir.config import Options, load
from mcir.errors import suggestion

if TYPE_CHECKING:
    from mcir.report.records import Collapse

Launcher: TypeAlias = Literal["none", "pytorch", "torchrun", "slurm"]
"""``none`` and ``pytorch`` train in the calling process; BasicSR uses ``pytorch`` for processes started by torchrun."""
Log: TypeAlias = Callable[[str], None]

_NUMBERS = "cpus_per_task gpus_per_node nodes signal_delay_s time"
_TEXTS = "account constraint exclude gres mail_type mail_user mem mem_per_cpu mem_per_gpu nodelist partition qos wckey"
SLURM_PARAMETERS: dict[str, type] = {**dict.fromkeys(_NUMBERS.split(), int), **dict.fromkeys(_TEXTS.split(), str)}
"""Keys of ``--slurm KEY=VALUE`` and the types of their values. All are options of ``sbatch``, with ``time`` in minutes,
except ``signal_delay_s``: number of seconds before the time limit at which a training saves a checkpoint and stops."""

_SLURM_DEFAULTS: dict[str, int | str] = {"time": 24 * 60, "signal_delay_s": 300}
_MAX_REQUEUES = 1000


@dataclass(frozen=True)
class LaunchOptions:
    """The launcher and its options.

    Attributes:
        launcher: ``torchrun`` (on this machine, one training after another) or ``slurm`` (one job per training).
        nproc: number of processes per training, over all nodes.
        slurm: Slurm options by key; see ``SLURM_PARAMETERS``.
        wait: whether to wait until the Slurm jobs have ended.
        logs: folder for the logs of the jobs.

    Raises:
        ValueError: the options are not consistent.
    """

    launcher: Launcher = "none"
    nproc: int = 1
    slurm: Mapping[str, int | str] = field(default_factory=dict)
    wait: bool = True
    logs: Path = Path("results/slurm")

    def __post_init__(self) -> None:
        """Check that the options are consistent."""
        if self.nproc < 1:
            raise ValueError(f"--nproc: expected at least 1, got {self.nproc}.")
        if self.launcher != "slurm" and (self.slurm or not self.wait):
            raise ValueError("--slurm and --no-wait require --launcher slurm.")
        nodes = int(self.slurm.get("nodes", 1))
        if nodes < 1 or self.nproc % nodes:
            raise ValueError(f"--nproc: expected a multiple of the number of nodes, {nodes}, got {self.nproc}.")

    @classmethod
    def from_arguments(cls, arguments: Any, **others: Any) -> LaunchOptions:
        """Return the options for parsed :class:`~mcir.arguments.LaunchArguments`."""
        slurm = read_slurm_parameters(arguments.slurm)
        return cls(arguments.launcher, arguments.nproc, slurm, not arguments.no_wait, **others)


def read_slurm_parameters(texts: Sequence[str]) -> dict[str, int | str]:
    """Parse the values of ``--slurm``.

    Raises:
        ValueError: a key is unknown, or a value is not an integer although its key requires one.
    """
    found: dict[str, int | str] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if not value or key not in SLURM_PARAMETERS:
            near = suggestion(key, SLURM_PARAMETERS)
            raise ValueError(f"--slurm: expected KEY=VALUE, got '{text}'.{near} Keys: {', '.join(SLURM_PARAMETERS)}.")
        if SLURM_PARAMETERS[key] is int and not re.fullmatch(r"\d+", value):
            unit = " of minutes" if key == "time" else ""
            raise ValueError(f"--slurm {key}: expected a whole number{unit}, got '{value}'.")
        found[key] = SLURM_PARAMETERS[key](value)
    return found


@dataclass(frozen=True)
class TrainingJob:
    """A training to start.

    Attributes:
        name: name of the training in messages.
        arguments: arguments of ``mcir train``.
        options: validated options that result from the arguments.
    """

    name: str
    arguments: Sequence[str]
    options: Options

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> TrainingJob:
        """Parse the arguments of ``mcir train``.

        Raises:
            ValueError: the option file is not valid.
        """
        parser = argparse.ArgumentParser(prog="mcir train", allow_abbrev=False)
        add_arguments(parser, OptionFileArguments)
        known, _ = parser.parse_known_args(arguments)
        options = load(known.opt, known.set, known.force_yml)
        if options.train is None:
            raise ValueError(f"{known.opt}: the section 'train' is missing.")
        return cls(options.name, arguments, options)

    @property
    def folder(self) -> Path:
        """Folder of the training."""
        return Path(self.options.path.experiments_root) / self.options.name

    @property
    def total(self) -> int:
        """Total number of iterations."""
        assert self.options.train is not None
        return self.options.train.total_iter

    @property
    def checkpoint(self) -> Path:
        """Weight file of the final iteration. If it exists, the training is complete."""
        return self.folder / "models" / f"net_g_{self.total}.pth"

    @property
    def reached(self) -> int:
        """Iteration of the newest checkpoint; 0 without a checkpoint."""
        files = (self.folder / "models").glob("net_g_*.pth")
        return max((int(match[1]) for file in files if (match := re.fullmatch(r"net_g_(\d+)", file.stem))), default=0)

    @property
    def collapse(self) -> Collapse | None:
        """Recorded collapse of the last start of the training; None if it did not diverge."""
        from mcir.report.records import read_collapse  # slow to import

        return read_collapse(self.folder)

    def progress(self) -> str:
        """Describe the progress of the training."""
        if self.checkpoint.is_file():
            return f"trained: {self.checkpoint}"
        if (collapse := self.collapse) is not None:
            return str(collapse)
        return f"trained to iteration {self.reached:,} of {self.total:,}" if self.reached else "not trained"

    def next_start(self) -> str:
        """Describe how the same command continues, or what a training that collapsed needs."""
        if self.collapse is not None:
            return f"to train it again, change its options or remove {self.folder}"
        if self.reached:
            return f"the same command resumes from the checkpoint of iteration {self.reached:,}"
        return "there is no checkpoint, so the same command starts from the beginning"


def launch(options: LaunchOptions, arguments: Sequence[str], log: Log = print) -> int:
    """Start one training with torchrun or as a Slurm job, and return the exit status of ``mcir train``.

    ``arguments`` are those of ``mcir train``, without those of :class:`~mcir.arguments.LaunchArguments`.

    Raises:
        ValueError: the option file is not valid, submitit or Slurm is missing, or Slurm rejects the job.
    """
    (status,) = start([TrainingJob.from_arguments(arguments)], options, log)
    return status


def start(jobs: Sequence[TrainingJob], options: LaunchOptions, log: Log) -> list[int]:
    """Start trainings and return the exit status of each; 0 for submitted jobs with ``wait=False``.

    Raises:
        ValueError: submitit or Slurm is missing, or Slurm rejects a job.
    """
    assert options.launcher in ("torchrun", "slurm")
    if options.launcher == "torchrun":
        return [_run_here(job, options.nproc, log) for job in jobs]
    cluster = SlurmCluster(options, log)
    for job in jobs:
        cluster.submit(job)
    if not options.wait:
        return [0] * len(jobs)
    cluster.wait()
    return [0 if job.checkpoint.is_file() else 1 for job in jobs]


# -- on this machine --------------------------------------------------------------------------------------------------


def _run_here(job: TrainingJob, processes: int, log: Log) -> int:
    command = [sys.executable, "-m", "mcir.launch"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    command += ["mcir.train", *job.arguments]
    log(f"{job.name}: {shlex.join(command)}")
    child = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 (our own module)
    try:
        status = child.wait()
    except KeyboardInterrupt:  # the child gets it from the terminal, too, and saves
        child.wait()
        raise
    finally:
        assert child.stdin is not None
        child.stdin.close()
    if status:
        ended = str(job.collapse or f"the training ended with status {status}, see above")
        log(f"{job.name}: {ended}; {job.next_start()}.")
    return status


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


# -- on a cluster -----------------------------------------------------------------------------------------------------


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
        self._tasks = options.nproc // int(options.slurm.get("nodes", 1))
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
            "ntasks_per_node": self._tasks,
            "srun_args": ["--kill-on-bad-exit=1"],  # otherwise the other tasks wait for a task that failed
            "additional_parameters": {"requeue": True},
        }
        if job.options.num_gpu not in (0, "cpu") and "gres" not in parameters:
            parameters.setdefault("gpus_per_node", self._tasks)
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
        command = [sys.executable, "-m", "mcir.launch", "mcir.train", *self.arguments]
        if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" and "--auto_resume" not in command:
            command.append("--auto_resume")
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 (our own module)
        status = self._child.wait()
        assert self._child.stdin is not None
        self._child.stdin.close()
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


if __name__ == "__main__":
    _run_child()
