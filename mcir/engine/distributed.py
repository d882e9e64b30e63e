"""The processes of a run: rank and device, and collective operations.

If there is only one process, collective operations return their arguments.
"""

import datetime
import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from mcir.config import DistOptions
from mcir.device import best_device, resolve_device
from mcir.parent import end_with_parent

_LOG = logging.getLogger("mcir")

_STOP, _FAILURES = "stop", "failures"
"""Keys in the store of all processes."""

T = TypeVar("T")


class OtherProcessFailedError(Exception):
    """Another process of the run has failed, and reports its error."""


@dataclass(frozen=True)
class DistContext:
    """Rank and device of this process, and the :class:`~mcir.communicator.Communicator` between all processes.

    Attributes:
        rank: index of this process.
        world_size: number of processes.
        device: device of this process.
        find_unused_parameters: whether DistributedDataParallel has to look for parameters without gradient.
        store: key-value store of all processes. None: there is only one process.
    """

    rank: int
    world_size: int
    device: torch.device
    find_unused_parameters: bool = False
    store: Any = field(default=None, repr=False)

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is rank 0, which writes files and logs."""
        return self.rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return a network whose backward pass averages gradients over the processes."""
        if self.world_size == 1:
            return network
        with warnings.catch_warnings():  # the argument that replaces broadcast_buffers is not in older versions
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(
                network,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                find_unused_parameters=self.find_unused_parameters,
                broadcast_buffers=False,  # the model averages running statistics; other buffers never change
            )

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over the processes."""
        if self.world_size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.world_size

    def all_gather(self, value: Tensor) -> Tensor:
        """Return the concatenated tensors of all processes; see :class:`~mcir.communicator.Communicator`."""
        if self.world_size == 1:
            return value
        result: Tensor = _AllGather.apply(value, self.rank, self.world_size)
        return result

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, ordered by rank. They must be picklable."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def gather_results(self, function: Callable[[], T]) -> list[T]:
        """Run a function in all processes, and return its values, ordered by rank.

        Raises:
            OtherProcessFailedError: the function failed in another process. Its own error is raised in that process.
        """
        if self.world_size == 1:
            return [function()]
        failure, value = None, None
        try:
            value = function()
        except Exception as error:
            failure = error
            self.request_stop()
        results = self.gather((failure is None, value))
        if failure is not None:
            raise failure
        if not all(succeeded for succeeded, _ in results):
            raise OtherProcessFailedError
        return [value for _, value in results]

    def request_stop(self) -> None:
        """Let :meth:`is_stop_requested` return true in all processes."""
        if self.store is not None:
            self.store.set(_STOP, "")

    def is_stop_requested(self) -> bool:
        """Return whether a process has called :meth:`request_stop`."""
        try:
            return self.store is not None and bool(self.store.check([_STOP]))
        except (RuntimeError, OSError):  # the process that has the store has ended
            return True

    def is_first_failure(self) -> bool:
        """Return whether this process is the first that fails. The errors of the others are usually consequences."""
        if self.store is None:
            return True
        try:
            return bool(self.store.add(_FAILURES, 1) == 1)
        except (RuntimeError, OSError):  # the process that has the store has ended
            return False

    def barrier(self) -> None:
        """Wait until all processes call this method."""
        if self.world_size > 1:
            dist.barrier()

    @contextmanager
    def rank_zero_first(self) -> Iterator[None]:
        """Run the body on rank 0 before the other ranks, for example to download a file for all of them.

        Raises:
            OtherProcessFailedError: on the other ranks, if the body failed on rank 0, which reports the error.
        """
        if not self.is_rank_zero and not self._broadcast(False):
            raise OtherProcessFailedError
        try:
            yield
        except BaseException:
            if self.is_rank_zero:
                self._broadcast(False)
            raise
        if self.is_rank_zero:
            self._broadcast(True)

    def _broadcast(self, value: bool) -> bool:
        """Return the value of rank 0 in all processes."""
        if self.world_size == 1:
            return value
        flag = torch.tensor(value)
        dist.broadcast(flag, src=0)
        return bool(flag)

    def require_equal(self, what: str, checksum: Callable[[], float]) -> None:
        """Check that all processes have the same checksum.

        Args:
            what: name of the compared state, in the plural, for the message.
            checksum: function that computes the checksum. It is not called if there is only one process.

        Raises:
            RuntimeError: the checksums differ.
        """
        if self.world_size == 1:
            return
        checksums = self.gather(checksum())
        if len(set(checksums)) > 1:
            raise RuntimeError(f"The {what} differ between the processes (checksums by rank: {checksums}).")


class _AllGather(torch.autograd.Function):
    """Concatenate the tensors of all processes. The gradient of a tensor is the sum over all processes."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, rank: int, world_size: int) -> Tensor:
        ctx.own = slice(rank * len(value), (rank + 1) * len(value))
        value = value.contiguous()
        values = [torch.empty_like(value) for _ in range(world_size)]
        dist.all_gather(values, value)
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.own], None, None


