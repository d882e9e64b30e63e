"""The interface of all kinds of negatives, and what they share: seeds, random generators, new networks."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mcir.communicator import DistributedModule
from mcir.registry import ArgumentError, config_of

N = TypeVar("N", bound=nn.Module)


class Negatives(DistributedModule, ABC):
    """Base class of the kinds of negatives: N images for each image of a batch, without gradient.

    The whole state is in ``state_dict``, and the module is always in evaluation mode. Random values depend only on a
    seed and the iteration, so they are equal in every process and in a resumed run. A kind whose state depends on the
    batch uses its ``communicator`` to stay equal in all processes.
    """

    @abstractmethod
    def forward(self, lq: Tensor, gt: Tensor, stored: Tensor | None = None) -> Tensor:
        """Return the negatives (N, B, C, sH, sW) of a batch, without graph.

        Args:
            lq: degraded images (B, C, H, W) in [0, 1].
            gt: ground truths (B, C, sH, sW).
            stored: negatives (B, K, C, sH, sW) from the data set, if it has any (``dataroot_negatives``).
        """

    def positives(self, gt: Tensor) -> list[Tensor]:
        """Return the images (B, C, sH, sW) that the output should be close to. The first is ``gt`` itself."""
        return [gt]

    def start_from(self, network: nn.Module) -> None:
        """Restart from a network whose weights were just loaded; here nothing depends on the network."""

    def update(self, network: nn.Module, iteration: int, output: Tensor, gt: Tensor) -> None:
        """Update the negatives after the optimizer's step.

        Args:
            network: network in training.
            iteration: 1-based iteration of the step.
            output: the network's output in this step, (B, C, sH, sW).
            gt: ground truths (B, C, sH, sW).
        """

    def train(self, mode: bool = True) -> "Negatives":
        """Stay in evaluation mode."""
        return super().train(False)


class StepCounter(nn.Module):
    """The iteration of the current step, as a state on the host, so that no step waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.iteration = 1

    def get_extra_state(self) -> Tensor:
        """Return the iteration for the state dict."""
        return torch.tensor(self.iteration)

    def set_extra_state(self, state: Tensor) -> None:
        """Load the iteration from a state dict."""
        self.iteration = int(state)


def generator(seed: int, iteration: int, number: int = 0) -> np.random.Generator:
    """Return the random generator of an iteration, independent of the seeds of :func:`child_seed`."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number, iteration)))


def child_seed(seed: int, number: int) -> int:
    """Return the seed of one of several members, independent of ``seed`` and of the other members."""
    return int(np.random.SeedSequence(seed, spawn_key=(number,)).generate_state(1)[0])


def check_fraction(name: str, value: float) -> None:
    """Check that an argument is a fraction.

    Raises:
        ArgumentError: the value is not in [0, 1].
    """
    if not 0 <= value <= 1:
        raise ArgumentError(name, f"expected a number in [0, 1], got {value}.")


def build_seeded(seed: int, build: Callable[[], nn.Module], like: nn.Module) -> nn.Module:
    """Build a module with seeded weights, on the device and in the dtype of ``like``.

    The global random generators do not change.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build()
    return to_like(module, like)


def fresh_builder(network: nn.Module) -> Callable[[], nn.Module]:
    """Return a function that builds the architecture of a network with new weights.

    Raises:
        ValueError: the class of the network is not registered, so its arguments are not known.
    """
    config = config_of(network)
    if config is None:
        raise ValueError(
            f"A random network like {type(network).__name__} cannot be built, because the class is not registered: "
            "decorate it with @ARCHS.register(), or set 'start: 0'."
        )
    return lambda: type(network)(**config.arguments)


def to_like(module: N, like: nn.Module) -> N:
    """Move a module to the device and the floating-point dtype of another one, and return it."""
    reference = next(like.parameters())
    return module.to(device=reference.device, dtype=reference.dtype)
