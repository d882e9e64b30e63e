"""How much memory there is, how much a network takes, and what the end of it looks like."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WHOLE_ON_CPU = 2**30
"""Bytes that a whole picture may take on a processor: tiles change what networks that look at all of it make of it."""

TILE_ON_CPU = 2**28
"""Bytes that a tile of a larger picture takes on a processor: with more, the system spends the time that the network
does not (measured)."""

SHARE_OF_CPU = 0.5
"""Part of the memory available to a processor that restoring takes at most: other processes are there, too."""

SHARE_OF_GPU = 0.7
"""Part of the free memory of a GPU that tensors may take: the rest is for what its libraries work in, and gaps."""

_NO_MEMORY = re.compile(
    r"out of memory|DefaultCPUAllocator: |can't allocate memory|bad_alloc|(CUDNN|CUBLAS)_STATUS_ALLOC_FAILED"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that memory ran out; there is no one class of them."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None


def budget(device: torch.device) -> tuple[float, float]:
    """Return how many bytes a whole picture may take on a device now, and how many a tile of a larger one."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (SHARE_OF_GPU * (free + unused),) * 2
    left = SHARE_OF_CPU * available()
    return min(WHOLE_ON_CPU, left), min(TILE_ON_CPU, left)


def available(root: Path = Path("/")) -> float:
    """Return how many bytes this machine, or the control group that the process is in, has left; infinity if unknown.

    Args:
        root: where the system's files lie.
    """
    left = [float("inf")]
    if found := re.search(r"^MemAvailable:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE):
        left.append(1024 * float(found[1]))
    group = re.search(r"^0::/(.*)$", _text(root / "proc/self/cgroup"), re.MULTILINE)
    unified, memory = root / "sys/fs/cgroup", root / "sys/fs/cgroup/memory"
    for folder, most, now in (
        (unified / (group[1] if group else ""), "memory.max", "memory.current"),
        (unified, "memory.max", "memory.current"),
        (memory, "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit, used = _text(folder / most).strip(), _text(folder / now).strip()
        if limit.isdecimal() and used.isdecimal():
            left.append(max(float(limit) - float(used), 0.0))
    return min(left)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, counts the memory of all tensors that are made, on every device.

    What an operator takes and gives back while it runs is not seen.

    Attributes:
        live: bytes of the tensors that are there now.
        peak: the most that were there at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here; to say how it should be would load PyTorch's compiler, which takes 160 MB."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._meet((args, kwargs), counts=False)
        made = func(*args, **(kwargs or {}))
        self._meet(made, counts=True)
        return made

    def _meet(self, tensors: Any, counts: bool) -> None:
        """Count the memory of tensors that was not met before, or only remember that it is not new."""
        storages = (each.untyped_storage() for each in tree_leaves(tensors) if isinstance(each, Tensor))
        for storage in storages:
            name, size = storage._cdata, storage.nbytes() if counts else 0
            if name in self._known:
                continue
            self._known.add(name)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, name, size)

    def _forget(self, name: int, size: int) -> None:
        self._known.discard(name)
        self.live -= size


def cost(restore: Callable[[Tensor], object], images: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Return the bytes that restoring takes: those that it always takes, and those for each pixel of the input.

    Args:
        restore: the network.
        images: two batches (B, C, H, W) of different sizes; the memory is taken to grow evenly from one to the other.
    """
    sizes, peaks = [], []
    for image in images:
        with LiveBytes() as counted:
            restore(image)
        sizes.append(image[:, 0].numel())
        peaks.append(counted.peak)
    per_pixel = max((peaks[1] - peaks[0]) / (sizes[1] - sizes[0]), 1.0)
    return max(peaks[0] - per_pixel * sizes[0], 0.0), per_pixel
