"""Statistics of paired differences: intervals, Student's paired test, and Holm's correction for several tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from mcir.tables.formatting import MISSING, counted, signed

ALPHA = 0.05
"""Significance level: a difference is significant if its adjusted p is smaller."""


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its confidence interval, infinite for a single value."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{signed(self.low, 3)} … {signed(self.high, 3)}"


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean of independent values and its confidence interval by Student's t distribution.

    Raises:
        ValueError: there are no values, or the confidence is outside (0, 1).
    """
    if not values or not 0 < confidence < 1:
        raise ValueError(f"expected values and a confidence in (0, 1), got {len(values)} values and {confidence}")
    mean = fmean(values)
    if len(values) == 1:
        return Interval(mean, -math.inf, math.inf)
    from scipy import stats  # slow to import

    margin = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values))
    return Interval(mean, mean - margin, mean + margin)


def paired_test(differences: Sequence[float]) -> float:
    """Return the two-sided p of Student's paired t-test.

    A single difference shows nothing: p = 1. Equal differences other than 0 cannot be chance: p = 0.

    Raises:
        ValueError: there are no differences.
    """
    if not differences:
        raise ValueError("expected at least one difference, got none")
    if len(set(differences)) == 1:
        return 0.0 if len(differences) > 1 and differences[0] else 1.0
    from scipy import stats

    statistic = abs(fmean(differences)) / stats.sem(differences)  # ttest_1samp warns about nearly equal values
    return float(2 * stats.t.sf(statistic, len(differences) - 1))


def holm(probabilities: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number by Holm's step-down method, each to be compared with the same level."""
    order = sorted(range(len(probabilities)), key=lambda index: probabilities[index])
    adjusted = [0.0] * len(probabilities)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(probabilities) - rank) * probabilities[index]))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True)
class PairedDifference:
    """The differences between two methods, in dB, over the seeds for which both have finite results.

    Attributes:
        gains: differences, one per seed.
        diverged: number of seeds without a finite difference.
        interval: mean difference and its 95 % interval; None without any finite difference.
        p: p of the paired test.
        adjusted: p adjusted for all comparisons of a report.
    """

    gains: list[float]
    diverged: int
    interval: Interval | None
    p: float | None
    adjusted: float | None

    @property
    def is_significant(self) -> bool:
        """Whether the difference is significant when all comparisons are considered."""
        return self.adjusted is not None and self.adjusted < ALPHA and not self.diverged

    def smallest_detectable(self, tests: int = 1) -> float | None:
        """Return the smallest mean difference that would be significant with this spread; None for a single seed.

        Args:
            tests: number of comparisons by which the significance level is divided.
        """
        if len(self.gains) < 2:
            return None
        interval = mean_interval(self.gains, 1 - ALPHA / tests)
        return (interval.high - interval.low) / 2

    def verdict(self) -> str:
        """Return what the seeds show, in words."""
        if self.interval is None or self.p is None:
            return "no seed ended with finite numbers"
        if self.diverged:
            pairs, verb = counted(len(self.gains) + self.diverged, "pair"), "has" if self.diverged == 1 else "have"
            return f"no verdict: of {pairs}, {self.diverged} {verb} no finite numbers"
        if self.is_significant:
            return "significantly better" if self.interval.mean > 0 else "significantly worse"
        return "not significant after correction for all comparisons" if self.p < ALPHA else "not significant"

    def sentence(self) -> str:
        """Return mean, interval, adjusted p and verdict in one line."""
        diverged = f"; {counted(self.diverged, 'seed')} diverged" if self.diverged else ""
        if self.interval is None:
            return self.verdict() + diverged
        mean = signed(self.interval.mean, 3)
        return f"{mean} dB (95 %: {self.interval}), p = {self.adjusted:.2g}: {self.verdict()}{diverged}"

    def cells(self) -> list[str]:
        """Return the cells of a table: mean, interval, number of seeds above 0, p and adjusted p."""
        if self.interval is None:
            return [MISSING] * 5
        better = f"{sum(gain > 0 for gain in self.gains)} of {len(self.gains)}"
        return [signed(self.interval.mean, 3), str(self.interval), better, f"{self.p:.2g}", f"{self.adjusted:.2g}"]

    def data(self) -> dict[str, Any]:
        """Return the difference as JSON data."""
        return {
            "gains": self.gains,
            "mean_gain": None if self.interval is None else self.interval.mean,
            "interval_95": None if self.interval is None else [self.interval.low, self.interval.high],
            "p": self.p,
            "p_holm": self.adjusted,
            "diverged": self.diverged,
            "verdict": self.verdict(),
        }


def compare(comparisons: Sequence[Sequence[float]]) -> list[PairedDifference]:
    """Return the tested differences of several comparisons, adjusted for their number.

    Args:
        comparisons: differences in dB of each comparison, one per seed; those that are not finite count as diverged.
    """
    finite = [[gain for gain in gains if math.isfinite(gain)] for gains in comparisons]
    tested = {index: paired_test(gains) for index, gains in enumerate(finite) if gains}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return [
        PairedDifference(
            gains,
            diverged=len(comparisons[index]) - len(gains),
            interval=mean_interval(gains) if gains else None,
            p=tested.get(index),
            adjusted=adjusted.get(index),
        )
        for index, gains in enumerate(finite)
    ]
