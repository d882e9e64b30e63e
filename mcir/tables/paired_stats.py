"""What a few numbers say: means with their uncertainty, and whether a difference may be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Interval:
    """A mean and the interval that holds the true one with the asked confidence; infinite for a single value."""

    mean: float
    low: float
    high: float
    count: int


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean of independent values and its interval by Student's t.

    Raises:
        ValueError: no values, or a confidence outside (0, 1).
    """
    if not values or not 0 < confidence < 1:
        raise ValueError(f"An interval needs values and a confidence between 0 and 1, not {len(values)}, {confidence}.")
    mean = fmean(values)
    if len(values) == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    from scipy import stats  # it takes a second to import

    reach = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - reach, mean + reach, len(values))


def paired_test(differences: Sequence[float]) -> float:
    """Return the two-sided p of Student's paired test: how often chance alone gives a mean difference so far from 0.

    One difference says nothing, which is p = 1; differences that are all equal and not 0 are no chance, p = 0.

    Raises:
        ValueError: no differences.
    """
    if not differences:
        raise ValueError("A paired test needs differences.")
    if len(differences) == 1:
        return 1.0
    spread, mean = stdev(differences), fmean(differences)
    if spread == 0:
        return 0.0 if mean else 1.0
    from scipy import stats

    statistic = abs(mean) / (spread / math.sqrt(len(differences)))
    return float(2 * stats.t.sf(statistic, len(differences) - 1))


def holm(probabilities: Sequence[float]) -> list[float]:
    """Return the probabilities adjusted by Holm for being several: each is compared with the same limit as one alone.

    Who makes twenty tests finds one of twenty "significant" by chance; with these he does so once in twenty times.
    """
    order = sorted(range(len(probabilities)), key=lambda index: probabilities[index])
    adjusted = [0.0] * len(probabilities)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(probabilities) - rank) * probabilities[index]))
        adjusted[index] = largest
    return adjusted
