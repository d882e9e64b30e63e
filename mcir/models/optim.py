"""Optimizers and learning-rate schedules.

Every optimizer of ``torch.optim`` that can train a network from its gradients alone is registered under its own name. A
schedule is a pure function of the iteration: it has no state, so a resumed run needs none.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import nn

from mcir.registry import OPTIMIZERS, SCHEDULERS, OptimizerSection

_NEED_MORE_THAN_GRADIENTS = {"LBFGS", "SparseAdam"}  # a closure; sparse gradients

for _name, _class in vars(torch.optim).items():
    if (
        isinstance(_class, type)
        and issubclass(_class, torch.optim.Optimizer)
        and _class is not torch.optim.Optimizer
        and _name not in _NEED_MORE_THAN_GRADIENTS
    ):
        OPTIMIZERS.add(_class)


def build_optimizer(section: OptimizerSection, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Build the optimizer of a section over ``parameters``.

    On a CUDA device the fused kernel is taken where the optimizer has one and the section does not choose otherwise; on
    a CPU fused steps did not pay.

    Raises:
        ValueError: the section does not fit the optimizer.
    """
    parameters = list(parameters)
    takes = OPTIMIZERS.parameters(section["type"])
    if "fused" in takes and not {"fused", "foreach", "differentiable"} & section.keys():
        section = {**section, "fused": True if all(parameter.is_cuda for parameter in parameters) else None}
    return cast(torch.optim.Optimizer, OPTIMIZERS.build(section, parameters, key="optim_g"))


class Schedule(ABC):
    """The learning rate as a pure function of the iteration."""

    def __call__(self, base_lr: float, iteration: int, warmup_iter: int = -1) -> float:
        """Return the learning rate of the 1-based ``iteration``.

        Args:
            base_lr: the rate that the optimizer was built with.
            iteration: the one that the rate is for.
            warmup_iter: before this iteration the rate rises linearly from 0, whatever the schedule says.
        """
        if iteration < warmup_iter:
            return base_lr * iteration / warmup_iter
        return self.rate(base_lr, iteration - 1, warmup_iter)

    @abstractmethod
    def rate(self, base_lr: float, done: int, warmup_iter: int) -> float:
        """Return the learning rate after ``done`` iterations, which are past the warm-up."""


@SCHEDULERS.register()
class MultiStepLR(Schedule):
    """Multiplies the rate by ``gamma`` after each milestone iteration."""

    def __init__(self, milestones: Sequence[int], gamma: float = 0.1) -> None:
        self.milestones = sorted(milestones)
        self.gamma = gamma

    def rate(self, base_lr: float, done: int, warmup_iter: int) -> float:
        """Return the learning rate after ``done`` iterations."""
        return base_lr * self.gamma ** bisect_right(self.milestones, done)


@SCHEDULERS.register()
class MultiStepRestartLR(Schedule):
    """MultiStepLR that starts anew, at ``restart_weights`` times the first rate, after each restart iteration."""

    def __init__(
        self,
        milestones: Sequence[int],
        gamma: float = 0.1,
        restarts: Sequence[int] = (0,),
        restart_weights: Sequence[float] = (1.0,),
    ) -> None:
        if len(restarts) != len(restart_weights):
            raise ValueError(f"{len(restarts)} restarts need as many restart_weights, not {len(restart_weights)}.")
        self.milestones = sorted(milestones)
        self.gamma = gamma
        self.restarts = sorted({0: 1.0, **dict(zip(restarts, restart_weights, strict=True))}.items())

    def rate(self, base_lr: float, done: int, warmup_iter: int) -> float:
        """Return the learning rate after ``done`` iterations."""
        start, weight = next(pair for pair in reversed(self.restarts) if pair[0] <= done)
        passed = bisect_right(self.milestones, done) - bisect_right(self.milestones, start)
        return base_lr * weight * self.gamma**passed


