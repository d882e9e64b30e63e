"""What a part of a model may ask of the other processes that train it: their mean, and their tensors.

A part whose value or state depends on more than its own share of the batch is a :class:`OverRanks`; whoever trains with
several processes tells it so by :func:`tell_ranks`. Until then it is alone.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Ranks(Protocol):
    """The processes that train one model together, each with its share of every batch."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0 on."""

    @property
    def world_size(self) -> int:
        """How many processes there are."""

    def wrap(self, network: nn.Module) -> nn.Module:
        """Make the backward pass of a network average its gradients over the processes."""

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over the processes, without gradient."""

    def concatenated(self, value: Tensor) -> Tensor:
        """Return the tensors (B, …) of all processes as one (world_size·B, …), in the order of their ranks.

        The gradient of each share is that of all processes together: it goes back to whom the share belongs.
        """


class Alone:
    """One process: everything is as it is."""

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


class OverRanks(nn.Module):
    """A part of a model that looks at all processes.

    Attributes:
        ranks: the processes.
    """

    ranks: Ranks = Alone()


def tell_ranks(parts: nn.Module, ranks: Ranks) -> None:
    """Tell every part within a module which processes train together."""
    for part in parts.modules():
        if isinstance(part, OverRanks):
            part.ranks = ranks
