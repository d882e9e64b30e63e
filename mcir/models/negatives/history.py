"""The network's own past as negatives ("Learning from History", AAAI 2024, arXiv:2309.06023)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mcir.models.ema import EMA
from mcir.models.negatives.base import Clock, Negatives, another, build_seeded, check_fraction, generator, stream
from mcir.registry import NEGATIVES


class _Bank(Negatives):
    """N moving averages of one network.

    Each starts as start·random + (1 − start)·θ, as the released code does, where random is a fresh initialisation of
    the same architecture drawn from ``seed`` and the member's number: the same in every process, and never the
    network's own.
    """

    updates: Tensor

    def __init__(self, network: nn.Module, count: int, start: float, seed: int, clock: Clock | None = None) -> None:
        super().__init__()
        check_fraction("start", start)
        self.start = start
        self.seed = seed
        self.clock = clock
        self.members = nn.ModuleList(EMA(network) for _ in range(count))
        self.register_buffer("updates", torch.zeros(count, dtype=torch.int64, device="cpu"))
        self.start_from(network)

    def start_from(self, network: nn.Module) -> None:
        """Set every member to start·random + (1 − start)·θ.

        Raises:
            ValueError: the class of the network is not registered, so that a fresh one cannot be built.
        """
        for number, member in enumerate(self.averages()):
            begin = build_seeded(stream(self.seed, number), another(network), network) if self.start else network
            member.update(begin, keep=0.0)
            member.update(network, keep=self.start)
        self.updates.zero_()
        if self.clock is not None:
            self.clock.iteration = 1

    @torch.no_grad()
    def forward(self, lq: Tensor, gt: Tensor, stored: Tensor | None = None) -> Tensor:
        """Return the outputs (N, B, C, sH, sW) of the members whose turn it is, for ``lq`` (B, C, H, W)."""
        averages = self.averages()
        return torch.stack([averages[number](lq) for number in self.chosen()])

    def chosen(self) -> list[int]:
        """Return the numbers of the members that are negatives at this iteration: all."""
        return list(range(len(self.members)))

    def move(self, number: int, network: nn.Module, keep: float) -> None:
        """Move one member towards ``network``, keeping the share ``keep`` of its past."""
        self.averages()[number].update(network, keep)
        self.updates[number] += 1

    def averages(self) -> list[EMA]:
        """Return the members."""
        return [member for member in self.members if isinstance(member, EMA)]


@NEGATIVES.register()
class HistoryNegatives(_Bank):
    """The network's own past: exponential moving averages, each updated at its own pace.

    When the iteration t is a multiple of s_i, member i becomes θ'_i ← w_i·θ'_i + (1 − w_i)·θ ("Learning from History",
    AAAI 2024, Eq. 1).

    With ``sample: k`` only k of the N members are evaluated at an iteration, drawn without replacement, each subset as
    likely as any other. The loss of Eq. 3 is a mean over the members, and the mean over k of them has the same
    expectation: the gradient stays unbiased, its variance is (1/k − 1/N)·S², where S² is that between the members
    (divided by N − 1), and the cost of the negatives falls from N to k passes. All members are kept and updated as
    without it.

    Args:
        network: the network in training, of a registered architecture.
        weight: w, the share in [0, 1] of its past that a member keeps at an update; one number, or one per member.
        steps: s, the iterations between the updates of each member; their number is the number of negatives N.
        start: the share of a random network at the beginning: θ'_i = start·random_i + (1 − start)·θ. Eq. 1 leaves the
            beginning open; 0.1 is the released code's.
        sample: k, how many members are evaluated at an iteration; all without.
        seed: of the random networks, and of the members that are drawn.

    Raises:
        ValueError: a share outside [0, 1], a step below 1, no step, not one weight per step, or a sample that is not
            between 1 and N.
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
            raise ValueError(
                f"HistoryNegatives: steps are iterations, at least one and each at least 1, not {list(steps)}."
            )
        if len(weights) != len(steps):
            raise ValueError(
                f"HistoryNegatives: {len(steps)} steps need one weight or {len(steps)}, not {len(weights)}."
            )
        for share in weights:
            check_fraction("weight", share)
        if sample is not None and not 1 <= sample <= len(steps):
            raise ValueError(
                f"HistoryNegatives: sample is how many of the {len(steps)} members are evaluated, 1 to {len(steps)}, "
                f"not {sample}."
            )
        super().__init__(network, len(steps), start, seed, None if sample is None else Clock())
        self.weights = weights
        self.steps = list(steps)
        self.sample = sample

    def chosen(self) -> list[int]:
        """Return the numbers of the members that are negatives at this iteration, in order."""
        if self.sample is None or self.clock is None:
            return super().chosen()
        drawn = generator(self.seed, self.clock.iteration).choice(len(self.members), self.sample, replace=False)
        return sorted(drawn.tolist())

    def update(self, network: nn.Module, iteration: int, output: Tensor, gt: Tensor) -> None:
        """Move the members whose step divides ``iteration`` (Eq. 1)."""
        for number, (keep, step) in enumerate(zip(self.weights, self.steps, strict=True)):
            if iteration % step == 0:
                self.move(number, network, keep)
        if self.clock is not None:
            self.clock.iteration = iteration + 1


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
        ValueError: a share outside [0, 1], a threshold that is not a finite number from 0 on, or fewer than one member.
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
        if not 0 <= threshold < math.inf:
            raise ValueError(f"AdaptiveHistoryNegatives: threshold is a finite number from 0 on, not {threshold}.")
        check_fraction("decay", decay)
        super().__init__(network, members, start, seed)
        self.threshold = threshold
        self.decay = decay

    def update(self, network: nn.Module, iteration: int, output: Tensor, gt: Tensor) -> None:
        """Renew the next member in turn if the output strays from ``gt`` by more than the threshold."""
        strays = (2 * (output.detach().float() - gt)).flatten(1).std(dim=1).mean()
        if float(self.communicator.mean(strays)) > self.threshold:
            self.move(int(self.updates.sum()) % len(self.members), network, self.decay)
