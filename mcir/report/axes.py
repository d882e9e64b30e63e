"""Ranges, ticks and tick labels of axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

LIMIT = 1e200
"""Larger values are not drawn, so that differences and margins stay finite."""


def value_range(values: Sequence[float], least: float = 0.0) -> tuple[float, float]:
    """Return the lowest and the highest value, or a wider range if their relative difference is at most ``least``."""
    low, high = min(values), max(values)
    largest = max(abs(low), abs(high))
    if largest < 1 / LIMIT:  # floats have no numbers for the ticks between such values
        return -0.5, 0.5
    half = max(0.5, largest * 1e-12) if largest >= 1 else largest / 2
    return (low, high) if high - low > max(least, 1e-12) * largest else (low - half, high + half)


def ticks(low: float, high: float) -> list[float]:
    """Return three to seven round numbers in a range."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [round(number * step, 12) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def powers(low: float, high: float) -> list[float]:
    """Return up to seven powers of ten in a range of logarithms. If there are at most two, add multiples by 2 and 5."""
    exponents = range(math.ceil(low), math.floor(high) + 1)
    powers = [10.0**exponent for exponent in exponents[:: math.ceil(len(exponents) / 7) or 1]]
    if len(powers) > 2:
        return powers
    finer = [
        factor * 10.0**exponent for exponent in range(math.floor(low), math.ceil(high) + 1) for factor in (1, 2, 5)
    ]
    return [value for value in finer if low <= math.log10(value) <= high]


def tick_label(value: float) -> str:
    """Return the label of a tick."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 and value == round(value) else f"{value:g}"
