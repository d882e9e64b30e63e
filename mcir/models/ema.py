"""Exponential moving averages of a network."""

import copy

import torch
from torch import Tensor, nn


class MovingAverage(nn.Module):
    """A frozen copy of a network that follows it: θ' ← keep·θ' + (1 − keep)·θ.

    Parameters are averaged with one fused call for all of them. Buffers (the running statistics of a batch norm, say)
    are carried along as they are: their average would belong to no network that ever was.

    Args:
        network: the network to start from. It is copied; the copy never gets a gradient and stays in evaluation mode.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "MovingAverage":
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    @torch.no_grad()
    def update(self, network: nn.Module, keep: float) -> None:
        """Move towards ``network``, keeping the share ``keep`` in [0, 1] of the old average."""
        averages: list[Tensor] = list(self.network.parameters())
        values: list[Tensor] = list(network.parameters())
        if keep == 0.0:
            torch._foreach_copy_(averages, values)
        elif averages:
            torch._foreach_lerp_(averages, values, 1.0 - keep)
        for average, value in zip(self.network.buffers(), network.buffers(), strict=True):
            average.copy_(value)

    def forward(self, lq: Tensor) -> Tensor:
        """Run the averaged network on ``lq`` (B, C, H, W)."""
        result: Tensor = self.network(lq)
        return result
