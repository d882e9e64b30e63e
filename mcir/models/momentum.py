"""Key encoder and queues of past keys for contrastive learning.

"Momentum Contrast" (MoCo; He et al., CVPR 2020, arXiv:1911.05722).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase

from mcir.communicator import DistributedModule
from mcir.models.ema import EMA


class MomentumEncoder(EMA):
    """A moving average that encodes keys in training mode: batch norms use the statistics of the batch of keys.

    The running statistics are copied from the network in every update and are not changed by keys, so they are equal in
    all processes.

    Args:
        network: encoder of the queries, to be copied. The copy has no gradients.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        for module in self.modules():
            if isinstance(module, _NormBase):
                module.track_running_stats = False

    def train(self, mode: bool = True) -> "MomentumEncoder":
        """Stay in training mode."""
        nn.Module.train(self, True)
        return self

    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        """Return the output of the averaged network, without graph."""
        return self.network(x)


class Queue(DistributedModule):
    """The last K keys of all processes. All processes have the same queue.

    Args:
        size: number K of keys.
        dim: dimension D of a key.
        seed: seed for the initial keys, which are random.

    Attributes:
        keys: the keys (K, D), with L2 norm 1.
        next: index of the row that is replaced next.
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
        """Replace the oldest rows with the keys (N, D) of every process, in the order of the ranks.

        If there are more than K keys, the last K are used.
        """
        keys, size = self.communicator.all_gather(keys.detach().to(self.keys.dtype)), len(self.keys)
        end = self.next + len(keys)
        newest = keys[-size:]
        self.keys.index_copy_(0, torch.arange(end - len(newest), end, device=keys.device) % size, newest)
        self.next = end % size

    def get_extra_state(self) -> int:
        """Return ``next`` for the state dict."""
        return self.next

    def set_extra_state(self, state: int) -> None:
        """Load ``next`` from a state dict."""
        self.next = state


def momentum_at(first: float, done: int, total: int) -> float:
    """Return the momentum after ``done`` iterations, which increases from ``first`` to 1 along half a cosine.

    1 − (1 − first)·(1 + cos(π·done/total))/2, as in PixPro (arXiv:2011.10043); 1 after ``total`` iterations. If
    ``total`` is 0, it stays at ``first``.
    """
    if not total:
        return first
    return 1 - (1 - first) * (1 + math.cos(math.pi * min(done / total, 1.0))) / 2
