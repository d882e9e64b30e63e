"""The interface of all kinds of negatives, and shared functions for seeds and new networks."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mcir.communicator import DistributedModule
from mcir.errors import KeyPath
from mcir.network_call import unwrapped
from mcir.registry import config_of

N = TypeVar("N", bound=nn.Module)


class Negatives(DistributedModule, ABC):
    """Base class of all kinds of negatives: N images for each image of a batch, without gradient.

    The whole state is in ``state_dict``, and the module is always in evaluation mode. Random values depend only on a
    seed and the iteration, so they are equal in all processes and in a resumed run. If the state depends on the batch,
    the subclass uses its ``communicator`` so that the state is equal in all processes.
    """

    @property
    def follows_network(self) -> bool:
        """Whether the negatives are outputs of the past of the trained network."""
        return False

    def risky_arguments(self) -> dict[KeyPath, str]:
        """Return the key paths of arguments whose values are known to fail, with the reason. By default, none."""
        return {}

    @abstractmethod
    def forward(self, lq: Tensor, gt: Tensor | None = None, stored: Tensor | None = None) -> Tensor:
        """Return the negatives (N, B, C, sH, sW) of a batch, without graph.

        Args:
            lq: degraded images (B, C, H, W) in [0, 1].
            gt: ground truths (B, C, sH, sW), for kinds of negatives that use them.
            stored: negatives (B, K, C, sH, sW) from the data set, if it has any (``dataroot_negatives``).

        Raises:
            ValueError: ``gt`` or ``stored`` is missing, but this kind of negatives uses it.
        """

    def positives(self, gt: Tensor) -> list[Tensor]:
        """Return the target images (B, C, sH, sW) of the output. The first one is ``gt``."""
        return [gt]

    def start_from(self, network: nn.Module) -> None:
        """Restart from a network after its weights are loaded. By default, nothing is done."""

    def update_before_step(self, network: nn.Module, output: Tensor, gt: Tensor) -> None:
        """Update the negatives with the weights that computed ``output``. By default, nothing is done.

        Call this before the optimizer step, after the negatives of the batch are computed.

        Args:
            network: trained network.
            output: output of the network in this step, (B, C, sH, sW).
            gt: ground truths (B, C, sH, sW).
        """

    def update(
        self, network: nn.Module, iteration: int, output: Tensor | None = None, gt: Tensor | None = None
    ) -> None:
        """Update the negatives after an optimizer step. By default, nothing is done.

        Args:
            network: trained network.
            iteration: 1-based iteration.
            output: output of the network in this step, (B, C, sH, sW), for kinds of negatives that use it.
            gt: ground truths (B, C, sH, sW), for kinds of negatives that use them.
        """

    def train(self, mode: bool = True) -> "Negatives":
        """Stay in evaluation mode."""
        return super().train(False)


class StepCounter(nn.Module):
    """The current iteration as part of the state. It is kept on the CPU, so reading it needs no device sync."""

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
    """Return the random generator of an iteration, independent of :func:`child_seed`."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number, iteration)))


def child_seed(seed: int, number: int) -> int:
    """Return the seed of one of several members, independent of ``seed`` and of the other members."""
    return int(np.random.SeedSequence(seed, spawn_key=(number,)).generate_state(1)[0])


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
    network = unwrapped(network)
    config = config_of(network)
    if config is None:
        raise ValueError(
            f"A random network like {type(network).__name__} cannot be built, because the class is not registered. "
            "Decorate it with @ARCHS.register(), or set 'start: 0'."
        )
    return lambda: type(network)(**config.arguments)


def to_like(module: N, like: nn.Module) -> N:
    """Move a module to the device and the floating-point dtype of the module ``like``, and return it."""
    reference = next(like.parameters())
    return module.to(device=reference.device, dtype=reference.dtype)
