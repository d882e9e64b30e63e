"""Seeding of the global random generators."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


def seed_generators(key: Sequence[int], device: torch.device | None = None) -> None:
    """Seed the global generators of Python, NumPy and torch from a sequence of integers.

    The random numbers of the code that follows (dropout, stochastic depth, third-party code) then depend only on the
    key, and no generator state has to be saved. The call takes about 20 µs.

    Args:
        key: integers ≥ 0, for example the seed of the run, the rank and the iteration.
        device: device whose generator is seeded in addition to that of the CPU.
    """
    value = int(np.random.SeedSequence(tuple(key)).generate_state(1, np.uint64)[0])
    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002 (third-party code may use the global generator)
    torch.default_generator.manual_seed(value)  # torch.manual_seed seeds every backend, which takes 200 µs
    if device is not None and device.type == "cuda":
        torch.cuda.manual_seed(value)
    elif device is not None and device.type == "mps":
        torch.mps.manual_seed(value)


@contextmanager
def unchanged_generators(device: torch.device) -> Iterator[None]:
    """Restore the states of the global generators of Python, NumPy and torch after the block."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (as above)
    try:
        with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
