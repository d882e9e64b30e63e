"""The device to compute on, and what the machine offers to this process."""

from __future__ import annotations

import os
from typing import Literal, TypeAlias, get_args

import psutil
import torch

DeviceKind: TypeAlias = Literal["cpu", "cuda", "mps"]


def best_device() -> torch.device:
    """Return the first GPU (CUDA, then Apple's MPS), or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def resolve_device(name: str) -> torch.device:
    """Return the device of a name such as ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        ValueError: the name is not one of a device, or the device is not available on this machine.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in get_args(DeviceKind):
        raise ValueError(f"device: expected {', '.join(get_args(DeviceKind))} or a GPU such as cuda:1, got '{name}'.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: '{name}' is not available: this machine has {torch.cuda.device_count()} CUDA GPUs.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device: '{name}' is not available: it needs macOS on Apple silicon.")
    return device


def cpu_count() -> int:
    """Return the number of CPU cores that this process may use."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):  # macOS has no affinities
        return len(process.cpu_affinity() or ()) or 1
    return os.cpu_count() or 1


def memory_used() -> int:
    """Return the peak memory of the tensors on the GPU, or the resident memory of this process on the CPU, in bytes."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return int(psutil.Process().memory_info().rss)
