"""Determine the memory budget of a device, and measure the memory that a network uses per pixel."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mcir.device import memory_available

# Bytes on a CPU. Tiles change the result of networks with global context, but large tiles are slower than small ones.
WHOLE_ON_CPU, TILE_ON_CPU = 2**30, 2**28

# Largest fractions of the free memory; the rest is for other processes, libraries and fragmentation.
CPU_FRACTION, GPU_FRACTION = 0.5, 0.7


def budget(device: torch.device) -> tuple[float, float]:
    """Return the bytes that a whole image may use on a device now, and the bytes that a tile may use."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (GPU_FRACTION * (free + unused),) * 2
    limit = CPU_FRACTION * memory_available()
    return min(WHOLE_ON_CPU, limit), min(TILE_ON_CPU, limit)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the memory of all tensors that are created while the mode is active, on any device.

    Memory that an operator frees before it returns is not counted.

    Attributes:
        live: bytes of the tensors that exist.
        peak: largest value of ``live``.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Prevent an import of the compiler, which takes 160 MB."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._register((args, kwargs), is_new=False)
        result = func(*args, **(kwargs or {}))
        self._register(result, is_new=True)
        return result

    def _register(self, tensors: Any, is_new: bool) -> None:
        for tensor in tree_leaves(tensors):
            if not isinstance(tensor, Tensor) or (key := tensor.untyped_storage()._cdata) in self._known:
                continue
            storage = tensor.untyped_storage()
            size = storage.nbytes() if is_new else 0
            self._known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def memory_cost(restore: Callable[[Tensor], object], images: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Return the bytes that a network always uses, and the bytes that it uses per pixel of the input.

    Both are measured with two batches (B, C, H, W) of different sizes, assuming that memory grows linearly.
    """
    sizes, peaks = [], []
    for image in images:
        with LiveBytes() as counted:
            restore(image)
        sizes.append(image[:, 0].numel())
        peaks.append(counted.peak)
    per_pixel = max((peaks[1] - peaks[0]) / (sizes[1] - sizes[0]), 1.0)
    return max(peaks[0] - per_pixel * sizes[0], 0.0), per_pixel
