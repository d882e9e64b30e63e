"""Format numbers for reports and messages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

MISSING = "–"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 seed``, ``2 seeds``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def signed(value: float, digits: int) -> str:
    """Format a number with its sign; zero after rounding has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def decimals(metric: str) -> int:
    """Return the number of decimals of a metric: two for decibels, four for ratios."""
    return 2 if "psnr" in metric.lower() else 4


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation, or None for a single value or one that is not finite."""
    return stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


def with_deviation(mean: float, std: float | None, digits: int) -> str:
    """Format a mean and, if there is one, its standard deviation."""
    return f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


def mean_of(values: Sequence[float], digits: int) -> str:
    """Format the mean of values and their standard deviation."""
    return with_deviation(fmean(values), deviation(values), digits)
