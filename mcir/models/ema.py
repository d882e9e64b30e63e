"""Exponential moving averages of a network."""

import copy
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mcir.network_spec import derived_buffer_names


class EMA(nn.Module):
    """A frozen copy of a network that follows it: θ' ← keep·θ' + (1 − keep)·θ.

    Parameters are averaged with one fused call for all of them. Buffers (the running statistics of a batch norm, say)
    are carried along as they are: their average would belong to no network that ever was.

    Args:
        network: the network to start from. It is copied; the copy never gets a gradient and stays in evaluation mode.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._own = _Tensors(self.network)
        self._followed = _Tensors(network)
        self.eval()

    def train(self, mode: bool = True) -> "EMA":
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    @torch.no_grad()
    def update(self, network: nn.Module, keep: float) -> None:
        """Move towards ``network``, keeping the share ``keep`` in [0, 1] of the old average."""
        if network is not self._followed.network:
            self._followed = _Tensors(network)
        averages, values = self._own.parameters(), self._followed.parameters()
        if keep == 0.0:
            torch._foreach_copy_(averages, values)
        elif averages:
            torch._foreach_lerp_(averages, values, 1.0 - keep)
        for average, value in zip(self._own.buffers(), self._followed.buffers(), strict=True):
            average.copy_(value)

    def forward(self, lq: Tensor) -> Tensor:
        """Run the averaged network on ``lq`` (B, C, H, W)."""
        result: Tensor = self.network(lq)
        return result


class _Tensors:
    """The parameters and buffers of a network, found without walking through its modules each time.

    Walking takes longer than averaging. What is remembered is where each tensor hangs, so one that is replaced is seen.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        modules = list(network.modules())
        # masks and tables, equal in every copy
        computed = derived_buffer_names(network)
        self._parameters = _places(module._parameters for module in modules)
        self._buffers = _places((module._buffers for module in modules), without=computed)

    def parameters(self) -> list[Tensor]:
        return [holder[name] for holder, name in self._parameters]

    def buffers(self) -> list[Tensor]:
        return [holder[name] for holder, name in self._buffers]


def _places(holders: Iterable[dict[str, Any]], without: Collection[str] = ()) -> list[tuple[dict[str, Any], str]]:
    """Return where each tensor hangs; one that hangs at several places (tied weights) only once."""
    places: dict[int, tuple[dict[str, Any], str]] = {}
    for holder in holders:
        for name, tensor in holder.items():
            if tensor is not None and name not in without:
                places.setdefault(id(tensor), (holder, name))
    return list(places.values())
