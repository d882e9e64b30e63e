"""What contrasts with the past of a network need: the key encoder that follows it slowly, and queues of past keys.

"Momentum Contrast" (MoCo; He et al., CVPR 2020, arXiv:1911.05722).
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.communicator import DistributedModule
from mcir.models.ema import EMA


class MomentumEncoder(EMA):
    """A moving average that encodes keys: they pass in training mode, normalised by the statistics of their own batch.

    The running statistics that it carries are those of the network that it follows; keys do not change them. So it is
    the same in every process.

    Args:
        network: the encoder of the queries, to start from. It is copied; the copy never gets a gradient.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        parts: Iterator[Any] = self.modules()
        for module in parts:
            if hasattr(module, "track_running_stats"):
                module.track_running_stats = False

    def train(self, mode: bool = True) -> "MomentumEncoder":
        """Stay in training mode, whatever is asked."""
        nn.Module.train(self, True)
        return self

    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        """Return what the averaged network makes of a batch, without a graph."""
        return self.network(x)


class Queue(DistributedModule):
    """The last K keys, of all processes, the same in each.

    Args:
        size: K.
        dim: D, of a key.
        seed: of the random directions that it begins with.

    Attributes:
        keys: (K, D), rows of length 1.
        next: the row that is replaced next.
    """

    keys: Tensor

    def __init__(self, size: int, dim: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.next = 0

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest rows by keys (N, D) of length 1 of every process, in the order of their ranks.

        Of more than K keys the last K stay.
        """
        keys, size = self.communicator.concatenated(keys.detach().to(self.keys.dtype)), len(self.keys)
        end = self.next + len(keys)
        kept = keys[-size:]
        self.keys.index_copy_(0, torch.arange(end - len(kept), end, device=keys.device) % size, kept)
        self.next = end % size

    def get_extra_state(self) -> int:
        """Return where the queue goes on, for the state dict."""
        return self.next

    def set_extra_state(self, state: int) -> None:
        """Take it from a state dict."""
        self.next = state


def momentum_at(first: float, done: int, total: int) -> float:
    """Return the momentum after ``done`` iterations: from ``first`` to 1 in ``total`` of them, by half a cosine.

    1 − (1 − first)·(1 + cos(π·done/total))/2, as PixPro has it (arXiv:2011.10043); 1 afterwards. ``first`` throughout
    where ``total`` is 0.
    """
    if not total:
        return first
    return 1 - (1 - first) * (1 + math.cos(math.pi * min(done / total, 1.0))) / 2
