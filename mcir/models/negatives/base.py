"""What every kind of negatives has in common: its contract, its random streams, and fresh networks."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mcir.communicator import DistributedModule

N = TypeVar("N", bound=nn.Module)


class Negatives(DistributedModule, ABC):
    """What every kind of negatives offers to a model.

    A kind gives N images for each image of a batch, without gradient, and keeps its whole state in ``state_dict``. It
    is always in evaluation mode. What is random about it is a function of a seed and of the iteration alone, so it is
    the same in every process and in a run that is resumed.

    A kind whose state depends on the data asks its ``ranks``, and so stays the same in all processes.
    """

    @abstractmethod
    def forward(self, lq: Tensor, gt: Tensor, stored: Tensor | None = None) -> Tensor:
        """Return the negatives (N, B, C, sH, sW) of the images of a batch, without graph.

        Args:
            lq: degraded images (B, C, H, W) in [0, 1].
            gt: their ground truths (B, C, sH, sW).
            stored: negatives (B, K, C, sH, sW) that the data set brings, if it does (``dataroot_negatives``).
        """

    def positives(self, gt: Tensor) -> list[Tensor]:
        """Return what the output is drawn to, P images (B, C, sH, sW); the first are the ground truths ``gt``."""
        return [gt]

    def start_from(self, network: nn.Module) -> None:
        """Begin anew from ``network``, whose weights were just loaded; nothing for kinds that do not follow it."""

    def update(self, network: nn.Module, iteration: int, output: Tensor, gt: Tensor) -> None:
        """Follow ``network`` after its step of the 1-based ``iteration``, which made ``output`` for ``gt``."""

    def train(self, mode: bool = True) -> "Negatives":
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)


class Clock(nn.Module):
    """The iteration whose step is under way, as a state: what is drawn by it goes on where a checkpoint stopped.

    It is kept on the host, so that no step waits for the device to say what time it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.iteration = 1

    def get_extra_state(self) -> Tensor:
        """Return the iteration, for the state dict."""
        return torch.tensor(self.iteration)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the iteration from a state dict."""
        self.iteration = int(state)


def generator(seed: int, iteration: int, number: int = 0) -> np.random.Generator:
    """Return what a kind draws from at an iteration, in a stream apart from those of :func:`stream`."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number, iteration)))


def stream(seed: int, number: int) -> int:
    """Return a seed of its own for one member of several, apart from ``seed`` and from the others'."""
    return int(np.random.SeedSequence(seed, spawn_key=(number,)).generate_state(1)[0])


def check_fraction(name: str, share: float) -> None:
    """Check that a number is a share.

    Raises:
        ValueError: it is not in [0, 1].
    """
    if not (0 <= share <= 1 and math.isfinite(share)):
        raise ValueError(f"{name} is a share between 0 and 1, not {share}.")


def build_seeded(seed: int, build: Callable[[], nn.Module], like: nn.Module) -> nn.Module:
    """Return what ``build`` makes when torch's generator begins at ``seed``, where ``like`` is and of its type.

    The global generators are left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = build()
    return beside(like, fresh)


def another(network: nn.Module) -> Callable[[], nn.Module]:
    """Return what builds the architecture of a network anew.

    Raises:
        ValueError: the class of the network is not registered, so that a fresh one cannot be built.
    """
    arguments = getattr(network, "hyperparameters", None)
    if arguments is None:
        raise ValueError(
            f"{type(network).__name__} does not keep its arguments, so no random network of its kind can be built: "
            "register the class with @ARCHS.register(), or set 'start: 0'."
        )
    return lambda: type(network)(**arguments)


def beside(network: nn.Module, other: N) -> N:
    """Return ``other`` on the device and in the floating-point type of ``network``."""
    like = next(network.parameters())
    return other.to(device=like.device, dtype=like.dtype)
