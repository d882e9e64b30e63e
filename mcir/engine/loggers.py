"""The log of a run: terminal output, TensorBoard files, and JSON lines."""

import errno
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text
from torch import Tensor

from mcir.atomic import write_atomically
from mcir.checked_json import append_record, parse_record, read_records
from mcir.console import Console
from mcir.device import memory_used
from mcir.engine.environment import record_start
from mcir.engine.evaluation import Evaluation, Score
from mcir.engine.log_output import LogOutput
from mcir.engine.progress_row import ProgressRow, fitting, format_remaining, interest
from mcir.engine.speed import Speed
from mcir.engine.text_log import TextLog
from mcir.report import progress
from mcir.report.comparison import Picture
from mcir.report.metric import format_value
from mcir.report.option_changes import OptionChange
from mcir.report.records import RESULTS
from mcir.terminal import LogFormatter, LogHandler

_KEPT = 10_000
"""Number of lines and values that are kept in memory until they can be written."""

_WIDTH = 200
"""Width of tables in the text log."""


class _Console(Console):
    """A console that raises an error, instead of ending the process, if the reader of a pipe has ended."""

    def on_broken_pipe(self) -> None:
        """Discard all later output."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))


class RunLog:
    """The log of a run. If a part of it cannot be written, the run continues; see :class:`LogOutput`.

    Args:
        folder: folder of the run, which gets ``results.jsonl``, ``progress/`` and TensorBoard files. None disables the
            log, for ranks other than 0.
        total: number of iterations of the training.
        tensorboard: whether to write TensorBoard files.
        iteration: iteration from which the run resumes. Values of later iterations are moved to
            ``results.jsonl.abandoned`` and hidden in TensorBoard, and their images are removed.
        validated: iteration of the last validation before the resumed run. Results of later validations are removed in
            the same way.
        text_log: text log that also gets everything that is printed. None: there is none.

    Attributes:
        images: output of images of the validation.
        report: output of the files at the end of a training.
    """

    def __init__(
        self,
        folder: Path | None,
        total: int,
        tensorboard: bool,
        iteration: int = 0,
        validated: int = 0,
        text_log: TextLog | None = None,
    ) -> None:
        self.folder = folder
        self.total = total
        self.console = _Console(quiet=folder is None, soft_wrap=True)
        self.images = LogOutput("An image of the validation")
        self.report = LogOutput("The report or a comparison")
        self._terminal = LogOutput("The terminal output")
        self._lines = LogOutput(RESULTS, keep=_KEPT)
        self._starts = LogOutput("The record of this start", keep=1)
        self._events = LogOutput("The TensorBoard log", keep=_KEPT)
        self._event_pictures = LogOutput("A TensorBoard image")
        self._event_file: Any = None
        self._uses_tensorboard = tensorboard and folder is not None
        self._purge_step = iteration + 1 if iteration else None
        self._best: dict[tuple[str, str], float] = {}
        self._text_log = text_log
        self._row: ProgressRow | None = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if text_log is not None:
            text_log.open(folder)
        if iteration:
            self._lines.write(lambda: _abandon_later_lines(folder / RESULTS, iteration, validated))
            self.images.write(lambda: progress.remove_after(folder, validated))
            self._best = _best_qualities(folder / RESULTS)
        if self._uses_tensorboard:
            self._events.write(self._open_event_file)  # also without values: it hides those of later iterations

    def start(self, iteration: int) -> None:
        """Show the progress row at a terminal. ``iteration`` is the number of iterations that are already done."""
        if self.folder is not None and self.console.is_terminal and not self.console.is_dumb_terminal:
            self._row = ProgressRow(self.console, self.total, iteration)
            self._terminal.write(self._row.start)

    def advance(self, iteration: int, scalars: Mapping[str, Tensor], speed: Speed) -> None:
        """Update the progress row. ``scalars`` are those of the iteration, on the device."""
        if self._row is not None:
            self._row.advance(iteration, scalars, speed)

    def log_scalars(self, iteration: int, values: Mapping[str, float], speed: Speed) -> None:
        """Log the scalars of an iteration, with the speed and the memory."""
        if self.folder is None:
            return
        memory = memory_used() / 2**20
        logged = {**values, "images_per_s": speed.images_per_s, "data_time": speed.data_fraction, "memory_mib": memory}
        self._write_line({"kind": "train", "iteration": iteration, **logged})
        self._write_events({f"train/{name}": value for name, value in logged.items()}, iteration)
        self._starts.retry()
        eta = format_remaining((self.total - iteration) * speed.s_per_iteration)
        rates = f"{speed.images_per_s:.3g} images/s, data {speed.data_fraction:.0%}, {memory:.0f} MiB, eta {eta}"
        texts = {name: f"{name} {value:.4g}" for name, value in values.items()}
        line = "  ".join([f"{iteration}/{self.total}", *texts.values(), rates])
        if self._row is not None:
            self._row.show_loss(values)
            parts = [texts[name] for name in sorted(values, key=interest)]
            self.print(fitting(f"iteration {iteration}:", parts, self.console.width), logged=line)
        else:
            self.log_text(line)

    def log_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        """Log the results on a data set, and store its side-by-side comparisons."""
        if self.folder is None:
            return
        means = {name: score.mean for name, score in evaluation.scores.items()}
        line = {
            "kind": "val",
            "iteration": iteration,
            "dataset": evaluation.name,
            **means,
            "given": evaluation.baseline,  # key of version 0.1.0
        }
        for key in ("of_input", "unit", "higher_is_better", "images"):
            line[key] = {name: getattr(score, key) for name, score in evaluation.scores.items()}
        self._write_line(line)
        self._write_events({f"{evaluation.name}/{name}": value for name, value in means.items()}, iteration)
        for name, image in evaluation.comparisons.items():
            self._write_image(iteration, evaluation.name, name, image)
        scores = [self._styled(evaluation.name, name, score) for name, score in evaluation.scores.items()]
        self.print(Text.assemble(f"iteration {iteration}: {evaluation.name}: ", Text(", ").join(scores)))

    def log_changes(self, changes: Sequence[OptionChange]) -> None:
        """Log the options that differ from those of the checkpoint, one line each."""
        if changes:
            self.print("The options differ from those of the checkpoint:")
        for change in changes:
            parts = (f"  {change.name}: ", (change.before, "red"), " → ", (change.now, "green"))
            self.print(Text.assemble(*parts))

    def log_text(self, text: str) -> None:
        """Print a line on the terminal."""
        self.print(text)

    def print(self, content: str | Text | Table, logged: str | None = None) -> None:
        """Print a text or a table on the terminal and in the text log.

        Args:
            content: text or table.
            logged: text for the text log. Default: the content without its colours.
        """
        self._terminal.write(lambda: self.console.print_wrapped(content))
        if self._text_log is not None:
            self._text_log.write(_plain(content) if logged is None else logged)

    def record_start(self, options: str, facts: Mapping[str, Any]) -> None:
        """Record the options and the environment of this start; see :func:`~mcir.engine.environment.record_start`."""
        if self.folder is not None:
            self._starts.write(partial(record_start, self.folder, options, facts, datetime.now().astimezone()))

    def close(self) -> None:
        """Remove the progress row, and write what could not be written before."""
        if self._row is not None:
            self._terminal.write(self._row.stop)
        self._row = None
        for output in (self._lines, self._starts, self._events):
            output.retry()
        if self._text_log is not None:
            self._text_log.retry()

    def _styled(self, data_set: str, name: str, score: Score) -> Text:
        """Return the name and the mean of a metric, in green if it is the best so far."""
        best = self._best.get((data_set, name), -math.inf)
        self._best[data_set, name] = max(best, score.quality)
        return Text(f"{name} {format_value(score.mean, score.unit)}", style="green" if score.quality > best else "")

    def _write_line(self, record: Mapping[str, Any]) -> None:
        assert self.folder is not None
        self._lines.write(partial(append_record, self.folder / RESULTS, record))

    def _write_events(self, values: Mapping[str, float], iteration: int) -> None:
        if self._uses_tensorboard:
            self._events.write(lambda: self._open_event_file().add_scalars(values, iteration))

    def _write_image(self, iteration: int, data_set: str, name: str, image: Picture) -> None:
        assert self.folder is not None
        self.images.write(partial(progress.store_images, self.folder, data_set, name, iteration, image))
        if self._uses_tensorboard:
            tag = f"{data_set}/{name}"
            self._event_pictures.write(lambda: self._open_event_file().add_image(tag, image, iteration))

    def _open_event_file(self) -> Any:
        """Return the TensorBoard file, which is created at the first call."""
        from mcir.engine.event_file import EventFile  # slow to import

        assert self.folder is not None
        if self._event_file is None:
            self._event_file = EventFile(self.folder / "tb_logger", self._purge_step)
        return self._event_file


def results_table(title: str, evaluations: list[Evaluation], network: str) -> Table:
    """Return a table with the scores of the baseline and of the network, and the gain of the network."""
    table = Table(title=title)
    table.add_column("data set")
    table.add_column("method")
    for name in evaluations[0].scores:
        table.add_column(name, justify="right")
    for evaluation in evaluations:
        scores = evaluation.scores.values()
        of_input = [format_value(score.of_input, score.unit) for score in scores]
        gains = [
            Text(
                format_value(score.mean - score.of_input, score.unit, "+"),
                style="green" if score.gain > 0 else "red" if score.gain < 0 else "",
            )
            for score in scores
        ]
        table.add_row(evaluation.name, evaluation.baseline, *of_input)
        table.add_row("", network, *(format_value(score.mean, score.unit) for score in scores))
        table.add_row("", "gain", *gains, end_section=True)
    return table


def log_to_console() -> None:
    """Print log messages to the terminal. Ranks other than 0 print only errors."""
    logger = logging.getLogger("mcir")
    if not any(isinstance(handler, LogHandler) for handler in logger.handlers):
        handler = LogHandler()
        handler.setFormatter(LogFormatter())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
        logger.propagate = False


def _abandon_later_lines(file: Path, iteration: int, validated: int) -> None:
    """Move the lines of later iterations and validations, and damaged and incomplete lines, to another file."""
    if not file.is_file():
        return
    kept: list[bytes] = []
    later: list[bytes] = []
    for line in file.read_bytes().removesuffix(b"\n").split(b"\n"):
        record = parse_record(line) or {}
        at, last = record.get("iteration"), validated if record.get("kind") == "val" else iteration
        (kept if isinstance(at, int) and at <= last else later).append(line + b"\n")
    if later:
        with file.with_suffix(".jsonl.abandoned").open("ab") as abandoned:
            abandoned.write(b"".join(later))
        write_atomically(file, b"".join(kept))


def _best_qualities(file: Path) -> dict[tuple[str, str], float]:
    """Return the best quality of each data set and metric in the lines of a log; see :attr:`Score.quality`."""
    best: dict[tuple[str, str], float] = {}
    for record in read_records(file).records if file.is_file() else ():
        for name, is_higher_better in record.get("higher_is_better", {}).items():
            key, value = (record["dataset"], name), float(record.get(name, math.nan))
            best[key] = max(best.get(key, -math.inf), value if is_higher_better else -value)
    return best


def _plain(content: str | Text | Table) -> str:
    """Return what is printed at a wide terminal without colours."""
    console = Console(width=_WIDTH, color_system=None, soft_wrap=True)
    with console.capture() as captured:
        console.print(content)
    return captured.get()
