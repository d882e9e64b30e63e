"""Collective operations for modules in distributed training: the mean over all processes, and all-gather.

A module that needs more than its own part of the batch is a :class:`DistributedModule`. The trainer connects it to the
other processes with :func:`set_communicator`. Without that call, it works as in a single process.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Communicator(Protocol):
    """The processes that train one model together, each on its own part of every batch."""

    @property
    def rank(self) -> int:
        """The index of this process, starting at 0."""

    @property
    def world_size(self) -> int:
        """The number of processes."""

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return a network whose backward pass averages gradients over the processes."""

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over the processes, without a graph."""

    def all_gather(self, value: Tensor) -> Tensor:
        """Return the concatenated tensors (B, …) of all processes as (world_size·B, …), ordered by rank.

        The backward pass sums the gradients of all processes and returns the part that belongs to this process.
        """


class SingleProcess:
    """Training in a single process: every operation returns its argument."""

    rank = 0
    world_size = 1

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network unchanged."""
        return network

    def mean(self, value: Tensor) -> Tensor:
        """Return the value unchanged."""
        return value

    def all_gather(self, value: Tensor) -> Tensor:
        """Return the value unchanged."""
        return value


class DistributedModule(nn.Module):
    """A module that uses collective operations.

    Attributes:
        communicator: processes that train together.
    """

    communicator: Communicator = SingleProcess()


def set_communicator(module: nn.Module, communicator: Communicator) -> None:
    """Set the communicator of a module and of all its submodules."""
    for submodule in module.modules():
        if isinstance(submodule, DistributedModule):
            submodule.communicator = communicator
