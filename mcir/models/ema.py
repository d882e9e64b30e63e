"""Exponential moving averages of a network."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mcir.network_call import call_network, copy_network, unwrapped
from mcir.network_spec import derived_buffer_names


class EMA(nn.Module):
    """An exponential moving average of the parameters of a network: θ' ← decay·θ' + (1 − decay)·θ.

    All parameters are averaged in one fused call. Buffers, for example the running statistics of a batch norm, are
    copied and not averaged.

    Args:
        network: network to copy, without its wrappers of torch.compile and DistributedDataParallel. The copy has no
            gradients and stays in evaluation mode.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        network = unwrapped(network)
        self.network = copy_network(network).requires_grad_(False)
        self._own = _TensorRefs(self.network)
        self._source = _TensorRefs(network)
        self.eval()

    def train(self, mode: bool = True) -> "EMA":
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def update(self, network: nn.Module, decay: float) -> None:
        """Update the average with the parameters of a network.

        Args:
            network: network with the same parameters and buffers.
            decay: weight of the old average, in [0, 1].
        """
        network = unwrapped(network)
        if network is not self._source.network:
            self._source = _TensorRefs(network)
        averages, values = self._own.parameters(), self._source.parameters()
        if decay == 0.0:
            torch._foreach_copy_(averages, values)
        elif averages:
            torch._foreach_lerp_(averages, values, 1.0 - decay)
        for average, value in zip(self._own.buffers(), self._source.buffers(), strict=True):
            average.copy_(value)

    def forward(self, lq: Tensor) -> Tensor:
        """Run the averaged network on ``lq`` (B, C, H, W)."""
        return call_network(self.network, lq)


class _TensorRefs:
    """References to the parameters and buffers of a network, collected once: traversing the modules is slow.

    A reference is the dict of a module and a key, so it stays valid if ``module.to`` replaces the tensor.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        derived = derived_buffer_names(network)  # index tables and masks, which never change
        modules = list(network.modules())
        self._parameters = _unique((module._parameters, name) for module in modules for name in module._parameters)
        self._buffers = _unique(
            (module._buffers, name) for module in modules for name in module._buffers if name not in derived
        )

    def parameters(self) -> list[Tensor]:
        return [tensors[name] for tensors, name in self._parameters]

    def buffers(self) -> list[Tensor]:
        return [tensors[name] for tensors, name in self._buffers]


def _unique(references: Iterable[tuple[dict[str, Any], str]]) -> list[tuple[dict[str, Any], str]]:
    """Return one reference to each tensor, so that tied weights are averaged once."""
    found = {id(tensors[name]): (tensors, name) for tensors, name in references if tensors[name] is not None}
    return list(found.values())
