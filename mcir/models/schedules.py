"""Learning-rate schedules: pure functions of the iteration, without state."""

import itertools
import math
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from annotated_types import Interval, Len, MaxLen

from mcir.checks import check_argument
from mcir.domains import Increasing, Iterations, IterationsOrZero
from mcir.registry import SCHEDULERS

LowestRate: TypeAlias = Annotated[float, Interval(ge=0, le=1000)]
"""Learning rate that may be 0."""
RestartWeights: TypeAlias = Annotated[Sequence[Annotated[float, Interval(gt=0, le=1000)]], Len(1, 1024)]
"""Factors of the base learning rate."""


class Schedule(ABC):
    """The learning rate as a pure function of the iteration."""

    def __call__(self, base_lr: float, iteration: int, warmup_iter: int = -1) -> float:
        """Return the learning rate of an iteration.

        Args:
            base_lr: learning rate in the section of the optimizer.
            iteration: 1-based iteration.
            warmup_iter: number of iterations in which the rate rises linearly from 0; -1: no warm-up.
        """
        if iteration < warmup_iter:
            return base_lr * iteration / warmup_iter
        return self.rate(base_lr, iteration - 1, warmup_iter)

    @abstractmethod
    def rate(self, base_lr: float, done: int, warmup_iter: int) -> float:
        """Return the learning rate after ``done`` iterations, ignoring the warm-up phase."""

    def check(self, base_lr: float, total_iter: int, warmup_iter: int = -1) -> None:  # noqa: B027  # optional
        """Check that the schedule matches the other options of a training; by default, every schedule does.

        Args:
            base_lr: learning rate in the section of the optimizer.
            total_iter: number of iterations of the training.
            warmup_iter: number of warm-up iterations; -1: none.

        Raises:
            ArgumentError: it does not match them.
        """


@SCHEDULERS.register()
@dataclass
class MultiStepLR(Schedule):
    """Multiply the learning rate by ``gamma`` at each milestone."""

    milestones: Annotated[Sequence[Iterations], MaxLen(1024), Increasing()]
    """Iterations after which the rate changes, in increasing order."""
    gamma: Annotated[float, Interval(gt=0, le=100)] = 0.1
    """Factor of the learning rate at each milestone."""

    def rate(self, base_lr: float, done: int, warmup_iter: int) -> float:
        """Return the learning rate after ``done`` iterations."""
        return base_lr * self.gamma ** bisect_right(self.milestones, done)


@SCHEDULERS.register()
@dataclass
class MultiStepRestartLR(MultiStepLR):
    """Restart MultiStepLR after each of the iterations ``restarts``."""

    restarts: Annotated[Sequence[IterationsOrZero], Len(1, 1024), Increasing()] = (0,)
    """Iterations after which the schedule restarts, in increasing order."""
    restart_weights: RestartWeights = (1.0,)
    """Factor of the base learning rate after each restart."""

    def __post_init__(self) -> None:
        """Check the number of weights."""
        _check_restart_weights(self.restart_weights, "restarts", len(self.restarts))

    def rate(self, base_lr: float, done: int, warmup_iter: int) -> float:
        """Return the learning rate after ``done`` iterations."""
        restarts = sorted({0: 1.0, **dict(zip(self.restarts, self.restart_weights, strict=True))}.items())
        start, weight = next(pair for pair in reversed(restarts) if pair[0] <= done)
        steps = bisect_right(self.milestones, done) - bisect_right(self.milestones, start)
        return base_lr * weight * self.gamma**steps


class _Annealing(Schedule):
    """Base class of schedules that lower the learning rate to ``eta_min``."""

    eta_min: float

    def check(self, base_lr: float, total_iter: int, warmup_iter: int = -1) -> None:
        """Check that ``eta_min`` is not above the base learning rate."""
        is_valid = self.eta_min <= base_lr
        check_argument("eta_min", self.eta_min, is_valid, f"at most the learning rate of the optimizer, {base_lr:g}")


@dataclass
class _HalfCosineLR(_Annealing):
    """Base class of schedules that lower the learning rate to ``eta_min`` by half a cosine."""

    T_max: Iterations
    """Half a period in iterations."""
    eta_min: LowestRate = 0.0
    """Lowest learning rate."""


@SCHEDULERS.register()
@dataclass
class CosineAnnealingLR(_HalfCosineLR):
    """Lower the learning rate to ``eta_min`` by half a cosine in ``T_max`` iterations, then raise it again."""

    ahead: IterationsOrZero = 0
    """Number of iterations by which the cosine is shifted to earlier iterations. 1 gives the schedule of FFA-Net,
    AECR-Net and C2PNet, which reaches ``eta_min`` in the last step and does not use the full rate in the first."""

    def rate(self, base_lr: float, done: int, warmup_iter: int) -> float:
        """Return the learning rate after ``done`` iterations."""
        return _cosine(base_lr, self.eta_min, (done + self.ahead) / self.T_max)


