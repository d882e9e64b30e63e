"""Paired differences over the seeds: how large, how sure, and in words what they say, whatever the sign."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mcir.tables.formatting import counted, signed
from mcir.tables.paired_stats import Interval, holm, mean_interval, paired_test

LIMIT = 0.05
"""Of the adjusted p, below which a difference is called significant."""


@dataclass(frozen=True)
class Difference:
    """The differences of two trainings of equal seeds in dB, over the seeds that ended with finite numbers in both.

    ``p`` is that of the paired test, ``adjusted`` the same with all comparisons of a report considered.
    """

    gains: list[float]
    diverged: int
    interval: Interval | None
    p: float | None
    adjusted: float | None

    @property
    def is_significant(self) -> bool:
        """Whether the gain or loss is more than chance explains, all comparisons considered."""
        return self.adjusted is not None and self.adjusted < LIMIT and not self.diverged

    def verdict(self) -> str:
        """Return in words what the seeds say."""
        if self.interval is None or self.p is None or self.adjusted is None:
            return "no seed ended with finite numbers"
        if self.diverged:
            pairs, verb = counted(len(self.gains) + self.diverged, "pair"), "has" if self.diverged == 1 else "have"
            return f"no verdict: of {pairs}, {self.diverged} {verb} no finite numbers"
        if self.is_significant:
            return "significantly better" if self.interval.mean > 0 else "significantly worse"
        if self.p < LIMIT:
            return "not significant once all comparisons are counted"
        return "not significant"

    def sentence(self) -> str:
        """Return mean, interval, adjusted p and verdict in a line."""
        lost = f"; {counted(self.diverged, 'seed')} diverged" if self.diverged else ""
        if self.interval is None or self.adjusted is None:
            return self.verdict() + lost
        return (
            f"{signed(self.interval.mean, 3)} dB (95 %: {ends(self.interval)}), p = {self.adjusted:.2g}: "
            f"{self.verdict()}{lost}"
        )

    def cells(self) -> list[str]:
        """Return for a table: mean, interval, how many seeds are better, p and p adjusted."""
        if self.interval is None or self.p is None or self.adjusted is None:
            return ["–"] * 5
        better = f"{sum(gain > 0 for gain in self.gains)} of {len(self.gains)}"
        return [signed(self.interval.mean, 3), ends(self.interval), better, f"{self.p:.2g}", f"{self.adjusted:.2g}"]

    def as_data(self) -> dict[str, Any]:
        """Return the same for JSON."""
        return {
            "gains": self.gains,
            "mean_gain": None if self.interval is None else self.interval.mean,
            "interval_95": None if self.interval is None else [self.interval.low, self.interval.high],
            "p": self.p,
            "p_holm": self.adjusted,
            "diverged": self.diverged,
            "verdict": self.verdict(),
        }


def compared(comparisons: Sequence[Sequence[float]]) -> list[Difference]:
    """Return the differences of each comparison, tested and adjusted by Holm for their number.

    Args:
        comparisons: of each, the differences in dB, one a seed; what is not finite is a seed that diverged.
    """
    kept = [[gain for gain in gains if math.isfinite(gain)] for gains in comparisons]
    p = [paired_test(gains) for gains in kept if gains]
    adjusted, single = iter(holm(p)), iter(p)
    return [
        Difference(
            finite,
            diverged=len(gains) - len(finite),
            interval=mean_interval(finite) if finite else None,
            p=next(single) if finite else None,
            adjusted=next(adjusted) if finite else None,
        )
        for gains, finite in zip(comparisons, kept, strict=True)
    ]


def ends(interval: Interval) -> str:
    """Write the ends of an interval."""
    return f"{signed(interval.low, 3)} … {signed(interval.high, 3)}"
