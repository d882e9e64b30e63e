"""The memory of tensors that exist at the same time."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context that measures the memory of the tensors that operations return. It also works on the meta device.

    Libraries copy the arguments and results of a convolution to another memory layout, so it counts these twice. Other
    memory inside operations is not included.

    Args:
        existing: tensors that are not counted, such as weights.

    Attributes:
        peak: largest number of bytes at the same time.
    """

    def __init__(self, existing: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._live = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in existing}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the memory of its results."""
        result = func(*args, **(kwargs or {}))
        results = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        for value in results:
            self._add(value.untyped_storage())
        if func in _CONVOLUTIONS:
            arguments = [value for value in tree_leaves(args) if isinstance(value, Tensor)]
            self.peak = max(self.peak, self._live + sum(value.nbytes for value in (*arguments, *results)))
        return result

    def _add(self, storage: UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        size = storage.nbytes()
        self._known.add(storage._cdata)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._remove, storage._cdata, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size
