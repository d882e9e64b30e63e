"""Several processes, one run: who am I, what do the others say, and when do we all stop.

Alone (started without torchrun, or with one process) every function here is the identity.
"""

import datetime
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from mcir.config import DistOptions

_LOG = logging.getLogger("mcir")


@dataclass(frozen=True)
class DistContext:
    """This process among those of the run."""

    rank: int
    world_size: int
    device: torch.device
    find_unused_parameters: bool = False

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is rank 0, which writes files and speaks."""
        return self.rank == 0

    # -- joint arithmetic -----------------------------------------------------------------------------------------

    def wrap(self, network: nn.Module) -> nn.Module:
        """Make the network average its gradients over the processes."""
        if self.world_size == 1:
            return network
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            network,
            device_ids=devices,
            find_unused_parameters=self.find_unused_parameters,
            broadcast_buffers=False,  # the model keeps statistics equal; masks and tables never change
        )

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over the processes."""
        if self.world_size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.world_size

    def concatenated(self, value: Tensor) -> Tensor:
        """Return the tensors (B, …) of all processes as one; see :class:`~mcir.communicator.Communicator`."""
        if self.world_size == 1:
            return value
        together: Tensor = _Concatenated.apply(value, self.rank, self.world_size)
        return together

    def gather(self, value: Any) -> list[Any]:
        """Return the picklable values of all processes in the order of their ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for the others."""
        if self.world_size > 1:
            dist.barrier()

    @contextmanager
    def rank_zero_first(self) -> Iterator[None]:
        """Let rank 0 do the work (a download, say) before the others, who then find it done.

        Raises:
            SystemExit: in the others, when rank 0 failed; it says why.
        """
        if not self.is_rank_zero and not self._from_rank_zero(False):
            raise SystemExit(1)
        try:
            yield
        except BaseException:
            if self.is_rank_zero:
                self._from_rank_zero(False)
            raise
        if self.is_rank_zero:
            self._from_rank_zero(True)

    def _from_rank_zero(self, value: bool) -> bool:
        """Return rank 0's value."""
        if self.world_size > 1:
            said = torch.tensor(value)
            dist.broadcast(said, src=0)
            return bool(said)
        return value

    def require_equal(self, what: str, fingerprint: Callable[[], float]) -> None:
        """Check that something is the same in every process.

        Raises:
            RuntimeError: it is not; the message shows the fingerprint of each rank.
        """
        if self.world_size == 1:
            return
        prints = self.gather(fingerprint())
        if len(set(prints)) > 1:
            raise RuntimeError(f"The {what} differ between the processes (checksums by rank: {prints}).")


class _Concatenated(torch.autograd.Function):
    """The tensors of all processes along the first axis; each gets the sum of all gradients of its own."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, rank: int, world_size: int) -> Tensor:
        ctx.share = slice(rank * len(value), (rank + 1) * len(value))
        value = value.contiguous()
        shares = [torch.empty_like(value) for _ in range(world_size)]
        dist.all_gather(shares, value)
        return torch.cat(shares)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.share], None, None


@contextmanager
def init_distributed(num_gpu: int | str, options: DistOptions) -> Iterator[DistContext]:
    """Join the processes that torchrun started, or be alone; leave the group at the end.

    Args:
        num_gpu: 0 for the CPU; otherwise a GPU for each process where there are any.
        options: the section ``dist_params``.

    Raises:
        ValueError: more processes on this machine than GPUs.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if rank == 0 and isinstance(num_gpu, int) and num_gpu:
        _notice_other_machine(num_gpu, world_size)
    device = torch.device("cpu")
    if num_gpu != 0 and torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"{os.environ.get('LOCAL_WORLD_SIZE', world_size)} processes were started here, but there are "
                f"{torch.cuda.device_count()} GPUs: start one process per GPU, or set 'num_gpu: 0' for the CPU."
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if world_size > 1:
        # CPU tensors (flags, results) always travel by gloo; gradients by the backend of their device
        on_gpu = device.type == "cuda" and options.backend != "gloo"
        timeout = datetime.timedelta(minutes=options.timeout_minutes)
        # torchrun's store outlives a restart, and with it the addresses of processes that are gone: so one shelf a life
        store, _, _ = next(rendezvous("env://", timeout=timeout))
        store = dist.PrefixStore(  # type: ignore[attr-defined]
            f"life_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store
        )
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            timeout=timeout,
            store=store,
            rank=rank,
            world_size=world_size,
        )
    process = DistContext(rank, world_size, device, options.find_unused_parameters)
    try:
        yield process
        process.barrier()  # a process that leaves while another still works would take its connections along
    finally:
        if world_size > 1:
            dist.destroy_process_group()


def _notice_other_machine(num_gpu: int, world_size: int) -> None:
    """Say when an option file counts on other GPUs than are used: the whole batch differs then."""
    if not torch.cuda.is_available():
        _LOG.warning("num_gpu is %d, but there is no GPU here: %d processes on the CPU.", num_gpu, world_size)
    elif num_gpu != world_size:
        _LOG.warning(
            "num_gpu is %d, but torchrun started %d processes: the whole batch is %d × batch_size_per_gpu.",
            num_gpu,
            world_size,
            world_size,
        )


class StopRequest:
    """SIGTERM or SIGINT, as a question that the training loop asks after each iteration.

    Several processes get the signal at different iterations, but must stop at the same one. So each tells the others in
    every iteration, and reads what they said in the one before: nobody waits.
    """

    def __init__(self, process: DistContext) -> None:
        self.process = process
        self.signal = 0
        self._pending: tuple[Any, Tensor] | None = None
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal:  # asked twice: at once
            raise SystemExit(128 + number)
        self.signal = number

    def agreed(self) -> int:
        """Return the number of the signal that stops the run now, or 0; the same in every process."""
        agreed = self.signal
        if self.process.world_size > 1:
            agreed = 0
            if self._pending is not None:
                work, said = self._pending
                work.wait()
                agreed = int(said)
            said = torch.tensor(self.signal)
            self._pending = (dist.all_reduce(said, op=dist.ReduceOp.MAX, async_op=True), said)
        return agreed

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        if self._pending is not None:
            self._pending[0].wait()
            self._pending = None
        for number, handler in self._previous.items():
            signal.signal(number, handler)