@SCHEDULERS.register()
@dataclass
class EpochCosineAnnealingLR(_Annealing):
    """CosineAnnealingLR that changes only between epochs, as in DehazeFormer.

    DehazeFormer sets ``eta_min`` to 1/100 of the base rate and trains for ``T_max`` + 1 epochs, the last one at
    ``eta_min``. For milestones in epochs, use MultiStepLR and multiply them by the number of iterations per epoch.
    """

    T_max: Iterations
    """Half a period in epochs."""
    iterations_per_epoch: Iterations
    """Number of training images divided by the total batch size of all processes, rounded down if the last incomplete
    batch is dropped."""
    eta_min: LowestRate = 0.0
    """Lowest learning rate."""

    def rate(self, base_lr: float, done: int, warmup_iter: int) -> float:
        """Return the learning rate after ``done`` iterations."""
        return _cosine(base_lr, self.eta_min, done // self.iterations_per_epoch / self.T_max)


@SCHEDULERS.register()
@dataclass
class TrueCosineAnnealingLR(_HalfCosineLR):
    """CosineAnnealingLR as in BasicSR, where the cosine starts at the last learning rate of the warm-up.

    torch's scheduler multiplies the current learning rate, and BasicSR's warm-up overwrites that rate, so the whole
    cosine is lower by a constant factor. Without a warm-up both schedules are equal.
    """

    def check(self, base_lr: float, total_iter: int, warmup_iter: int = -1) -> None:
        """Check that the cosine has not reached ``eta_min`` at the end of the warm-up."""
        super().check(base_lr, total_iter, warmup_iter)
        if warmup_iter > 1:
            expected = f"less than the learning rate of the optimizer, {base_lr:g}, because there is a warm-up"
            check_argument("eta_min", self.eta_min, self.eta_min < base_lr, expected)
            expected = f"at least the number of warm-up iterations, {warmup_iter}"
            check_argument("T_max", self.T_max, self.T_max >= warmup_iter, expected)

    def rate(self, base_lr: float, done: int, warmup_iter: int) -> float:
        """Return the learning rate after ``done`` iterations."""
        rate = _cosine(base_lr, self.eta_min, done / self.T_max)
        last = warmup_iter - 1
        if last < 1:
            return rate
        without_warmup = _cosine(base_lr, self.eta_min, (last - 1) / self.T_max)
        factor = (base_lr * last / warmup_iter - self.eta_min) / (without_warmup - self.eta_min)
        return self.eta_min + factor * (rate - self.eta_min)


@SCHEDULERS.register()
@dataclass
class CosineAnnealingRestartLR(_Annealing):
    """Lower the learning rate to ``eta_min`` by half a cosine in each period; afterwards it stays at ``eta_min``."""

    periods: Annotated[Sequence[Iterations], Len(1, 1024)]
    """Iterations of each period."""
    restart_weights: RestartWeights = (1.0,)
    """Factor of the base learning rate in each period."""
    eta_min: LowestRate = 0.0
    """Lowest learning rate."""

    def __post_init__(self) -> None:
        """Check the number of weights."""
        _check_restart_weights(self.restart_weights, "periods", len(self.periods))

    def check(self, base_lr: float, total_iter: int, warmup_iter: int = -1) -> None:
        """Check ``eta_min``, and that the learning rate does not become 0 before the end of the training."""
        super().check(base_lr, total_iter, warmup_iter)
        is_valid = self.eta_min > 0 or sum(self.periods) >= total_iter
        expected = f"at least total_iter, {total_iter}, iterations in all periods, or an eta_min above 0"
        check_argument("periods", sum(self.periods), is_valid, expected)

    def rate(self, base_lr: float, done: int, warmup_iter: int) -> float:
        """Return the learning rate after ``done`` iterations."""
        ends = list(itertools.accumulate(self.periods))
        index = bisect_left(ends, done)
        if index == len(ends):
            return self.eta_min
        phase = (done - ends[index] + self.periods[index]) / self.periods[index]
        return self.eta_min + self.restart_weights[index] * (_cosine(base_lr, self.eta_min, phase) - self.eta_min)


def _cosine(first: float, last: float, phase: float) -> float:
    """Return ``first`` at phase 0, ``last`` at phase 1 and a cosine in between."""
    return last + (first - last) * (1 + math.cos(math.pi * phase)) / 2


def _check_restart_weights(weights: Sequence[float], name: str, count: int) -> None:
    check_argument("restart_weights", len(weights), len(weights) == count, f"one weight for each of the {count} {name}")
