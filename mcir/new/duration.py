"""Durations as users write and read them: ``90m``, ``2h30m``, ``1d``."""

from __future__ import annotations

import argparse
import re

_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_PARTS = re.compile(r"(\d+(?:\.\d+)?)([dhms])")
SHORTEST, LONGEST = 30, 365 * 86_400
"""Accepted budgets, in seconds."""


def parse_budget(text: str) -> float | None:
    """Return the seconds of a duration like ``10m``, ``2h30m`` or ``1d``; None for ``paper``.

    Raises:
        argparse.ArgumentTypeError: the text is not a duration, or is out of range.
    """
    compact = text.strip().lower().replace(" ", "")
    if compact == "paper":
        return None
    parts = _PARTS.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise argparse.ArgumentTypeError(f"expected a duration like 10m, 2h30m or 1d, or 'paper', got '{text}'")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not SHORTEST <= seconds <= LONGEST:
        raise argparse.ArgumentTypeError(f"expected between {SHORTEST}s and {LONGEST // 86_400}d, got '{text}'")
    return seconds


def format_duration(seconds: float, units: int = 2) -> str:
    """Return a duration with its largest units, by default two, like ``2h 30m``; seconds are rounded."""
    rest = round(seconds)
    counts: list[tuple[int, str]] = []
    for unit, length in _UNITS.items():
        count, rest = divmod(rest, length)
        if count or counts:
            counts.append((count, unit))
    return " ".join(f"{count}{unit}" for count, unit in counts[:units] if count) or "0s"
