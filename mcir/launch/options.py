"""The launcher of a training and its options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mcir.errors import suggestion

Launcher: TypeAlias = Literal["none", "pytorch", "torchrun", "slurm"]
"""``none`` and ``pytorch`` train in the calling process; BasicSR uses ``pytorch`` for processes started by torchrun."""

_NUMBERS = "cpus_per_task gpus_per_node signal_delay_s time"
_TEXTS = "account constraint exclude gres mail_type mail_user mem mem_per_cpu mem_per_gpu nodelist partition qos wckey"
SLURM_PARAMETERS: dict[str, type] = {**dict.fromkeys(_NUMBERS.split(), int), **dict.fromkeys(_TEXTS.split(), str)}
"""Keys of ``--slurm KEY=VALUE`` and the types of their values. All are options of ``sbatch``, with ``time`` in minutes,
except ``signal_delay_s``: number of seconds before the time limit at which a training saves a checkpoint and stops."""


@dataclass(frozen=True)
class LaunchOptions:
    """The launcher and its options.

    Attributes:
        launcher: ``torchrun`` (on this machine, one training after another) or ``slurm`` (one job per training).
        nproc_per_node: number of processes of a training on each machine.
        nnodes: number of machines of a training.
        slurm: Slurm options by key; see ``SLURM_PARAMETERS``.
        wait: whether to wait until the Slurm jobs have ended.
        logs: folder for the logs of the jobs.
        rdzv_endpoint: ``host:port`` of one of the machines, where the others connect. None: there is only one machine.
        max_restarts: number of times that torchrun starts the processes again after one of them failed.

    Raises:
        ValueError: the options are not consistent.
    """

    launcher: Launcher = "none"
    nproc_per_node: int = 1
    nnodes: int = 1
    slurm: Mapping[str, int | str] = field(default_factory=dict)
    wait: bool = True
    logs: Path = Path("results/slurm")
    rdzv_endpoint: str | None = None
    max_restarts: int = 0

    def __post_init__(self) -> None:
        """Check that the options are consistent."""
        for name, least in (("nproc_per_node", 1), ("nnodes", 1), ("max_restarts", 0)):
            if (number := getattr(self, name)) < least:
                raise ValueError(f"--{name}: expected at least {least}, got {number}.")
        if self.launcher != "slurm" and (self.slurm or not self.wait):
            raise ValueError("--slurm and --no-wait require --launcher slurm.")
        if self.launcher == "slurm" and (self.rdzv_endpoint or self.max_restarts):
            raise ValueError("--rdzv_endpoint and --max_restarts do not apply to --launcher slurm: Slurm does both.")
        if self.launcher != "slurm" and self.nnodes > 1 and self.rdzv_endpoint is None:
            raise ValueError("--nnodes: several machines require --rdzv_endpoint HOST:PORT, or --launcher slurm.")

    @classmethod
    def from_arguments(cls, arguments: Any, **others: Any) -> LaunchOptions:
        """Return the options for parsed :class:`~mcir.arguments.LaunchArguments`.

        Raises:
            ValueError: the arguments are not consistent, or this machine has no GPU to count.
        """
        slurm = read_slurm_parameters(arguments.slurm)
        processes = arguments.nproc_per_node if arguments.nproc_per_node != "gpu" else _number_of_gpus()
        numbers = (processes, arguments.nnodes)
        return cls(arguments.launcher, *numbers, slurm, not arguments.no_wait, **others)


def _number_of_gpus() -> int:
    import torch

    if not (number := torch.cuda.device_count()):
        raise ValueError("--nproc_per_node gpu: this machine has no CUDA GPU. Give the number of processes.")
    return number


def read_slurm_parameters(texts: Sequence[str]) -> dict[str, int | str]:
    """Parse the values of ``--slurm``.

    Raises:
        ValueError: a key is unknown, or a value is not an integer although its key requires one.
    """
    found: dict[str, int | str] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key == "nodes":
            raise ValueError(f"--slurm {text}: the number of machines is set with --nnodes.")
        if not value or key not in SLURM_PARAMETERS:
            near = suggestion(key, SLURM_PARAMETERS)
            raise ValueError(f"--slurm: expected KEY=VALUE, got '{text}'.{near} Keys: {', '.join(SLURM_PARAMETERS)}.")
        if SLURM_PARAMETERS[key] is int and not re.fullmatch(r"\d+", value):
            unit = " of minutes" if key == "time" else ""
            raise ValueError(f"--slurm {key}: expected a whole number{unit}, got '{value}'.")
        found[key] = SLURM_PARAMETERS[key](value)
    return found
