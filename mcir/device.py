"""Devices, CPU cores and memory of this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import psutil
import torch

DeviceKind: TypeAlias = Literal["cpu", "cuda", "mps"]

CGROUP = Path("/sys/fs/cgroup")
"""Folder in which Linux states the memory limit of a container, which psutil does not read."""


def best_device() -> torch.device:
    """Return the first available device of: CUDA GPU, MPS (Apple silicon), CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def resolve_device(name: str, option: str = "device") -> torch.device:
    """Return the device with the given name.

    Args:
        name: name of the device, such as ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        option: name of the option that selects the device, for error messages.

    Raises:
        ValueError: the name is unknown, or the device is not available on this machine.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in get_args(DeviceKind):
        raise ValueError(f"{option}: expected {', '.join(get_args(DeviceKind))} or a GPU such as cuda:1, got '{name}'.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"{option}: '{name}' is not available: this machine has {torch.cuda.device_count()} CUDA GPUs."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"{option}: '{name}' is not available: it requires macOS on Apple silicon.")
    return device


def device_kind(num_gpu: int | str) -> str:
    """Return the type of the device that the option ``num_gpu`` selects on this machine: cpu, cuda or mps."""
    if isinstance(num_gpu, int):
        return "cuda" if num_gpu and torch.cuda.is_available() else "cpu"
    return best_device().type if num_gpu == "auto" else num_gpu


def cpu_count() -> int:
    """Return the number of CPU cores that this process may use."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):  # not on macOS
        return len(process.cpu_affinity() or ()) or 1
    return os.cpu_count() or 1


def memory_used() -> int:
    """Return the memory in use in bytes: the peak on a CUDA GPU, or the current memory on MPS or of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if torch.backends.mps.is_available():
        return torch.mps.current_allocated_memory()
    return process_memory()


def process_memory() -> int:
    """Return how many bytes of main memory this process uses."""
    return int(psutil.Process().memory_info().rss)


def memory_available() -> int:
    """Return how many bytes of main memory this process can still use."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no container, or no limit ("max")
        return free
    return min(free, max(limit - used, 0))
