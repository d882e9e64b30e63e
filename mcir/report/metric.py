"""The values of a metric during a training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class Metric:
    """The values of a metric on a validation set during training.

    Attributes:
        points: (iteration, mean) pairs in order.
        images: values of each image, by iteration.
        baseline: baseline of the comparison: ``bicubic`` (the enlarged input) or ``input``.
        baseline_value: value of the baseline. None: it is not recorded.
        unit: unit of the values.
        higher_is_better: whether larger values are better.
    """

    points: list[tuple[int, float]] = field(default_factory=list)
    images: dict[int, dict[str, float]] = field(default_factory=dict)
    baseline: str = "input"
    baseline_value: float | None = None
    unit: str = ""
    higher_is_better: bool = True

    @property
    def last(self) -> tuple[int, float]:
        """The iteration and the value of the last evaluation."""
        return self.points[-1]

    @property
    def best(self) -> tuple[int, float]:
        """The iteration and the value of the best evaluation. Of equal values, the first is used; NaN is the worst."""
        sign = 1 if self.higher_is_better else -1
        return max(self.points, key=lambda point: -math.inf if math.isnan(point[1]) else sign * point[1])

    def format(self, value: float, sign: str = "") -> str:
        """Return a value with its unit, on one line of the page."""
        if math.isnan(value):
            return "not a number"
        return format_value(value, self.unit, sign).replace(" ", "\N{NO-BREAK SPACE}")


def format_value(value: float, unit: str, sign: str = "") -> str:
    """Return a metric's value with its unit. It has two decimals if there is a unit, and four otherwise."""
    return f"{value:{sign}.2f} {unit}" if unit else f"{value:{sign}.4f}"
