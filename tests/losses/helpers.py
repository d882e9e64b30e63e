"""Inputs for tests of losses, and measurements of losses."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def stacks(negatives: int, positives: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Return a random output (2, 3, 12, 10), negatives (N, 2, 3, 12, 10) and positives (P, 2, 3, 12, 10)."""
    generator = torch.Generator().manual_seed(7)
    images = torch.rand(1 + negatives + positives, 2, 3, 12, 10, dtype=dtype, generator=generator)
    return images[0], images[1 : 1 + negatives], images[1 + negatives :]


def value_and_grad(function: Callable[..., Tensor], output: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    """Return the value of a loss and its gradient with respect to the output."""
    leaf = output.clone().requires_grad_()
    value = function(leaf, *others)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def saved_bytes(function: Callable[[], Tensor]) -> int:
    """Return the size in bytes of the tensors that autograd saves for the backward pass, without 3×3 kernels."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.shape[-2:] != (3, 3):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        assert function().requires_grad
    return sum(sizes.values())
