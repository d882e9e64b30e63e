"""Figures of a page: curves and bars as SVG, pictures as PNG, all written into it."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from statistics import median

import cv2

from mcir.report.comparison import Picture

Points = Sequence[tuple[float, float]]

_LIMIT = 1e200  # what is drawn is smaller, so that differences and margins of it are finite
_FINEST = 2**1074  # of the smallest floats make one
_COLOURS = ("#2a7fc4", "#dd7418", "#2c965a", "#c4457c", "#7d68d2", "#977431", "#3797a8", "#818181")


@dataclass
class Figure:
    """A drawing (SVG) or a picture (PNG), ready to stand in a page, and what it shows.

    ``kind`` is the class that the page gives it.
    """

    caption: str
    markup: str
    kind: str = "picture"


def picture_figure(picture: Picture, caption: str) -> Figure:
    """Return a picture (H, W, 3), RGB, as a PNG inside the page."""
    encoded, data = cv2.imencode(".png", picture[:, :, ::-1])
    assert encoded
    text = base64.b64encode(data.tobytes()).decode("ascii")
    return Figure(caption, f'<img src="data:image/png;base64,{text}" alt="{html.escape(caption)}">')


def curves(
    series: Mapping[str, Points],
    caption: str,
    x_label: str,
    y_label: str,
    *,
    levels: Mapping[str, float] | None = None,
    marks: Sequence[float] = (),
    logarithmic: bool = False,
    smooth: bool = False,
) -> Figure:
    """Draw lines through points (x, y), one colour a series.

    Of many points those are drawn that are seen: the lowest and the highest within each pixel. What is not finite, or
    of more than 200 digits, is left out, and on a logarithmic scale what is not above 0.

    Args:
        series: points in the order of x, by name; one without points keeps its colour for the figures beside this one.
        caption: what the figure shows.
        x_label: of the axis.
        y_label: of the axis.
        levels: values that are drawn as dashed lines from side to side, by name.
        marks: places on the x axis that get a dotted line.
        logarithmic: whether the y axis is.
        smooth: draw a noisy series faintly, and a running mean over it.
    """
    drawn = {name: [p for p in points if _can_be_drawn(p, logarithmic)] for name, points in series.items()}
    everything = [point for points in drawn.values() for point in points]
    begin, end = min(everything, default=(0.0, 0.0))[0], max(everything, default=(0.0, 0.0))[0]
    levels = {name: level for name, level in (levels or {}).items() if _can_be_drawn((begin, level), logarithmic)}
    frame = _Frame([*everything, *((begin, level) for level in levels.values())], x_label, y_label, True, logarithmic)
    for place in marks:
        if begin <= place <= end:
            frame.rule(f"M{frame.x(place):.1f} {_ABOVE}V{_HEIGHT - _BELOW}", "1 4")
    entries = []
    for name, level in levels.items():
        frame.rule(f"M{frame.left} {frame.y(level):.1f}H{_WIDTH - _RIGHT}", "6 4")
        entries.append(_legend_entry("dashed", "currentColor", name, _written(level)))
    for number, (name, points) in enumerate(drawn.items()):
        if not points:
            continue
        colour = _COLOURS[number % len(_COLOURS)]
        if smooth and frame.is_noisy(points, mean := _running_mean(points)):
            frame.line(points, colour, 'class="raw" stroke-width="1" stroke-opacity="0.3"')
            points = mean
        frame.line(points, colour, f'data-name="{html.escape(name)}" stroke-width="1.8"')
        entries.append(_legend_entry("solid", colour, name, _written(points[-1][1])))
    legend = f'<p class="legend"><span class="at"></span>{"".join(entries)}</p>' if entries else ""
    return Figure(caption, frame.markup() + legend, "drawing")


def spans_decades(values: Iterable[float], decades: float = 2) -> bool:
    """Return whether values, all above 0, are so far apart that a linear axis would flatten most of them.

    The lowest twentieth does not count: a few values near 0 are no reason.
    """
    found = sorted(value for value in values if math.isfinite(value))
    return bool(found) and found[0] > 0 and found[-1] >= found[len(found) // 20] * 10**decades


def bars(
    values: Mapping[str, float], caption: str, y_label: str, limits: Mapping[str, tuple[float, float]] | None = None
) -> Figure:
    """Draw a bar for each value, from zero up or down; ``limits`` are the ends of a line of uncertainty over it."""
    limits = {name: ends for name, ends in (limits or {}).items() if all(map(math.isfinite, ends))}
    heights = [0.0, *values.values(), *(end for ends in limits.values() for end in ends)]
    frame = _Frame([(0, height) for height in heights] + [(len(values), 0)], "", y_label, ticks=False)
    zero = frame.y(0)
    for number, (name, value) in enumerate(values.items()):
        left, right, top = frame.x(number + 0.2), frame.x(number + 0.8), frame.y(value)
        colour = _COLOURS[0] if value >= 0 else _COLOURS[1]
        frame.add(
            f'<rect x="{left:.1f}" y="{min(top, zero):.1f}" width="{right - left:.1f}" '
            f'height="{abs(top - zero):.1f}" fill="{colour}"/>'
        )
        if name in limits:
            low, high = (frame.y(end) for end in limits[name])
            middle = (left + right) / 2
            frame.add(f'<path d="M{middle:.1f} {low:.1f}V{high:.1f}" stroke="currentColor" stroke-width="1.5"/>')
        frame.text((left + right) / 2, _HEIGHT - _BELOW + 16, name, "middle")
    frame.add(f'<path d="M{frame.left} {zero:.1f}H{_WIDTH - _RIGHT}" stroke="currentColor"/>')
    return Figure(caption, frame.markup(), "drawing")


_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _ABOVE, _BELOW = 72, 20, 32, 40
_DIGIT = 11  # its width where letters are largest against the drawing, on a narrow screen


class _Frame:
    """Axes, and what is drawn between them; what the y axis measures stands above it, clear of its ticks.

    ``left`` is where the axis begins, at least 72 and behind the longest of the ticks.
    """

    def __init__(
        self, points: Points, x_label: str, y_label: str, ticks: bool = True, logarithmic: bool = False
    ) -> None:
        points = [point for point in points if all(map(math.isfinite, point))] or [(0.0, 1.0)]
        self._logarithmic = logarithmic
        self._x = _range([x for x, _ in points])
        low, high = _range([self._level(y) for _, y in points], 1e-4)
        margin = 0.05 * (high - low)
        self._y = (low - margin, high + margin)
        self._is_curve, self._x_label = ticks, x_label
        self._parts: list[str] = []
        levels = [(self.y(value), _label(value)) for value in (_powers if logarithmic else _ticks)(*self._y)]
        self.left = max([_LEFT, *(6 + _DIGIT * len(label) for _, label in levels)])
        for level, label in levels:
            across = f"M{self.left} {level:.1f}H{_WIDTH - _RIGHT}"
            self.add(f'<path d="{across}" stroke="currentColor" stroke-opacity="0.15"/>')
            self.text(self.left - 6, level + 4, label, "end")
        if ticks:
            for value in _ticks(*self._x):
                at, label = self.x(value), _label(value)
                is_at_edge = at + _DIGIT / 2 * len(label) > _WIDTH
                self.text(_WIDTH if is_at_edge else at, _HEIGHT - _BELOW + 16, label, "end" if is_at_edge else "middle")
        self.text((self.left + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, x_label, "middle")
        self.text(0, 16, y_label, "start")

    def _level(self, value: float) -> float:
        return math.log10(value) if self._logarithmic else value

    def x(self, value: float) -> float:
        low, high = self._x
        return self.left + (value - low) / (high - low) * (_WIDTH - self.left - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self._y
        return _HEIGHT - _BELOW - (self._level(value) - low) / (high - low) * (_HEIGHT - _ABOVE - _BELOW)

    def add(self, part: str) -> None:
        self._parts.append(part)

    def text(self, x: float, y: float, text: str, anchor: str) -> None:
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>')

    def rule(self, path: str, dashes: str) -> None:
        self.add(f'<path d="{path}" stroke="currentColor" stroke-opacity="0.6" stroke-dasharray="{dashes}"/>')

    def line(self, points: Points, colour: str, attributes: str) -> None:
        places = _thinned([(self.x(x), self.y(y)) for x, y in points])
        path = " ".join(f"{x:.2f},{y:.2f}" for x, y in places)
        self.add(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-linejoin="round" {attributes}/>')
        if len(places) == 1:
            self.add(
                f'<path d="M{path.replace(",", " ")}h0" stroke="{colour}" stroke-width="7" stroke-linecap="round"/>'
            )

    def is_noisy(self, points: Points, mean: Points) -> bool:
        """Return whether points are seen to lie about their running mean rather than on it."""
        apart = [abs(self.y(y) - self.y(of_mean)) for (_, y), (_, of_mean) in zip(points, mean, strict=True)]
        return median(apart) > 1.5  # units of the drawing

    def markup(self) -> str:
        inside = "".join(self._parts)
        plot = (self.left, _WIDTH - _RIGHT, _ABOVE, _HEIGHT - _BELOW)
        frame = json.dumps({"plot": plot, "x": self._x, "y": self._y, "logarithmic": self._logarithmic})
        axis = html.escape(self._x_label)
        read_by_script = f' data-frame="{html.escape(frame)}" data-x="{axis}"' if self._is_curve else ""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
            f'height="{_HEIGHT}" font-family="sans-serif" font-size="12" fill="currentColor"{read_by_script}>'
            f"{inside}</svg>"
        )


def _legend_entry(style: str, colour: str, name: str, value: str) -> str:
    line = f'<i style="border-top: 3px {style} {colour}"></i>'
    read_by_script = f' data-name="{html.escape(name)}"' if style == "solid" else ""
    return f"<span{read_by_script}>{line}<span>{html.escape(name)}</span> <b>{value}</b></span>"


def _can_be_drawn(point: tuple[float, float], logarithmic: bool) -> bool:
    x, y = point
    return abs(x) < _LIMIT and (1 / _LIMIT < y < _LIMIT if logarithmic else abs(y) < _LIMIT)  # NaN is neither


def _thinned(places: Points) -> Points:
    """Return of places in a drawing the first, the last, and within each unit of width the lowest and the highest."""
    if len(places) <= _WIDTH:
        return places
    kept = [places[0]]
    for _, group in groupby(places, lambda place: int(place[0])):
        column = list(group)
        ends = {column.index(end(column, key=lambda place: place[1])) for end in (min, max)}
        kept += [column[number] for number in sorted(ends)]
    return [*kept, places[-1]]


def _running_mean(points: Points) -> list[tuple[float, float]]:
    """Return the mean of each point and of those about it, a thirtieth of all; fewer at the ends.

    The sums are whole numbers of the smallest float, and exact: else a spike would blur all that is small behind it.
    """
    reach = len(points) // 60
    ratios = (float(y).as_integer_ratio() for _, y in points)
    sums = [0, *accumulate(numerator * (_FINEST // denominator) for numerator, denominator in ratios)]
    ends = [(max(0, at - reach), min(len(points), at + reach + 1)) for at in range(len(points))]
    return [
        (x, (sums[end] - sums[begin]) / (_FINEST * (end - begin)))
        for (x, _), (begin, end) in zip(points, ends, strict=True)
    ]


def _range(values: Sequence[float], least: float = 0.0) -> tuple[float, float]:
    """Return the lowest and the highest value, or more where they are no further apart than a share of themselves."""
    low, high = min(values), max(values)
    largest = max(abs(low), abs(high))
    around = 0.5 if largest >= 1 else largest / 2 or 0.5
    return (low, high) if high - low > least * largest else (low - around, high + around)


def _ticks(low: float, high: float) -> list[float]:
    """Return three to seven round numbers between two."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [round(number * step, 12) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _powers(low: float, high: float) -> list[float]:
    """Return the powers of ten between two logarithms, at most seven, or with few of them also 2 and 5 times these."""
    exponents = range(math.ceil(low), math.floor(high) + 1)
    powers = [10.0**exponent for exponent in exponents[:: math.ceil(len(exponents) / 7) or 1]]
    if len(powers) > 2:
        return powers
    finer = [
        factor * 10.0**exponent for exponent in range(math.floor(low), math.ceil(high) + 1) for factor in (1, 2, 5)
    ]
    return [value for value in finer if low <= math.log10(value) <= high]


def _written(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _label(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 and value == round(value) else f"{value:g}"
