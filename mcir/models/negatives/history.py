"""Outputs of past versions of the network as negatives ("Learning from History", AAAI 2024, arXiv:2309.06023)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Interval, Len
from torch import Tensor, nn

from mcir.checks import check_argument
from mcir.domains import Count, Fraction, Iterations, Seed
from mcir.errors import KeyPath
from mcir.losses.base import in_float32
from mcir.models.ema import EMA
from mcir.models.negatives.base import Negatives, StepCounter, build_seeded, child_seed, fresh_builder, generator
from mcir.registry import NEGATIVES

MAX_MEMBERS = 64
"""Largest number of moving averages; each is as large as the network."""

COLLAPSED_WEIGHT = 0.01
"""Largest w with which trainings collapsed in the paper (Table 9: EDSR-light ×4, SPN with λ = 1e-4)."""


class _EMANegatives(Negatives):
    """Outputs of N moving averages of a network.

    The initial parameters of each are start·random + (1 − start)·θ, as in the released code, where random has the same
    architecture and depends on ``seed`` and the number of the member.
    """

    updates: Tensor

    def __init__(
        self, network: nn.Module, count: int, start: float, seed: int, counter: StepCounter | None = None
    ) -> None:
        super().__init__()
        self.start = start
        self.seed = seed
        self.clock = counter  # the attribute name is a key in checkpoints
        self.averages = [EMA(network) for _ in range(count)]
        self.members = nn.ModuleList(self.averages)
        self.register_buffer("updates", torch.zeros(count, dtype=torch.int64, device="cpu"))
        self.start_from(network)

    @property
    def follows_network(self) -> bool:
        """Whether the negatives are outputs of the past of the trained network."""
        return True

    def start_from(self, network: nn.Module) -> None:
        """Set all members to start·random + (1 − start)·θ.

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
    def forward(self, lq: Tensor, gt: Tensor | None = None, stored: Tensor | None = None) -> Tensor:
        """Return the outputs (N, B, C, sH, sW) of the active members for ``lq`` (B, C, H, W)."""
        return torch.stack([self.averages[number](lq) for number in self.active_members()])

    def active_members(self) -> list[int]:
        """Return the numbers of the members to evaluate in this iteration, by default all."""
        return list(range(len(self.members)))

    def update_member(self, number: int, network: nn.Module, decay: float) -> None:
        """Update one member."""
        self.averages[number].update(network, decay)
        self.updates[number] += 1


