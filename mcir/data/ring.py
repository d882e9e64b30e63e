"""How batches come from workers without new memory for each.

The usual way makes a shared file for each tensor of each batch, whose pages the kernel hands out one fault at a time:
more work than to cut the crops. Here each worker fills slots of a piece of memory in turn that it shares with the
process that forked it, which copies a batch out when it receives it. A worker has more slots than batches under way.
"""

from __future__ import annotations

import itertools
import mmap
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

_ALIGNMENT = 64
_HEADER = 64
_numbers = itertools.count()


class Layout(NamedTuple):
    """Where in a slot a tensor lies."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class Ring:
    """A collation whose batches travel through shared memory; for loaders whose workers are forked.

    Args:
        collate: returns the items as one batch whose images (…, C, H, W), all tensors of four dimensions or more, lie
            channels last in memory.
        batch_bytes: room for the tensors of one batch; a batch that needs more goes the usual way.
        num_workers: workers of the loader.
        slots: of each worker; more than the batches that a worker can have under way.
    """

    def __init__(
        self,
        collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]],
        batch_bytes: int,
        num_workers: int,
        slots: int,
    ) -> None:
        self._collate = collate
        self._slots, self._size = slots, -(-(batch_bytes + _HEADER) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = torch.frombuffer(mmap.mmap(-1, num_workers * slots * self._size), dtype=torch.uint8)
        self._filled = 0
        self._number = next(_numbers)
        _rings[self._number] = self

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> Any:
        """Return the batch of some items: in a worker as something that turns into the batch where it is received."""
        batch = self._collate(items)
        worker = get_worker_info()
        if worker is None:
            return batch
        slot = worker.id * self._slots + self._filled % self._slots
        self._filled += 1
        memory = self._memory[slot * self._size : (slot + 1) * self._size]
        layouts: dict[str, Layout] = {}
        used = _HEADER
        for key, value in batch.items():
            if isinstance(value, Tensor):
                shape = value.movedim(-3, -1).shape if value.dim() > 3 else value.shape
                layout = Layout(used, tuple(shape), value.dtype)
                used += -(-value.nbytes // _ALIGNMENT) * _ALIGNMENT
                if used > self._size:
                    return batch
                _view(memory, layout).copy_(value)
                layouts[key] = layout
        memory[:8].view(torch.int64).fill_(self._filled)
        return _Parcel(self._number, slot, self._filled, layouts, {k: v for k, v in batch.items() if k not in layouts})

    def receive(self, slot: int, filled: int, layouts: Mapping[str, Layout], rest: Mapping[str, Any]) -> dict[str, Any]:
        """Copy a batch out of its slot."""
        memory = self._memory[slot * self._size : (slot + 1) * self._size]
        batch = {key: _view(memory, layout).clone() for key, layout in layouts.items()}
        assert int(memory[:8].view(torch.int64)) == filled, "a worker filled a slot again before it was received"
        return {**batch, **rest}


_rings: weakref.WeakValueDictionary[int, Ring] = weakref.WeakValueDictionary()


class _Parcel(NamedTuple):
    """What a worker sends: pickled here, it is the batch itself when it is unpickled there."""

    ring: int
    slot: int
    filled: int
    layouts: dict[str, Layout]
    rest: dict[str, Any]

    def __reduce__(self) -> tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]:
        return _receive, tuple(self)


def _receive(ring: int, *parcel: Any) -> dict[str, Any]:
    return _rings[ring].receive(*parcel)


def _view(memory: Tensor, layout: Layout) -> Tensor:
    """Return the tensor that lies in a slot, images (…, C, H, W) channels last."""
    size = torch.Size(layout.shape).numel() * layout.dtype.itemsize
    there = memory[layout.offset : layout.offset + size].view(layout.dtype).view(layout.shape)
    return there.movedim(-1, -3) if there.dim() > 3 else there
