"""Show the progress of many images: as a bar in a terminal, otherwise as a line every ten seconds."""

from __future__ import annotations

import time
from datetime import timedelta

from rich.progress import BarColumn, Progress

from mcir.console import Console, TextColumn

INTERVAL = 10.0
"""Seconds between two lines if there is no terminal."""


class BatchProgress:
    """Count images and megapixels, and show their rates and the remaining time.

    Args:
        console: console for the bar or the lines.
        images: total number of images.
        megapixels: total size of the images, from which the remaining time is estimated.
    """

    def __init__(self, console: Console, images: int, megapixels: float) -> None:
        self._console = console
        self._total = images, megapixels
        self.images = 0
        self.megapixels = 0.0
        self._shown = 0.0
        self._start = self._printed = time.monotonic()
        columns = (BarColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task(self._text(), total=megapixels)

    def __enter__(self) -> BatchProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def finish(self, images: int, megapixels: float) -> None:
        """Count finished images and their megapixels."""
        self.images += images
        self.megapixels += megapixels
        self.update(0.0)

    def update(self, megapixels: float) -> None:
        """Show the progress within the current images, in megapixels."""
        self._shown = max(self._shown, self.megapixels + megapixels)  # computed images may not be written yet
        self._bar.update(self._task, completed=self._shown, description=self._text())
        if self._bar.disable and time.monotonic() - self._printed >= INTERVAL:
            self._printed = time.monotonic()
            self._console.print(self._text())

    def speed(self) -> str:
        """Return images and megapixels per second as text."""
        seconds = max(1e-9, time.monotonic() - self._start)
        return f"{self.images / seconds:.3g} images/s, {self._shown / seconds:.3g} megapixels/s"

    def _text(self) -> str:
        images, megapixels = self._total
        text = f"{self.images}/{images} images"
        if not self._shown:
            return text
        seconds = (time.monotonic() - self._start) * (megapixels - self._shown) / self._shown
        return f"{text}, {self.speed()}, eta {timedelta(seconds=round(seconds))}"
