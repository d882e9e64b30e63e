"""The network's own past as negatives ("Learning from History", AAAI 2024, arXiv:2309.06023)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mcir.models.ema import EMA
from mcir.models.negatives.base import (
    Negatives,
    StepCounter,
    build_seeded,
    check_fraction,
    child_seed,
    fresh_builder,
    generator,
)
from mcir.registry import NEGATIVES, ArgumentError


class _EMANegatives(Negatives):
    """N moving averages of a network.

    Each starts as start·random + (1 − start)·θ, as in the released code. The random network has the same architecture;
    its weights depend on ``seed`` and the number of the member.
    """

    updates: Tensor

    def __init__(
        self, network: nn.Module, count: int, start: float, seed: int, counter: StepCounter | None = None
    ) -> None:
        super().__init__()
        check_fraction("start", start)
        self.start = start
        self.seed = seed
        self.clock = counter  # the name is a key in checkpoints
        self.averages = [EMA(network) for _ in range(count)]
        self.members = nn.ModuleList(self.averages)
        self.register_buffer("updates", torch.zeros(count, dtype=torch.int64, device="cpu"))
        self.start_from(network)

    def start_from(self, network: nn.Module) -> None:
        """Set every member to start·random + (1 − start)·θ.

        Raises:
            ValueError: the class of the network is not registered, so a random one cannot be built.
        """
        for number, member in enumerate(self.averages):
            seed = child_seed(self.seed, number)
            member.update(build_seeded(seed, fresh_builder(network), network) if self.start else network, decay=0.0)
            member.update(network, decay=self.start)
        self.updates.zero_()
        if self.clock is not None:
            self.clock.iteration = 1

    @torch.no_grad()
    def forward(self, lq: Tensor, gt: Tensor, stored: Tensor | None = None) -> Tensor:
        """Return the outputs (N, B, C, sH, sW) of the active members for ``lq`` (B, C, H, W)."""
        return torch.stack([self.averages[number](lq) for number in self.active_members()])

    def active_members(self) -> list[int]:
        """Return the numbers of the members that are evaluated in this iteration: here all."""
        return list(range(len(self.members)))

    def update_member(self, number: int, network: nn.Module, decay: float) -> None:
        """Move one member towards the network."""
        self.averages[number].update(network, decay)
        self.updates[number] += 1


@NEGATIVES.register()
class HistoryNegatives(_EMANegatives):
    """Exponential moving averages of the network, each updated at its own interval.

    If the iteration t is a multiple of s_i, member i becomes θ'_i ← w_i·θ'_i + (1 − w_i)·θ (Eq. 1).

    With ``sample: k`` only k of the N members are evaluated in an iteration, drawn without replacement, every subset
    with the same probability. The loss (Eq. 3) is a mean over members, so the gradient stays unbiased. Its variance
    grows by (1/k − 1/N)·S², where S² is the variance between members (divided by N − 1); the number of forward passes
    falls from N to k. All members are still updated.

    Args:
        network: network in training, of a registered architecture.
        weight: decay w of an update, the fraction in [0, 1] of the old member that is kept; one number, or one for
            each member.
        steps: interval s of each member in iterations; their number is the number N of negatives.
        start: fraction of a random network in each member at the beginning. The paper does not define it; 0.1 is the
            value of the released code.
        sample: number k of members that are evaluated in an iteration. Default: all.
        seed: seed for the random networks and for drawing members.

    Raises:
        ArgumentError: a fraction outside [0, 1], a step below 1, no step, not one weight for each step, or a sample
            outside 1 … N.
    """

    def __init__(
        self,
        network: nn.Module,
        weight: float | Sequence[float] = 0.1,
        steps: Sequence[int] = (100, 500, 1000, 2000),
        start: float = 0.1,
        sample: int | None = None,
        seed: int = 0,
    ) -> None:
        weights = [weight] * len(steps) if isinstance(weight, int | float) else list(weight)
        if not steps or min(steps) < 1:
            raise ArgumentError("steps", f"expected positive integers, at least one, got {list(steps)}.")
        if len(weights) != len(steps):
            message = f"expected one number, or one for each of the {len(steps)} steps, got {len(weights)}."
            raise ArgumentError("weight", message)
        for value in weights:
            check_fraction("weight", value)
        if sample is not None and not 1 <= sample <= len(steps):
            raise ArgumentError("sample", f"expected 1 to {len(steps)}, the number of steps, got {sample}.")
        super().__init__(network, len(steps), start, seed, None if sample is None else StepCounter())
        self.weights = weights
        self.steps = list(steps)
        self.sample = sample

    def active_members(self) -> list[int]:
        """Return the numbers of the members that are evaluated in this iteration, sorted."""
        if self.sample is None or self.clock is None:
            return super().active_members()
        drawn = generator(self.seed, self.clock.iteration).choice(len(self.members), self.sample, replace=False)
        return sorted(drawn.tolist())

    chosen = active_members  # the name in version 0.1.0

    def update(self, network: nn.Module, iteration: int, output: Tensor, gt: Tensor) -> None:
        """Update the members whose step divides ``iteration`` (Eq. 1)."""
        for number, (weight, step) in enumerate(zip(self.weights, self.steps, strict=True)):
            if iteration % step == 0:
                self.update_member(number, network, weight)
        if self.clock is not None:
            self.clock.iteration = iteration + 1


@NEGATIVES.register()
class AdaptiveHistoryNegatives(_EMANegatives):
    """Moving averages of the network that are updated when the output deviates: a variant in the released code.

    If the mean over the batch of std(2·(output − gt)), taken over C, H and W, exceeds ``threshold``, the next member in
    turn becomes decay·θ' + (1 − decay)·θ. The decision is made on the host, so every iteration waits for the device.

    Args:
        network: network in training, of a registered architecture.
        members: number N of negatives.
        threshold: threshold of the standard deviation, for images in [0, 1].
        decay: fraction in [0, 1] of the old member that is kept in an update.
        start: fraction of a random network in each member at the beginning, as in HistoryNegatives.
        seed: seed for the random networks.

    Raises:
        ArgumentError: a fraction outside [0, 1], a threshold that is negative or not finite, or no member.
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
            raise ArgumentError("members", f"expected a positive integer, got {members}.")
        if not 0 <= threshold < math.inf:
            raise ArgumentError("threshold", f"expected a finite number ≥ 0, got {threshold}.")
        check_fraction("decay", decay)
        super().__init__(network, members, start, seed)
        self.threshold = threshold
        self.decay = decay

    def update(self, network: nn.Module, iteration: int, output: Tensor, gt: Tensor) -> None:
        """Update the next member in turn if the output deviates from ``gt`` by more than the threshold."""
        deviation = (2 * (output.detach().float() - gt)).flatten(1).std(dim=1).mean()
        if float(self.communicator.mean(deviation)) > self.threshold:
            self.update_member(int(self.updates.sum()) % len(self.members), network, self.decay)
