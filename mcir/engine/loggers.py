"""What a run tells: to the person at the terminal, to TensorBoard, and to programs as JSON lines."""

import json
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mcir.atomic import write_atomically
from mcir.device import memory_used
from mcir.engine.evaluation import Evaluation
from mcir.models.base import Batch
from mcir.report import progress


class RunLog:
    """Everything that the first process of a run says; the others get one that is silent.

    Args:
        folder: of the run; ``results.jsonl``, ``progress/`` and the TensorBoard files go there. None: silent.
        total: the number of iterations.
        tensorboard: whether to write TensorBoard files.
        iteration: from which a resumed run goes on. What the folder tells of later ones is no more of this run: such
            lines go to ``results.jsonl.abandoned``, TensorBoard passes over such points, and pictures are removed.
    """

    def __init__(self, folder: Path | None, total: int, tensorboard: bool, iteration: int = 0) -> None:
        self.folder = folder
        self.total = total
        self.console = Console(quiet=folder is None, highlight=False, soft_wrap=True)
        self._board: Any = None
        self._lines: Any = None
        self._progress: Progress | None = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if iteration:
            _abandon_later(folder / "results.jsonl", iteration)
            progress.forget_later(folder, iteration)
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and not every run wants it

            self._board = SummaryWriter(str(folder / "tb_logger"), purge_step=iteration + 1 if iteration else None)
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            rest = (TextColumn("eta"), TimeRemainingColumn(), TextColumn("{task.fields[told]}"))
            self._progress = Progress(*columns, *rest, console=self.console)

    # -- while training -------------------------------------------------------------------------------------------

    def start(self, iteration: int) -> None:
        """Begin to show progress, from the number of iterations already made."""
        if self._progress is not None:
            self._progress.add_task("training", total=self.total, completed=iteration, told="")
            self._progress.start()

    def advance(self, iteration: int) -> None:
        """Move the progress bar."""
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=iteration)

    def scalars(self, iteration: int, values: Mapping[str, float], speed: "Speed") -> None:
        """Tell the scalars of an iteration, and how fast it goes."""
        if self.folder is None:
            return
        memory = memory_used() / 2**20
        told = {**values, "images_per_s": speed.images_per_s, "data_time": speed.data_share, "memory_mib": memory}
        self._write_line({"kind": "train", "iteration": iteration, **told})
        if self._board is not None:
            for name, value in told.items():
                self._board.add_scalar(f"train/{name}", value, iteration)
        losses = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        pace = f"{speed.images_per_s:.3g} images/s, data {speed.data_share:.0%}, {memory:.0f} MiB"
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], told=f"{losses}  {pace}")
        else:
            eta = _duration((self.total - iteration) * speed.s_per_iteration)
            self.console.print(f"{iteration}/{self.total}  {losses}  {pace}, eta {eta}")

    def evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        """Tell the results of a data set."""
        if self.folder is None:
            return
        means = {name: score.mean for name, score in evaluation.scores.items()}
        told = {"kind": "val", "iteration": iteration, "dataset": evaluation.name, **means, "given": evaluation.given}
        for key in ("of_input", "unit", "higher_is_better", "images"):
            told[key] = {name: getattr(score, key) for name, score in evaluation.scores.items()}
        self._write_line(told)
        for name, drawn in evaluation.pictures.items():
            progress.keep(self.folder, evaluation.name, name, iteration, drawn)
        if self._board is not None:
            for name, value in means.items():
                self._board.add_scalar(f"{evaluation.name}/{name}", value, iteration)
            for name, drawn in evaluation.pictures.items():
                self._board.add_image(f"{evaluation.name}/{name}", drawn, iteration, dataformats="HWC")
        scores = ", ".join(f"{name} {shown(score)}" for name, score in evaluation.scores.items())
        self.text(f"iteration {iteration}: {evaluation.name}: {scores}")

    def text(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False)

    # -- at the end -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the progress bar and close the files."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        if self._board is not None:
            self._board.close()
            self._board = None
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def _write_line(self, record: Mapping[str, Any]) -> None:
        if self._lines is None:
            assert self.folder is not None
            self._lines = (self.folder / "results.jsonl").open("a", encoding="utf-8")
        self._lines.write(as_json(record) + "\n")
        self._lines.flush()


class Speed:
    """The speed of the training loop since the last restart.

    Args:
        world_size: the number of processes that share a batch.
    """

    def __init__(self, world_size: int = 1) -> None:
        self._world_size = world_size
        self.restart()

    def restart(self) -> None:
        """Start a new measurement."""
        self._begin = time.perf_counter()
        self._iterations = 0
        self._images = 0
        self._waited = 0.0

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches, counting their images and the time that they take to arrive."""
        self.restart()
        begin = time.perf_counter()
        for batch in batches:
            self._waited += time.perf_counter() - begin
            self._iterations += 1
            self._images += len(batch["lq"]) * self._world_size
            yield batch
            begin = time.perf_counter()

    @property
    def s_per_iteration(self) -> float:
        """Seconds per iteration."""
        return (time.perf_counter() - self._begin) / max(1, self._iterations)

    @property
    def images_per_s(self) -> float:
        """Images per second, over all processes."""
        return self._images / (time.perf_counter() - self._begin)

    @property
    def data_share(self) -> float:
        """Share of the time that was spent waiting for data."""
        return self._waited / (time.perf_counter() - self._begin)


def results_table(title: str, evaluations: list[Evaluation], trained: str) -> Table:
    """Return a table of what the network was given against what it made of it; ``trained`` is its name."""
    table = Table(title=title)
    table.add_column("data set")
    table.add_column("image by")
    for name in evaluations[0].scores:
        table.add_column(name, justify="right")
    for evaluation in evaluations:
        scores = evaluation.scores.values()
        table.add_row(evaluation.name, evaluation.given, *(shown(score, score.of_input) for score in scores))
        table.add_row("", trained, *(shown(score) for score in scores))
        table.add_row(
            "", "gain", *(shown(score, score.mean - score.of_input, "+") for score in scores), end_section=True
        )
    return table


def shown(score: Any, of: float | None = None, sign: str = "") -> str:
    """Write a value of a score with its unit, two digits for decibels and four for shares."""
    number = score.mean if of is None else of
    return f"{number:{sign}.2f} {score.unit}" if score.unit else f"{number:{sign}.4f}"


def as_json(tree: Any, indent: int | None = None) -> str:
    """Write a tree as standard JSON; an infinite value (the PSNR of a perfect image) becomes the string ``"inf"``."""
    return json.dumps(_finite(tree), allow_nan=False, indent=indent)


def log_to_console() -> None:
    """Show the notices of mcir at the terminal; of several processes only the first gives more than errors."""
    logger = logging.getLogger("mcir")
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
        logger.propagate = False


def _abandon_later(lines: Path, iteration: int) -> None:
    """Put aside the lines of later iterations, and one that a killed process left half."""
    if not lines.exists():
        return
    kept: list[str] = []
    later: list[str] = []
    for line in lines.read_text(encoding="utf-8").splitlines(keepends=True):
        (kept if _is_until(line, iteration) else later).append(line)
    if later:
        with lines.with_suffix(".jsonl.abandoned").open("a", encoding="utf-8") as aside:
            aside.write("".join(later).rstrip("\n") + "\n")
        write_atomically(lines, "".join(kept).encode())


def _is_until(line: str, iteration: int) -> bool:
    try:
        return bool(json.loads(line)["iteration"] <= iteration)
    except json.JSONDecodeError:
        return False


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _finite(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _finite(part) for key, part in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(part) for part in tree]
    return str(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree
