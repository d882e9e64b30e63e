"""Statistics of paired differences: confidence intervals, Student's paired t-test and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from mcir.tables.formatting import MISSING, counted, signed

ALPHA = 0.05
"""Significance level for adjusted p values."""


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its confidence interval, which are infinite for a single value."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{signed(self.low, 3)} … {signed(self.high, 3)}"


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean of independent values and its confidence interval by Student's t distribution."""
    mean = fmean(values)
    if len(values) == 1:
        return Interval(mean, -math.inf, math.inf)
    from scipy import stats  # slow to import

    margin = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values))
    return Interval(mean, mean - margin, mean + margin)


def paired_test(differences: Sequence[float]) -> float:
    """Return the two-sided p value of Student's paired t-test.

    A single difference has p = 1. Equal differences other than 0 have p = 0.
    """
    if len(set(differences)) == 1:
        return 0.0 if len(differences) > 1 and differences[0] else 1.0
    from scipy import stats

    statistic = abs(fmean(differences)) / stats.sem(differences)  # ttest_1samp warns about nearly equal values
    return float(2 * stats.t.sf(statistic, len(differences) - 1))


def holm(probabilities: Sequence[float]) -> list[float]:
    """Adjust p values for multiple comparisons by Holm's step-down method."""
    order = sorted(range(len(probabilities)), key=lambda index: probabilities[index])
    adjusted = [0.0] * len(probabilities)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(probabilities) - rank) * probabilities[index]))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True)
class PairedDifference:
    """Differences in dB between two methods, one per seed for which both results are finite.

    Attributes:
        gains: finite differences.
        diverged: number of seeds whose difference is not finite.
        interval: mean difference and its 95 % confidence interval; None if every seed diverged.
        p: p value of the paired test; None if every seed diverged.
        adjusted: p value adjusted for all comparisons of a report.
    """

    gains: list[float]
    diverged: int
    interval: Interval | None
    p: float | None
    adjusted: float | None

    @property
    def is_significant(self) -> bool:
        """Whether the adjusted p value is below ``ALPHA`` and no seed diverged."""
        return self.adjusted is not None and self.adjusted < ALPHA and not self.diverged

    def smallest_detectable(self, tests: int = 1) -> float | None:
        """Return the smallest mean difference that would be significant with this spread; None for a single seed.

        ``tests`` is the number of comparisons by which the significance level is divided.
        """
        if len(self.gains) < 2:
            return None
        interval = mean_interval(self.gains, 1 - ALPHA / tests)
        return (interval.high - interval.low) / 2

    def verdict(self) -> str:
        """Describe the result of the test."""
        if self.interval is None or self.p is None:
            return "no seed ended with finite numbers"
        if self.diverged:
            pairs, verb = counted(len(self.gains) + self.diverged, "pair"), "has" if self.diverged == 1 else "have"
            return f"no verdict: of {pairs}, {self.diverged} {verb} no finite numbers"
        if self.is_significant:
            return "significantly better" if self.interval.mean > 0 else "significantly worse"
        return "not significant after correction for all comparisons" if self.p < ALPHA else "not significant"

    def sentence(self) -> str:
        """Return mean, interval, adjusted p value and verdict in one line."""
        diverged = f"; {counted(self.diverged, 'seed')} diverged" if self.diverged else ""
        if self.interval is None:
            return self.verdict() + diverged
        mean = signed(self.interval.mean, 3)
        return f"{mean} dB (95 %: {self.interval}), p = {self.adjusted:.2g}: {self.verdict()}{diverged}"

    def cells(self) -> list[str]:
        """Return table cells: mean, interval, number of positive differences, p value and adjusted p value."""
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
    """Test several comparisons and adjust their p values for multiple comparisons.

    A comparison consists of differences in dB, one per seed; a difference that is not finite counts as diverged.
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