@NEGATIVES.register()
class HistoryNegatives(_EMANegatives):
    """Outputs of exponential moving averages of the network, each updated at its own interval.

    If the iteration t is a multiple of s_i, member i becomes θ'_i ← w_i·θ'_i + (1 − w_i)·θ (Eq. 1).

    With ``sample: k``, only k of the N members are evaluated in an iteration. All subsets of size k have the same
    probability. The loss (Eq. 3) is a mean over members, so the gradient stays unbiased. Its variance
    grows by (1/k − 1/N)·S², where S² is the variance between members (divided by N − 1); the number of forward passes
    falls from N to k. All members are still updated.

    Args:
        network: trained network, of a registered architecture.
        weight: decay w in [0, 1], the weight of the old member in an update; one number, or one for each member.
        steps: update interval s of each member in iterations. The length of the list is the number N of negatives.
        start: weight of a random network in the initial members. The paper does not define it; 0.1 is the value of the
            released code.
        sample: number k of members to evaluate in an iteration. Default: all.
        seed: seed for the random networks and for sampling members.

    Raises:
        ArgumentError: there is not one weight for each step, two members have the same step and weight, or ``sample``
            is above N.
    """

    def __init__(
        self,
        network: nn.Module,
        weight: Fraction | Annotated[Sequence[Fraction], Len(1, MAX_MEMBERS)] = 0.1,
        steps: Annotated[Sequence[Iterations], Len(1, MAX_MEMBERS)] = (100, 500, 1000, 2000),
        start: Fraction = 0.1,
        sample: Count | None = None,
        seed: Seed = 0,
    ) -> None:
        weights = [weight] * len(steps) if isinstance(weight, int | float) else list(weight)
        count = len(steps)
        expected = f"one number, or one for each of the {count} steps"
        check_argument("weight", len(weights), len(weights) == count, expected)
        distinct = len({*zip(steps, weights, strict=True)}) == count
        check_argument("steps", list(steps), distinct, "no step twice with the same weight")
        is_valid = sample is None or sample <= count
        check_argument("sample", sample, is_valid, f"an integer from 1 to {count}, the number of steps")
        super().__init__(network, count, start, seed, None if sample is None else StepCounter())
        self.weights = weights
        self.steps = list(steps)
        self.sample = sample

    def risky_arguments(self) -> dict[KeyPath, str]:
        """Return w if trainings with such a value collapsed in the paper."""
        smallest = min(self.weights)
        if smallest > COLLAPSED_WEIGHT:
            return {}
        reason = (
            f"expected a number above {COLLAPSED_WEIGHT:g}, got {smallest:g}, because trainings with such values "
            "collapsed in the paper (Table 9). The default is 0.1."
        )
        return {("weight",): reason}

    def active_members(self) -> list[int]:
        """Return the sorted numbers of the members to evaluate in this iteration."""
        if self.sample is None or self.clock is None:
            return super().active_members()
        drawn = generator(self.seed, self.clock.iteration).choice(len(self.members), self.sample, replace=False)
        return sorted(drawn.tolist())

    chosen = active_members  # the name in version 0.1.0

    def update(
        self, network: nn.Module, iteration: int, output: Tensor | None = None, gt: Tensor | None = None
    ) -> None:
        """Update the members whose step divides ``iteration`` (Eq. 1)."""
        for number, (weight, step) in enumerate(zip(self.weights, self.steps, strict=True)):
            if iteration % step == 0:
                self.update_member(number, network, weight)
        if self.clock is not None:
            self.clock.iteration = iteration + 1


@NEGATIVES.register()
class AdaptiveHistoryNegatives(_EMANegatives):
    """Outputs of moving averages of the network, one of which is updated if the output deviates from the ground truth.

    This is a variant in the released code. If std(2·(output − gt)) over C, H and W, averaged over the batch,
    exceeds ``threshold``, the next member in turn becomes decay·θ' + (1 − decay)·θ. θ are the weights that computed the
    output, before the optimizer step. The comparison needs a device sync in every iteration.

    Args:
        network: trained network, of a registered architecture.
        members: number N of negatives.
        threshold: threshold of the standard deviation, for images in [0, 1].
        decay: weight of the old member in an update, in [0, 1].
        start: weight of a random network in the initial members, as in HistoryNegatives.
        seed: seed for the random networks.
    """

    def __init__(
        self,
        network: nn.Module,
        members: Annotated[int, Interval(ge=1, le=MAX_MEMBERS)] = 4,
        threshold: Annotated[float, Interval(ge=0, le=100)] = 0.022,
        decay: Fraction = 0.001,
        start: Fraction = 0.1,
        seed: Seed = 0,
    ) -> None:
        super().__init__(network, members, start, seed)
        self.threshold = threshold
        self.decay = decay
        self._is_updated = False

    @torch.no_grad()
    def update_before_step(self, network: nn.Module, output: Tensor, gt: Tensor) -> None:
        """Update the next member if the output deviates from ``gt`` by more than the threshold."""
        self._is_updated = True
        deviation = (2 * (in_float32(output.detach()) - gt)).flatten(1).std(dim=1).mean()
        if deviation.is_meta:  # cost estimates run on the meta device, where tensors have no values
            return
        if float(self.communicator.mean(deviation)) > self.threshold:
            self.update_member(int(self.updates.sum()) % len(self.members), network, self.decay)

    def update(
        self, network: nn.Module, iteration: int, output: Tensor | None = None, gt: Tensor | None = None
    ) -> None:
        """Check that ``update_before_step`` was called in this iteration.

        Raises:
            ValueError: it was not called, so no member would ever be updated.
        """
        if not self._is_updated:
            raise ValueError(
                "AdaptiveHistoryNegatives: expected a call of update_before_step(network, output, gt) before the "
                f"optimizer step of iteration {iteration}, got none."
            )
        self._is_updated = False
