"""Recognize weights that are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mcir.weights.errors import WeightsError, first_names

_SHOWN = 5


def is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor contains no NaN and no infinity."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta:
        return True
    if tensor.itemsize == 1:  # float8 has no arithmetic
        tensor = tensor.float()
    # a sum takes less time than a test of each value, but may overflow
    return math.isfinite(abs(tensor.sum().item())) or bool(torch.isfinite(tensor).all())


def non_finite_keys(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the keys of tensors that contain NaN or infinity, in the order of the mapping."""
    return [key for key, tensor in tensors.items() if not is_finite(tensor)]


def require_finite(tensors: Mapping[str, Tensor]) -> None:
    """Check that weights contain no NaN and no infinity.

    Raises:
        WeightsError: some do; the message names the first ones.
    """
    if keys := non_finite_keys(tensors):
        raise WeightsError(f"{describe_non_finite(keys, len(tensors))}.")


def describe_non_finite(keys: list[str], total: int) -> str:
    """Return the number of tensors that are not finite, and the first keys, as text."""
    return f"{len(keys)} of {total} weights are not finite (NaN or infinity): {first_names(keys, _SHOWN)}"
