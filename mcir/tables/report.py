"""Reports: the same content as Markdown and as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Points = Sequence[tuple[float, float]]

_COLOURS = ("#1f6fb4", "#d9730d", "#2e8b57", "#b23a6f", "#6b5bb5", "#8c6d31", "#4a9aa8", "#777777")
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { border-bottom: 1px solid #ddd; padding: .25rem .7rem }
td { text-align: right; font-variant-numeric: tabular-nums } td:first-child, th:first-child { text-align: left }
figure { display: inline-block; margin: .5rem } figcaption { font-size: .85rem; color: #555; max-width: 34rem }
img { max-width: 100% } pre { background: #f5f5f5; padding: .6rem; overflow-x: auto }
"""


@dataclass
class Figure:
    """A drawing (SVG) or a picture (PNG), ready to stand in a page, and what it shows."""

    caption: str
    markup: str


@dataclass
class Section:
    """A part of a report: a heading, paragraphs, a table, figures; ``code`` is shown as it stands.

    The first row of ``table`` are its headings.
    """

    heading: str
    paragraphs: list[str] = field(default_factory=list)
    table: list[list[str]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    code: str = ""


@dataclass
class Report:
    """A title and its sections."""

    title: str
    sections: list[Section]

    def as_markdown(self) -> str:
        """Return the report as Markdown; figures stand only in the page."""
        lines = [f"# {self.title}", ""]
        for section in self.sections:
            if section.paragraphs or section.table or section.code:
                lines += [f"## {section.heading}", ""]
            for paragraph in section.paragraphs:
                lines += [paragraph, ""]
            if section.table:
                head, *rows = section.table
                lines += [_row(head), "|---" + "|---:" * (len(head) - 1) + "|", *map(_row, rows), ""]
            if section.code:
                lines += ["```", section.code, "```", ""]
        return "\n".join(lines)

    def as_html(self) -> str:
        """Return the report as a page; drawings and pictures are in it."""
        parts = [f"<h1>{html.escape(self.title)}</h1>"]
        for section in self.sections:
            parts.append(f"<h2>{html.escape(section.heading)}</h2>")
            parts += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.paragraphs]
            if section.table:
                head, *rows = section.table
                parts.append("<table><thead>" + _html_row(head, "th") + "</thead><tbody>")
                parts += [_html_row(row, "td") for row in rows]
                parts.append("</tbody></table>")
            if section.code:
                parts.append(f"<pre>{html.escape(section.code)}</pre>")
            for figure in section.figures:
                caption = html.escape(figure.caption)
                parts.append(f"<figure>{figure.markup}<figcaption>{caption}</figcaption></figure>")
        body = "\n".join(parts)
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(self.title)}</title>'
            f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
        )

    def write(self, folder: Path, name: str) -> list[Path]:
        """Write ``folder/name.md`` and ``folder/name.html`` and return them.

        Raises:
            OSError: they cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{name}.md", folder / f"{name}.html"]
        for file, text in zip(files, (self.as_markdown(), self.as_html()), strict=True):
            file.write_text(text, encoding="utf-8")
        return files


# -- figures ----------------------------------------------------------------------------------------------------------


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


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _html_row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
