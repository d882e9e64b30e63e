"""Embedded figures of a page: curves and bars as SVG, images as PNG."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

import cv2
import numpy as np
from markupsafe import Markup

from mcir.report.axes import LIMIT, powers, tick_label, ticks, value_range
from mcir.report.comparison import Picture

Points = Sequence[tuple[float, float]]

_COLORS = ("#2a7fc4", "#dd7418", "#2c965a", "#c4457c", "#7d68d2", "#977431", "#3797a8", "#818181")
_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 20, 32, 40  # margins of the plot
_DIGIT = 11  # width of a digit on a narrow screen, where text is largest relative to the drawing


@dataclass
class Figure:
    """An embedded drawing (SVG) or image (PNG) with a caption. ``kind`` is its CSS class."""

    caption: str
    markup: Markup
    kind: str = "picture"


def picture_figure(picture: Picture, caption: str, kind: str = "picture") -> Figure:
    """Return an image (H, W, 3), RGB, as an embedded PNG."""
    encoded, data = cv2.imencode(".png", picture[:, :, ::-1])
    assert encoded
    text = base64.b64encode(data.tobytes()).decode("ascii")
    return Figure(caption, Markup('<img src="data:image/png;base64,{}" alt="{}">').format(text, caption), kind)


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
    """Draw one line per series of points (x, y).

    A long series is reduced to the lowest and the highest point of each pixel column, so spikes remain visible. Values
    that are not finite or exceed 1e200 are left out, and so are values ≤ 0 on a logarithmic axis.

    Args:
        series: points in ascending order of x, by name. An empty series also takes a colour, so that colours are
            consistent between figures.
        caption: caption of the figure.
        x_label: label of the x axis.
        y_label: label of the y axis.
        levels: values of dashed horizontal lines, by name.
        marks: x values of dotted vertical lines.
        logarithmic: whether the y axis is logarithmic.
        smooth: whether a noisy series is drawn faintly with its running mean on top.
    """
    drawn = {name: [p for p in points if _can_be_drawn(p, logarithmic)] for name, points in series.items()}
    all_points = [point for points in drawn.values() for point in points]
    first, last = min(all_points, default=(0.0, 0.0))[0], max(all_points, default=(0.0, 0.0))[0]
    levels = {name: level for name, level in (levels or {}).items() if _can_be_drawn((first, level), logarithmic)}
    plot = _Plot([*all_points, *((first, level) for level in levels.values())], x_label, y_label, True, logarithmic)
    for mark in marks:
        if first <= mark <= last:
            plot.rule(f"M{plot.x(mark):.1f} {_TOP}V{_HEIGHT - _BOTTOM}", "1 4")
    entries = []
    for name, level in levels.items():
        plot.rule(f"M{plot.left} {plot.y(level):.1f}H{_WIDTH - _RIGHT}", "6 4")
        entries.append(_legend_entry("dashed", "currentColor", name, level))
    for number, (name, points) in enumerate(drawn.items()):
        if not points:
            continue
        color = _COLORS[number % len(_COLORS)]
        if smooth and plot.is_noisy(points, mean := _running_mean(points)):
            plot.line(points, color, Markup('class="raw" stroke-width="1" stroke-opacity="0.3"'))
            points = mean
        plot.line(points, color, Markup('data-name="{}" stroke-width="1.8"').format(name))
        entries.append(_legend_entry("solid", color, name, points[-1][1]))
    legend = Markup('<p class="legend"><span class="at"></span>{}</p>').format(Markup().join(entries))
    return Figure(caption, plot.markup(caption) + legend * bool(entries), "drawing")


def spans_decades(values: Iterable[float], decades: float = 2) -> bool:
    """Return whether all values are positive and span at least ``decades`` powers of ten.

    The lowest twentieth of the values is ignored, because a few values near 0 do not need a logarithmic axis.
    """
    found = sorted(value for value in values if math.isfinite(value))
    return bool(found) and found[0] > 0 and found[-1] >= found[len(found) // 20] * 10**decades


def bars(
    values: Mapping[str, float], caption: str, y_label: str, limits: Mapping[str, tuple[float, float]] | None = None
) -> Figure:
    """Draw one bar per value, starting at zero. ``limits`` are the ends of error bars, by name.

    If the names do not fit below the bars, the bars have numbers, and the names are in the legend.
    """
    limits = {name: ends for name, ends in (limits or {}).items() if all(map(math.isfinite, ends))}
    heights = [0.0, *values.values(), *(end for ends in limits.values() for end in ends)]
    plot = _Plot([(0, height) for height in heights] + [(len(values), 0)], "", y_label, x_ticks=False)
    fit = max(map(len, values), default=0) * _DIGIT * len(values) <= _WIDTH - plot.left - _RIGHT
    for number, (name, value) in enumerate(values.items()):
        middle = plot.bar(number + 0.2, number + 0.8, value, _COLORS[0] if value >= 0 else _COLORS[1])
        if name in limits:
            low, high = (plot.y(end) for end in limits[name])
            plot.add(f'<path d="M{middle:.1f} {low:.1f}V{high:.1f}" stroke="currentColor" stroke-width="1.5"/>')
        plot.text(middle, _HEIGHT - _BOTTOM + 16, name if fit else str(number + 1), "middle")
    plot.zero_line()
    entries = [Markup("<span><b>{}</b> {}</span>").format(number, name) for number, name in enumerate(values, 1)]
    legend = Markup('<p class="legend">{}</p>').format(Markup().join(entries)) if not fit else Markup()
    return Figure(caption, plot.markup(caption) + legend, "drawing")


def grouped_bars(series: Mapping[str, Mapping[str, float]], caption: str, y_label: str) -> Figure:
    """Draw one group of bars per name, with one bar per series, starting at zero.

    Args:
        series: values by name, by series. A value may be missing. An empty series has no bars, but takes a colour, so
            that colours are consistent between figures.
        caption: caption of the figure.
        y_label: label of the y axis.
    """
    names = list(dict.fromkeys(name for values in series.values() for name in values))
    heights = [0.0, *(value for values in series.values() for value in values.values())]
    plot = _Plot([(0, height) for height in heights] + [(len(names), 0)], "", y_label, x_ticks=False)
    drawn = [(color, values) for color, values in zip(_COLORS, series.values(), strict=False) if values]
    width = 0.7 / max(1, len(drawn))
    for number, name in enumerate(names):
        for index, (color, values) in enumerate(drawn):
            if name in values:
                left = number + 0.15 + index * width
                plot.bar(left, left + width, values[name], color)
        plot.text(plot.x(number + 0.5), _HEIGHT - _BOTTOM + 16, name, "middle")
    plot.zero_line()
    entries = [
        Markup('<span><i style="border-top: 12px solid {}"></i><span>{}</span></span>').format(color, name)
        for name, color in zip(series, _COLORS, strict=False)
    ]
    legend = Markup('<p class="legend">{}</p>').format(Markup().join(entries))
    return Figure(caption, plot.markup(caption) + legend, "drawing")


class _Plot:
    """A drawing with axes. The label of the y axis is above the plot.

    Attributes:
        left: x coordinate of the y axis: at least 72, or more if the longest tick label needs it.
    """

    def __init__(
        self, points: Points, x_label: str, y_label: str, x_ticks: bool = True, logarithmic: bool = False
    ) -> None:
        points = points or [(0.0, 1.0)]
        self._logarithmic, self._is_curve, self._x_label = logarithmic, x_ticks, x_label
        self._x = value_range([x for x, _ in points])
        low, high = value_range([self._level(y) for _, y in points], 1e-4)
        margin = 0.05 * (high - low)
        self._y = (low - margin, high + margin)
        self._parts: list[Markup] = []
        levels = [(self.y(value), tick_label(value)) for value in (powers if logarithmic else ticks)(*self._y)]
        self.left = max([_LEFT, *(6 + _DIGIT * len(label) for _, label in levels)])
        for level, label in levels:
            path = f"M{self.left} {level:.1f}H{_WIDTH - _RIGHT}"
            self.add(f'<path d="{path}" stroke="currentColor" stroke-opacity="0.15"/>')
            self.text(self.left - 6, level + 4, label, "end")
        for value in ticks(*self._x) if x_ticks else ():
            at, label = self.x(value), tick_label(value)
            overflows = at + _DIGIT / 2 * len(label) > _WIDTH
            self.text(_WIDTH if overflows else at, _HEIGHT - _BOTTOM + 16, label, "end" if overflows else "middle")
        self.text((self.left + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, x_label, "middle")
        self.text(0, 16, y_label, "start")

    def _level(self, value: float) -> float:
        return math.log10(value) if self._logarithmic else value

    def x(self, value: float) -> float:
        low, high = self._x
        return self.left + (value - low) / (high - low) * (_WIDTH - self.left - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self._y
        return _HEIGHT - _BOTTOM - (self._level(value) - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def add(self, part: str) -> None:
        self._parts.append(Markup(part))  # noqa: S704 (numbers and colours, or escaped text)

    def text(self, x: float, y: float, text: str, anchor: str) -> None:
        self.add(Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text))

    def bar(self, left: float, right: float, value: float, color: str) -> float:
        """Draw a bar from zero to a value, and return the x coordinate of its centre."""
        ends = self.x(left), self.x(right)
        top, height = min(self.y(value), self.y(0)), abs(self.y(value) - self.y(0))
        size = f'y="{top:.1f}" width="{ends[1] - ends[0]:.1f}" height="{height:.1f}"'
        self.add(f'<rect x="{ends[0]:.1f}" {size} fill="{color}"/>')
        return sum(ends) / 2

    def zero_line(self) -> None:
        self.add(f'<path d="M{self.left} {self.y(0):.1f}H{_WIDTH - _RIGHT}" stroke="currentColor"/>')

    def rule(self, path: str, dashes: str) -> None:
        self.add(f'<path d="{path}" stroke="currentColor" stroke-opacity="0.6" stroke-dasharray="{dashes}"/>')

    def line(self, points: Points, color: str, attributes: Markup) -> None:
        positions = _reduced([(self.x(x), self.y(y)) for x, y in points])
        path = " ".join(f"{x:.2f},{y:.2f}" for x, y in positions)
        self.add(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-linejoin="round" {attributes}/>')
        if len(positions) == 1:
            dot = path.replace(",", " ")
            self.add(f'<path d="M{dot}h0" stroke="{color}" stroke-width="7" stroke-linecap="round"/>')

    def is_noisy(self, points: Points, mean: Points) -> bool:
        """Return whether points visibly deviate from their running mean."""
        distances = [abs(self.y(y) - self.y(smoothed)) for (_, y), (_, smoothed) in zip(points, mean, strict=True)]
        return median(distances) > 1.5  # units of the drawing

    def markup(self, caption: str) -> Markup:
        area = (self.left, _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM)
        frame = json.dumps({"plot": area, "x": self._x, "y": self._y, "logarithmic": self._logarithmic})
        for_script = Markup(' data-frame="{}" data-x="{}"').format(frame, self._x_label)
        return Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{caption}" '
            'viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
            'font-family="sans-serif" font-size="12" fill="currentColor"{data}>{parts}</svg>'
        ).format(
            caption=caption, w=_WIDTH, h=_HEIGHT, data=for_script * self._is_curve, parts=Markup().join(self._parts)
        )


def _legend_entry(style: str, color: str, name: str, value: float) -> Markup:
    for_script = Markup(' data-name="{}"').format(name) if style == "solid" else Markup()
    number = f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return Markup('<span{}><i style="border-top: 3px {} {}"></i><span>{}</span> <b>{}</b></span>').format(
        for_script, style, color, name, number
    )


def _can_be_drawn(point: tuple[float, float], logarithmic: bool) -> bool:
    x, y = point
    return abs(x) < LIMIT and (1 / LIMIT < y < LIMIT if logarithmic else abs(y) < LIMIT)  # false for NaN


def _reduced(positions: Points) -> Points:
    """Return the first and the last position, and the lowest and the highest position per unit of width."""
    if len(positions) <= _WIDTH:
        return positions
    kept = [positions[0]]
    for _, group in groupby(positions, lambda position: int(position[0])):
        column = list(group)
        ends = {column.index(end(column, key=lambda position: position[1])) for end in (min, max)}
        kept += [column[number] for number in sorted(ends)]
    return [*kept, positions[-1]]


def _running_mean(points: Points) -> list[tuple[float, float]]:
    """Return the mean over a window of a thirtieth of all points. The window is smaller at the ends."""
    window = np.ones(2 * (len(points) // 60) + 1)
    values = np.array([y for _, y in points])
    means = np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")
    return [(x, mean) for (x, _), mean in zip(points, means.tolist(), strict=True)]
