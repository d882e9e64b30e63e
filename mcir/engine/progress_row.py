"""The progress row of a training at a terminal, and the line of scalars above it."""

import sys
from collections.abc import Iterable, Mapping
from itertools import accumulate

import rich.console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from torch import Tensor

from mcir.console import Console
from mcir.engine.speed import Speed

_REFRESHES_PER_S = 4
_MIN_BAR, _MAX_BAR = 8, 40
_SPEED_S = 1.0
"""Time in seconds over which the speed is measured at least, after the first value."""
_DIAGNOSTICS = ("grad_", "ratio_", "cosine_", "factor_", "weight_", "loss_scale")


class ProgressRow:
    """One row at the bottom of a terminal: iteration, percentage, speed, remaining time, first loss and a bar.

    Without enough space, the bar shrinks, then the spaces and units, then the bar disappears. The row is drawn by a
    thread a few times per second, so it costs the training step two assignments.

    Args:
        console: console of the terminal.
        total: number of iterations of the training.
        iteration: number of iterations that are already done.
    """

    def __init__(self, console: Console, total: int, iteration: int = 0) -> None:
        self._total = total
        self._iteration = iteration
        self._loss = ""
        self._images_per_s = self._s_per_iteration = 0.0
        self._live = Live(
            self,
            console=console,
            refresh_per_second=_REFRESHES_PER_S,
            transient=True,
            redirect_stderr=sys.stderr.isatty(),  # messages appear above the row
        )

    def start(self) -> None:
        """Show the row."""
        self._live.start(refresh=True)

    def stop(self) -> None:
        """Remove the row."""
        self._live.stop()

    def advance(self, iteration: int, scalars: Mapping[str, Tensor], speed: Speed) -> None:
        """Set the number of iterations that are done, and the speed if it was measured over enough time.

        The loss is read only if there is none yet, because this waits for the device.
        """
        self._iteration = iteration
        if not self._images_per_s or speed.seconds > _SPEED_S:
            self._images_per_s, self._s_per_iteration = speed.images_per_s, speed.s_per_iteration
        if not self._loss:
            self.show_loss(scalars)

    def show_loss(self, scalars: Mapping[str, Tensor] | Mapping[str, float]) -> None:
        """Show the first loss."""
        name = min(scalars, key=interest)
        self._loss = f"{name} {float(scalars[name]):.4g}"

    def __rich_console__(
        self, console: rich.console.Console, options: rich.console.ConsoleOptions
    ) -> rich.console.RenderResult:
        """Yield the row, never wider than the terminal."""
        width = options.max_width
        row = ""
        for gap, unit in (("  ", "images/s"), (" ", "img/s")):
            left, right = self._facts(unit)
            row = gap.join([*left, *right])
            bar = min(width - len(row) - len(gap) - 1, _MAX_BAR)
            if bar >= _MIN_BAR:
                grid = Table.grid(padding=(0, len(gap), 0, 0))
                done = ProgressBar(self._total, min(self._iteration, self._total), width=bar)
                grid.add_row(gap.join(left), done, gap.join(right))
                yield grid
                return
            if len(row) < width:
                break
        yield Text(row, no_wrap=True, overflow="ellipsis")

    def _facts(self, unit: str) -> tuple[list[str], list[str]]:
        """Return the facts to the left and to the right of the bar."""
        left = [f"{self._iteration}/{self._total}", f"{100 * self._iteration // self._total}%"]
        if not self._images_per_s:
            return left, [f"- {unit}", "ETA -:--:--", self._loss]
        remaining = (self._total - self._iteration) * self._s_per_iteration
        return left, [f"{self._images_per_s:.3g} {unit}", f"ETA {format_remaining(remaining)}", self._loss]


def interest(name: str) -> int:
    """Return the position of a scalar in a line: losses, metrics, learning rate, then the gradients."""
    return 0 if name.startswith("l_") else 2 if name == "lr" else 3 if name.startswith(_DIAGNOSTICS) else 1


def fitting(start: str, parts: Iterable[str], width: int) -> str:
    """Return a line of as many parts as fit into the width, in order."""
    lines = list(accumulate(parts, lambda line, part: f"{line}  {part}", initial=start))
    return next((line for line in reversed(lines) if len(line) < width), start)


def format_remaining(seconds: float) -> str:
    """Return a time as hours, minutes and seconds, for example ``1:02:03``; from 100 hours on, as days and hours."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours < 100 else f"{hours // 24}d {hours % 24}h"
