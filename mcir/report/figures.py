"""Figures of a page: curves and bars as SVG, pictures as PNG, all written into it."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2

from mcir.report.comparison import Picture

Points = Sequence[tuple[float, float]]

_COLOURS = ("#1f6fb4", "#d9730d", "#2e8b57", "#b23a6f", "#6b5bb5", "#8c6d31", "#4a9aa8", "#777777")


@dataclass
class Figure:
    """A drawing (SVG) or a picture (PNG), ready to stand in a page, and what it shows."""

    caption: str
    markup: str


def picture_figure(picture: Picture, caption: str) -> Figure:
    """Return a picture (H, W, 3), RGB, as a PNG inside the page."""
    encoded, data = cv2.imencode(".png", picture[:, :, ::-1])
    assert encoded
    text = base64.b64encode(data.tobytes()).decode("ascii")
    return Figure(caption, f'<img src="data:image/png;base64,{text}" alt="{html.escape(caption)}">')


def curves(series: Mapping[str, Points], caption: str, x_label: str, y_label: str) -> Figure:
    """Draw lines through points (x, y), one colour a series."""
    frame = _Frame([point for points in series.values() for point in points], x_label, y_label)
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
        frame.add(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        frame.legend(number, name, colour)
    return Figure(caption, frame.markup())


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
            frame.add(f'<path d="M{middle:.1f} {low:.1f}V{high:.1f}" stroke="#222" stroke-width="1.5"/>')
        frame.text((left + right) / 2, _HEIGHT - _BELOW + 16, name, "middle")
    frame.add(f'<path d="M{_LEFT} {zero:.1f}H{_WIDTH - _RIGHT}" stroke="#222"/>')
    return Figure(caption, frame.markup())


_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _ABOVE, _BELOW = 64, 16, 14, 40


class _Frame:
    """Axes, and what is drawn between them."""

    def __init__(self, points: Points, x_label: str, y_label: str, ticks: bool = True) -> None:
        points = [point for point in points if all(map(math.isfinite, point))] or [(0.0, 0.0)]
        self._x = _range([x for x, _ in points])
        low, high = _range([y for _, y in points])
        margin = 0.05 * (high - low)
        self._y = (low - margin, high + margin)
        self._parts: list[str] = []
        for value in _ticks(*self._y):
            level = self.y(value)
            self.add(f'<path d="M{_LEFT} {level:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
            self.text(_LEFT - 6, level + 4, f"{value:g}", "end")
        if ticks:
            for value in _ticks(*self._x):
                self.text(self.x(value), _HEIGHT - _BELOW + 16, f"{value:g}", "middle")
        self.text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, x_label, "middle")
        middle = _HEIGHT / 2
        self.add(
            f'<text x="14" y="{middle}" transform="rotate(-90 14 {middle})" text-anchor="middle">'
            f"{html.escape(y_label)}</text>"
        )

    def x(self, value: float) -> float:
        low, high = self._x
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self._y
        return _HEIGHT - _BELOW - (value - low) / (high - low) * (_HEIGHT - _ABOVE - _BELOW)

    def add(self, part: str) -> None:
        self._parts.append(part)

    def text(self, x: float, y: float, text: str, anchor: str) -> None:
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>')

    def legend(self, number: int, name: str, colour: str) -> None:
        line = _HEIGHT - _BELOW - 12 - 16 * number
        self.add(f'<path d="M{_WIDTH - 210} {line - 4}h20" stroke="{colour}" stroke-width="3"/>')
        self.text(_WIDTH - 184, line, name, "start")

    def markup(self) -> str:
        inside = "".join(self._parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
            f'height="{_HEIGHT}" font-family="sans-serif" font-size="12" fill="#222">{inside}</svg>'
        )


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers between two."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [round(number * step, 12) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