@contextmanager
def init_distributed(num_gpu: int | str, options: DistOptions) -> Iterator[DistContext]:
    """Join the process group of torchrun, if torchrun started this process, and leave it at the end.

    Args:
        num_gpu: option ``num_gpu``: ``auto``, ``cpu``, ``cuda``, ``mps``, or a number of GPUs (0: CPU).
        options: section ``dist_params`` of the option file.

    Raises:
        ValueError: the device is not available, or this machine has fewer GPUs than processes.
        OtherProcessFailedError: the block failed after another process had failed.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = _device(num_gpu, rank, world_size)
    store = None
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun started this process
        end_with_parent(os.getppid(), signal.SIGTERM)
    if world_size > 1:
        # tensors on the CPU, like flags, use gloo; gradients use the backend of their device
        on_gpu = device.type == "cuda" and options.backend != "gloo"
        timeout = datetime.timedelta(minutes=options.timeout_minutes)
        # after a restart, torchrun's store still has the addresses of dead processes, so each start uses its own prefix
        shared, _, _ = next(rendezvous("env://", timeout=timeout))
        prefix = f"restart_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        store = dist.PrefixStore(prefix, shared)  # type: ignore[attr-defined]
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            timeout=timeout,
            store=store,
            rank=rank,
            world_size=world_size,
        )
    context = DistContext(rank, world_size, device, options.find_unused_parameters, store)
    try:
        yield context
        context.barrier()  # a process that leaves earlier closes connections that other processes still use
    except Exception as error:
        if context.is_first_failure():
            raise
        raise OtherProcessFailedError from error
    finally:
        if world_size > 1:
            dist.destroy_process_group()


def _device(num_gpu: int | str, rank: int, world_size: int) -> torch.device:
    """Return the device of this process."""
    if isinstance(num_gpu, int):
        if rank == 0 and num_gpu:
            _warn_about_gpus(num_gpu, world_size)
        device = torch.device("cuda" if num_gpu and torch.cuda.is_available() else "cpu")
    else:
        device = best_device() if num_gpu == "auto" else resolve_device(num_gpu, "num_gpu")
    if device.type == "mps" and world_size > 1:
        raise ValueError(f"num_gpu: MPS supports one process, got {world_size}.")
    if device.type != "cuda":
        return device
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"Expected at most one process per GPU, got {os.environ.get('LOCAL_WORLD_SIZE', world_size)} processes for "
            f"{torch.cuda.device_count()} GPUs. Start fewer processes, or set 'num_gpu: cpu'."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _warn_about_gpus(num_gpu: int, world_size: int) -> None:
    """Log a warning if there is no GPU, or if the number of processes differs from ``num_gpu``."""
    if not torch.cuda.is_available():
        _LOG.warning("num_gpu is %d, but no GPU is available: training on the CPU.", num_gpu)
    elif num_gpu != world_size:
        _LOG.warning(
            "num_gpu is %d, but there are %d processes: the total batch size is %d × batch_size_per_gpu.",
            num_gpu,
            world_size,
            world_size,
        )
