"""How far the restoring of many pictures is, told to a person: a bar at a terminal, else a line now and then."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

INTERVAL = 10.0
"""Seconds between two lines, where there is no terminal."""


class Pace:
    """Counts pictures and their megapixels, and tells both a second and the time that is left.

    Args:
        console: where it is told.
        pictures: how many there are.
        megapixels: of all of them; the time that is left is judged by these.
    """

    def __init__(self, console: Console, pictures: int, megapixels: float) -> None:
        self._console = console
        self._all_pictures = pictures
        self._all_megapixels = megapixels
        self.pictures = 0
        self.megapixels = 0.0
        self._shown = 0.0
        self._start = self._told = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            columns: Any = (BarColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=console, transient=True)
            self._bar.add_task(self._text(), total=megapixels)

    def __enter__(self) -> Pace:
        """Begin to count the time."""
        self._start = self._told = time.monotonic()
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def done(self, pictures: int, megapixels: float) -> None:
        """Count pictures that are done, and their megapixels."""
        self.pictures += pictures
        self.megapixels += megapixels
        self.doing(0.0)

    def doing(self, megapixels: float) -> None:
        """Tell how much of the pictures after those is done: one large picture takes its time."""
        self._shown = max(self._shown, self.megapixels + megapixels)  # what was computed may not be written yet
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._shown, description=self._text())
        elif time.monotonic() - self._told >= INTERVAL:
            self._told = time.monotonic()
            self._console.print(self._text())

    def speed(self) -> str:
        """Return pictures and megapixels a second, as text."""
        seconds = max(1e-9, time.monotonic() - self._start)
        return f"{self.pictures / seconds:.3g} images/s, {self._shown / seconds:.3g} megapixels/s"

    def _text(self) -> str:
        text = f"{self.pictures}/{self._all_pictures} pictures"
        if not self._shown:
            return text
        seconds = (time.monotonic() - self._start) * (self._all_megapixels - self._shown) / self._shown
        return f"{text}, {self.speed()}, eta {timedelta(seconds=round(seconds))}"
