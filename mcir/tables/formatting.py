"""Words around numbers."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, as in ``1 seed`` and ``2 seeds``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def signed(value: float, digits: int) -> str:
    """Write a number with its sign; what rounds to zero has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def digits_of(metric: str) -> int:
    """Return how many digits a metric is written with: two for decibels, four for shares."""
    return 2 if "psnr" in metric.lower() else 4
