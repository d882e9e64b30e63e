"""Collective operations that a module can use in training: the mean over all processes, and concatenation.

A module whose value or state depends on more than its own share of the batch is a :class:`DistributedModule`. The
trainer connects it to the other processes with :func:`set_communicator`; until then it runs as a single process.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Communicator(Protocol):
    """The processes that train one model together, each with its own share of every batch."""

    @property
    def rank(self) -> int:
        """The index of this process, starting at 0."""

    @property
    def world_size(self) -> int:
        """The number of processes."""

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network with gradients that are averaged over the processes in the backward pass."""

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over the processes, without gradient."""

    def concatenated(self, value: Tensor) -> Tensor:
        """Return the tensors (B, …) of all processes as one tensor (world_size·B, …), ordered by rank.

        In the backward pass each process receives the summed gradient of its own share.
        """


class SingleProcess:
    """A training with one process: every operation is the identity."""

    rank = 0
    world_size = 1

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network."""
        return network

    def mean(self, value: Tensor) -> Tensor:
        """Return the value."""
        return value

    def concatenated(self, value: Tensor) -> Tensor:
        """Return the value."""
        return value


class DistributedModule(nn.Module):
    """A module that uses collective operations.

    Attributes:
        communicator: the processes that train together.
    """

    communicator: Communicator = SingleProcess()


def set_communicator(module: nn.Module, communicator: Communicator) -> None:
    """Set the communicator of every :class:`DistributedModule` inside a module."""
    for part in module.modules():
        if isinstance(part, DistributedModule):
            part.communicator = communicator
