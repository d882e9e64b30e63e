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

_NUMBERS = "cpus_per_task gpus_per_node nodes signal_delay_s time"
_TEXTS = "account constraint exclude gres mail_type mail_user mem mem_per_cpu mem_per_gpu nodelist partition qos wckey"
SLURM_PARAMETERS: dict[str, type] = {**dict.fromkeys(_NUMBERS.split(), int), **dict.fromkeys(_TEXTS.split(), str)}
"""Keys of ``--slurm KEY=VALUE`` and the types of their values. All are options of ``sbatch``, with ``time`` in minutes,
except ``signal_delay_s``: number of seconds before the time limit at which a training saves a checkpoint and stops."""


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