@SCHEDULERS.register()
class CosineAnnealingLR(Schedule):
    """Half a cosine from the first rate to ``eta_min`` in ``T_max`` iterations, and on: up again, down again.

    Args:
        T_max: iterations of half a period.
        eta_min: the lowest rate.
        ahead: iterations that the cosine is ahead. 1 is the schedule of FFA-Net (and AECR-Net and C2PNet, which took it
            over), whose first step is not made at the full rate and whose last one is made at ``eta_min``.

    Raises:
        ValueError: ``T_max`` is below 1 or ``ahead`` below 0.
    """

    def __init__(self, T_max: int, eta_min: float = 0.0, ahead: int = 0) -> None:
        if T_max < 1:
            raise ValueError(f"T_max is the number of iterations of half a period, at least 1, not {T_max}.")
        if ahead < 0:
            raise ValueError(f"ahead is a number of iterations, at least 0, not {ahead}.")
        self.period = T_max
        self.eta_min = eta_min
        self.ahead = ahead

    def rate(self, base_lr: float, done: int, warmup_iter: int) -> float:
        """Return the learning rate after ``done`` iterations."""
        return _cosine(base_lr, self.eta_min, (done + self.ahead) / self.period)


@SCHEDULERS.register()
class EpochCosineAnnealingLR(Schedule):
    """CosineAnnealingLR whose rate changes only between epochs, as DehazeFormer trains.

    It has ``eta_min`` at a hundredth of the first rate, and one epoch more than ``T_max``: the last one is made at
    ``eta_min``. (Milestones in epochs need no schedule of their own: multiply them by the iterations of an epoch.)

    Args:
        T_max: epochs of half a period.
        iterations_per_epoch: images of the training set, divided by those of a batch over all processes; where the last
            incomplete batch is dropped, rounded down.
        eta_min: the lowest rate.

    Raises:
        ValueError: ``T_max`` or ``iterations_per_epoch`` is below 1.
    """

    def __init__(self, T_max: int, iterations_per_epoch: int, eta_min: float = 0.0) -> None:
        if T_max < 1:
            raise ValueError(f"T_max is the number of epochs of half a period, at least 1, not {T_max}.")
        if iterations_per_epoch < 1:
            raise ValueError(f"iterations_per_epoch is at least 1, not {iterations_per_epoch}.")
        self.period = T_max
        self.iterations_per_epoch = iterations_per_epoch
        self.eta_min = eta_min

    def rate(self, base_lr: float, done: int, warmup_iter: int) -> float:
        """Return the learning rate after ``done`` iterations."""
        return _cosine(base_lr, self.eta_min, done // self.iterations_per_epoch / self.period)


@SCHEDULERS.register()
class TrueCosineAnnealingLR(CosineAnnealingLR):
    """CosineAnnealingLR as BasicSR's models have it: after a warm-up the cosine goes on from the warm-up's last rate.

    torch's scheduler multiplies the rate it finds, and the warm-up of BasicSR overwrites that rate; so the whole cosine
    is lower by a constant factor. Without a warm-up the two are the same.
    """

    def __init__(self, T_max: int, eta_min: float = 0.0) -> None:
        super().__init__(T_max, eta_min)

    def rate(self, base_lr: float, done: int, warmup_iter: int) -> float:
        """Return the learning rate after ``done`` iterations."""
        rate = super().rate(base_lr, done, warmup_iter)
        last = warmup_iter - 1
        if last < 1:
            return rate
        factor = (base_lr * last / warmup_iter - self.eta_min) / (
            super().rate(base_lr, last - 1, warmup_iter) - self.eta_min
        )
        return self.eta_min + factor * (rate - self.eta_min)


@SCHEDULERS.register()
class CosineAnnealingRestartLR(Schedule):
    """Half a cosine per period, each from its ``restart_weights`` times the first rate; ``eta_min`` afterwards."""

    def __init__(self, periods: Sequence[int], restart_weights: Sequence[float] = (1.0,), eta_min: float = 0.0) -> None:
        if len(periods) != len(restart_weights):
            raise ValueError(f"{len(periods)} periods need as many restart_weights, not {len(restart_weights)}.")
        self.ends = [sum(periods[: count + 1]) for count in range(len(periods))]
        self.periods = list(periods)
        self.restart_weights = list(restart_weights)
        self.eta_min = eta_min

    def rate(self, base_lr: float, done: int, warmup_iter: int) -> float:
        """Return the learning rate after ``done`` iterations."""
        index = bisect_left(self.ends, done)
        if index == len(self.ends):
            return self.eta_min
        phase = (done - self.ends[index] + self.periods[index]) / self.periods[index]
        return self.eta_min + self.restart_weights[index] * (_cosine(base_lr, self.eta_min, phase) - self.eta_min)


def _cosine(first: float, last: float, phase: float) -> float:
    """Return ``first`` at phase 0, ``last`` at phase 1 and a cosine between."""
    return last + (first - last) * (1 + math.cos(math.pi * phase)) / 2
