"""Seeds of the global random generators, as a function of the iteration."""

import random

import numpy as np
import torch


def seed_iteration(seed: int, rank: int, iteration: int, device: torch.device) -> None:
    """Seed the generators of Python, NumPy and torch for one iteration.

    All randomness of a step (dropout, stochastic depth, code of others) then depends on these numbers alone, so that a
    resumed run equals an uninterrupted one without storing the states of the generators. This takes about 20 µs.

    Args:
        seed: the seed of the run.
        rank: the index of this process.
        iteration: the iteration; 0 before the first step.
        device: the device of the network.
    """
    value = int(np.random.SeedSequence((seed, rank, iteration)).generate_state(1, np.uint64)[0])
    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002 (third-party code may use the global generator)
    torch.default_generator.manual_seed(value)  # torch.manual_seed visits every backend, which takes 200 µs
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)
