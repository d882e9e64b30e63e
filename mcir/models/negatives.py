"""Kinds of negatives: the images that a contrastive loss pushes the output away from.

Every kind gives N images for each image of a batch, without gradient, and keeps its whole state in ``state_dict``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mcir.models.ema import MovingAverage
from mcir.registry import NEGATIVES


class Negatives(nn.Module, ABC):
    """What every kind of negatives offers to a model.

    ``mean_over_ranks`` maps a scalar tensor to its mean over all processes, so that a kind whose state depends on the
    data stays the same on all of them; alone, it changes nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mean_over_ranks: Callable[[Tensor], Tensor] = lambda value: value

    @abstractmethod
    def forward(self, lq: Tensor, gt: Tensor) -> Tensor:
        """Return the negatives (N, B, C, sH, sW) of ``lq`` (B, C, H, W) and ``gt`` (B, C, sH, sW), without graph."""

    @abstractmethod
    def start_from(self, network: nn.Module) -> None:
        """Begin anew from ``network``, whose weights were just loaded."""

    @abstractmethod
    def update(self, network: nn.Module, iteration: int, output: Tensor, gt: Tensor) -> None:
        """Follow ``network`` after its step of the 1-based ``iteration``, which made ``output`` for ``gt``."""


class _Bank(Negatives):
    """N moving averages of one network.

    Each starts as start·random + (1 − start)·θ, as the released code does, where random is a fresh initialisation of
    the same architecture drawn from ``seed`` and the member's number: the same in every process, and never the
    network's own.
    """

    updates: Tensor

    def __init__(self, network: nn.Module, count: int, start: float, seed: int) -> None:
        super().__init__()
        _require_share("start", start)
        self.start = start
        self.seed = seed
        self.members = nn.ModuleList(MovingAverage(network) for _ in range(count))
        self.register_buffer("updates", torch.zeros(count, dtype=torch.int64, device="cpu"))
        self.start_from(network)

    def start_from(self, network: nn.Module) -> None:
        """Set every member to start·random + (1 − start)·θ.

        Raises:
            ValueError: the class of the network is not registered, so that a fresh one cannot be built.
        """
        for number, member in enumerate(self._averages()):
            member.update(_fresh(network, _stream(self.seed, number)) if self.start else network, keep=0.0)
            member.update(network, keep=self.start)
        self.updates.zero_()

    @torch.no_grad()
    def forward(self, lq: Tensor, gt: Tensor) -> Tensor:
        """Return the members' outputs (N, B, C, sH, sW) for ``lq`` (B, C, H, W), without graph."""
        return torch.stack([member(lq) for member in self._averages()])

    def move(self, number: int, network: nn.Module, keep: float) -> None:
        """Move one member towards ``network``, keeping the share ``keep`` of its past."""
        self._averages()[number].update(network, keep)
        self.updates[number] += 1

    def _averages(self) -> list[MovingAverage]:
        return [member for member in self.members if isinstance(member, MovingAverage)]


@NEGATIVES.register()
class HistoryNegatives(_Bank):
    """The network's own past: exponential moving averages, each updated at its own pace.

    When the iteration t is a multiple of s_i, member i becomes θ'_i ← w_i·θ'_i + (1 − w_i)·θ ("Learning from History",
    AAAI 2024, Eq. 1).

    Args:
        network: the network in training, of a registered architecture.
        weight: w, the share in [0, 1] of its past that a member keeps at an update; one number, or one per member.
        steps: s, the iterations between the updates of each member; their number is the number of negatives N.
        start: the share of a random network at the beginning: θ'_i = start·random_i + (1 − start)·θ. Eq. 1 leaves the
            beginning open; 0.1 is the released code's.
        seed: of the random networks.

    Raises:
        ValueError: a share outside [0, 1], a step below 1, no step, or not one weight per step.
    """

    def __init__(
        self,
        network: nn.Module,
        weight: float | Sequence[float] = 0.1,
        steps: Sequence[int] = (100, 500, 1000, 2000),
        start: float = 0.1,
        seed: int = 0,
    ) -> None:
        weights = [weight] * len(steps) if isinstance(weight, int | float) else list(weight)
        if not steps or min(steps) < 1:
            raise ValueError(f"HistoryNegatives: steps are iterations, at least one and each at least 1, not {steps}.")
        if len(weights) != len(steps):
            raise ValueError(
                f"HistoryNegatives: {len(steps)} steps need one weight or {len(steps)}, not {len(weights)}."
            )
        for share in weights:
            _require_share("weight", share)
        super().__init__(network, len(steps), start, seed)
        self.weights = weights
        self.steps = list(steps)

    def update(self, network: nn.Module, iteration: int, output: Tensor, gt: Tensor) -> None:
        """Move the members whose step divides ``iteration`` (Eq. 1)."""
        for number, (keep, step) in enumerate(zip(self.weights, self.steps, strict=True)):
            if iteration % step == 0:
                self.move(number, network, keep)


@NEGATIVES.register()
class AdaptiveHistoryNegatives(_Bank):
    """The network's past, renewed when the output strays: the adaptive variant of the released code.

    When the mean over the batch of std(2·(output − gt)) over C, H, W exceeds ``threshold``, one member in turn becomes
    decay·θ' + (1 − decay)·θ. The comparison is made on the host, so each iteration waits for the device.

    Args:
        network: the network in training, of a registered architecture.
        members: N, the number of negatives.
        threshold: of the standard deviation, images in [0, 1].
        decay: the share in [0, 1] of its past that a renewed member keeps.
        start: the share of a random network at the beginning, as in HistoryNegatives.
        seed: of the random networks.

    Raises:
        ValueError: a share outside [0, 1], or fewer than one member.
    """

    def __init__(
        self,
        network: nn.Module,
        members: int = 4,
        threshold: float = 0.022,
        decay: float = 0.001,
        start: float = 0.1,
        seed: int = 0,
    ) -> None:
        if members < 1:
            raise ValueError(f"AdaptiveHistoryNegatives: members is at least 1, not {members}.")
        _require_share("decay", decay)
        super().__init__(network, members, start, seed)
        self.threshold = threshold
        self.decay = decay

    def update(self, network: nn.Module, iteration: int, output: Tensor, gt: Tensor) -> None:
        """Renew the next member in turn if the output strays from ``gt`` by more than the threshold."""
        strays = (2 * (output.detach().float() - gt)).flatten(1).std(dim=1).mean()
        if float(self.mean_over_ranks(strays)) > self.threshold:
            self.move(int(self.updates.sum()) % len(self.members), network, self.decay)


def _require_share(name: str, share: float) -> None:
    if not (0 <= share <= 1 and math.isfinite(share)):
        raise ValueError(f"{name} is a share between 0 and 1, not {share}.")


def _stream(seed: int, number: int) -> int:
    """Return the seed of a member's random network: a stream of its own, apart from the network's and the others'."""
    return int(np.random.SeedSequence(seed, spawn_key=(number,)).generate_state(1)[0])


def _fresh(network: nn.Module, seed: int) -> nn.Module:
    """Build the architecture of ``network`` anew, initialised from ``seed``, the global generators left alone."""
    arguments = getattr(network, "hyperparameters", None)
    if arguments is None:
        raise ValueError(
            f"{type(network).__name__} does not keep its arguments, so no random network of its kind can be built: "
            "register the class with @ARCHS.register(), or set 'start: 0'."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh: nn.Module = type(network)(**arguments)
    like = next(network.parameters())
    return fresh.to(device=like.device, dtype=like.dtype)
