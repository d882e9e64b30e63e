"""One training in several processes, started by torchrun's launcher in this process."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Sequence

from mcir.device import cpu_count
from mcir.launch.local import child_arguments
from mcir.launch.options import LaunchOptions
from mcir.terminal import show_error

_SHUTDOWN_S = "600"
"""Time in seconds in which a process that was stopped can save a checkpoint; torch's own default is 30."""
_REPORTED = ("multiprocessing.api", "agent.server.api")
"""Modules of torch's launcher whose messages repeat what the processes report themselves."""


def run_processes(arguments: Sequence[str], options: LaunchOptions) -> int:
    """Train in several processes and return the exit status of ``mcir train``.

    A process that fails reports its own error, so torch's messages about it are not shown.

    Args:
        arguments: arguments of ``mcir train`` for each process.
        options: number of processes and machines.

    Raises:
        ValueError: the other machines cannot be reached.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _SHUTDOWN_S)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // options.nproc_per_node)))
    for module in _REPORTED:
        logging.getLogger(f"torch.distributed.elastic.{module}").setLevel(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(prefix="mcir-") as logs:
            command = ["--log_dir", logs, *_torchrun_arguments(options), *child_arguments(arguments)]
            run.run(run.parse_args(command))  # type: ignore[no-untyped-call]
    except SignalException as error:
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return int(failure.exitcode)
        number = signal.Signals(-failure.exitcode)
        memory = " The machine may have run out of memory." if number.name == "SIGKILL" else ""
        show_error(f"mcir: process {failure.pid} of rank {rank} was ended by {number.name}.{memory}")
        return 128 + number
    except RendezvousError as error:
        machines = f"{options.nnodes} machines at --rdzv_endpoint {options.rdzv_endpoint}"
        raise ValueError(f"Expected {machines}, but they could not connect: {error}") from None
    return 0


def _torchrun_arguments(options: LaunchOptions) -> list[str]:
    count = ["--nnodes", str(options.nnodes), "--nproc_per_node", str(options.nproc_per_node)]
    restarts = ["--max_restarts", str(options.max_restarts)]
    if options.rdzv_endpoint is None:
        return ["--standalone", *count, *restarts]
    return ["--rdzv_backend", "c10d", "--rdzv_id", "mcir", "--rdzv_endpoint", options.rdzv_endpoint, *count, *restarts]
