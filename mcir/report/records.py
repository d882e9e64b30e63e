"""What a training left in its folder, read as it is found: whole, half written, or not there."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mcir.registry import suggestion
from mcir.report.progress import FOLDER, Progress, read

RESULTS, STARTS, OPTIONS = "results.jsonl", "environment.jsonl", "options.yml"
"""Files of a run: what it told, with what it was started each time, and its options as resolved."""

_NO_SCALARS = {"kind", "iteration"}
_DIFF_HEADS = ("---", "+++", "@@")


@dataclass
class Metric:
    """A metric of a validation set while a network trained; ``of_input`` is that of what the network was given."""

    points: list[tuple[int, float]] = field(default_factory=list)
    images: dict[int, dict[str, float]] = field(default_factory=dict)
    given: str = "input"
    of_input: float | None = None
    unit: str = ""
    higher_is_better: bool = True

    @property
    def last(self) -> tuple[int, float]:
        """The iteration of the last value, and the value."""
        return self.points[-1]

    @property
    def best(self) -> tuple[int, float]:
        """The iteration of the best value, the first of equal ones, and the value; NaN is never best."""
        sign = 1 if self.higher_is_better else -1
        return max(self.points, key=lambda point: -math.inf if math.isnan(point[1]) else sign * point[1])

    def shown(self, value: float, sign: str = "") -> str:
        """Write a value with its unit, on one line; two digits for decibels and four for shares."""
        if math.isnan(value):
            return "no number"
        return f"{value:{sign}.2f}\N{NO-BREAK SPACE}{self.unit}" if self.unit else f"{value:{sign}.4f}"


@dataclass
class Run:
    """A training.

    Attributes:
        name: of its folder.
        folder: where it is.
        starts: what was told at each start, the first one first.
        options: as resolved at the last start.
        scalars: what was told of the iterations, (iteration, value) by name.
        metrics: of the validation sets, by set and name.
        pictures: the images it was watched by, by set and name.
        missing: what is not there, or cannot be read, in words.
        iteration: the last one that is known of.
        running: whether it goes on at this moment.
    """

    name: str
    folder: Path
    starts: list[dict[str, Any]] = field(default_factory=list)
    options: str = ""
    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    metrics: dict[str, dict[str, Metric]] = field(default_factory=dict)
    pictures: dict[str, dict[str, Progress]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    iteration: int = 0
    running: bool = False

    @property
    def total(self) -> int | None:
        """How many iterations it was to have, as far as that was recorded."""
        total = self.starts[-1].get("total_iter") if self.starts else None
        return total if isinstance(total, int) else None

    @property
    def state(self) -> str:
        """Where it stands, in words."""
        if self.running:
            return f"running: iteration {self.iteration:,}" + (f" of {self.total:,}" if self.total else "")
        if self.total is None:
            return f"at iteration {self.iteration:,}, of how many is not recorded"
        if self.iteration >= self.total:
            return f"finished: {self.total:,} iterations"
        return f"stopped at iteration {self.iteration:,} of {self.total:,}"


def find_run(run: str, experiments: Path = Path("experiments")) -> Path:
    """Return the folder of a run: the one that is named, or the one of that name among the experiments.

    Raises:
        ValueError: there is none, or nothing that a training leaves is in it.
    """
    folder = next((place for place in (Path(run), experiments / run) if place.is_dir()), None)
    if folder is None:
        near = suggestion(run, (place.name for place in experiments.glob("*/")))
        raise ValueError(f"{run}: there is no such folder, nor {experiments / run}.{near}")
    if not any((folder / part).exists() for part in (RESULTS, STARTS, OPTIONS, FOLDER, "training_states", "models")):
        raise ValueError(f"{folder}: no training was here: there is neither {RESULTS} nor {STARTS} nor a checkpoint.")
    return folder


def read_run(folder: Path, running: bool = False) -> Run:
    """Read what a training left; what is not there is named in ``missing``.

    Raises:
        OSError: a file is there and cannot be read.
    """
    run = Run(folder.resolve().name, folder, running=running)
    _read_starts(run)
    _read_results(run)
    run.pictures, lost = read(folder)
    run.missing += lost
    saved = [*folder.glob("training_states/*.state"), *folder.glob("models/net_g_*.pth")]
    numbers = (file.stem.rpartition("_")[2] for file in saved)
    run.iteration = max([run.iteration, *(int(number) for number in numbers if number.isdecimal())])
    if not any(run.metrics.values()):
        run.missing.append("No validation is recorded: there are no results on images that were not trained on.")
    elif not run.pictures and not lost:
        run.missing.append(
            f"{FOLDER}/: there are no pictures over time (val.pictures may be 0, or the run an old one)."
        )
    return run


def _read_starts(run: Run) -> None:
    run.starts = [start for start in _records(run, STARTS) if isinstance(start.get("iteration"), int)]
    if not run.starts:
        run.missing.append(f"{STARTS}: with what, on what machine and how long it was to be trained is not recorded.")
    options = run.folder / OPTIONS
    if options.is_file():
        run.options = options.read_text(encoding="utf-8", errors="replace")
        if not _is_mapping(run.options):
            run.missing.append(f"{OPTIONS}: these are no options, as they are no YAML of names and values.")
    else:
        run.missing.append(f"{OPTIONS}: the options are not recorded.")


def _read_results(run: Run) -> None:
    """Read the lines; of an iteration that stands there twice, the last counts."""
    scalars: dict[str, dict[int, float]] = {}
    points: dict[tuple[str, str], dict[int, float]] = {}
    for record in _records(run, RESULTS):
        iteration = record.get("iteration")
        if not isinstance(iteration, int):
            continue
        run.iteration = max(run.iteration, iteration)
        if record.get("kind") == "train":
            for name, value in _numbers(record).items():
                scalars.setdefault(name, {})[iteration] = value
        elif record.get("kind") == "val":
            data_set = str(record.get("dataset"))
            for name, value in _numbers(record).items():
                points.setdefault((data_set, name), {})[iteration] = value
                metric = run.metrics.setdefault(data_set, {}).setdefault(name, Metric())
                _note_conditions(metric, name, record)
    run.scalars = {name: sorted(values.items()) for name, values in scalars.items()}
    for (data_set, name), values in points.items():
        run.metrics[data_set][name].points = sorted(values.items())
    if not (run.folder / RESULTS).is_file():
        run.missing.append(f"{RESULTS}: losses, speed and results are not recorded.")
    odd = [name for name, values in run.scalars.items() if not all(math.isfinite(value) for _, value in values)]
    if odd:
        run.missing.append(f"{', '.join(odd)}: values that are no finite numbers are not drawn.")
    if (run.folder / f"{RESULTS}.abandoned").is_file():
        run.missing.append(
            f"{RESULTS}.abandoned: what was told of iterations that were made again after a resume is not shown."
        )


def _records(run: Run, name: str) -> list[dict[str, Any]]:
    """Read the records of a file of a run, and note how many of its lines are none."""
    lines = _lines(run.folder / name)
    records = list(_parsed(lines))
    if damaged := len(lines) - len(records):
        run.missing.append(f"{name}: {damaged} of {len(lines)} lines cannot be read (one may be half written).")
    return records


def _is_mapping(text: str) -> bool:
    try:
        return isinstance(yaml.compose(text, yaml.SafeLoader), yaml.MappingNode)
    except (yaml.YAMLError, RecursionError):
        return False


def _note_conditions(metric: Metric, name: str, record: dict[str, Any]) -> None:
    def of_metric(key: str) -> Any:
        values = record.get(key)
        return values.get(name) if isinstance(values, dict) else None

    metric.given = str(record.get("given", metric.given))
    metric.unit = str(of_metric("unit") or metric.unit)
    metric.higher_is_better = of_metric("higher_is_better") is not False
    of_input = _number(of_metric("of_input"))
    metric.of_input = metric.of_input if of_input is None else of_input
    images = of_metric("images")
    if isinstance(images, dict):
        metric.images[record["iteration"]] = _numbers(images)


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    found = {str(name): _number(value) for name, value in record.items() if name not in _NO_SCALARS}
    return {name: value for name, value in found.items() if value is not None}


def _number(value: Any) -> float | None:
    """Return a number as JSON lines have it: what is not finite stands there as a word."""
    if isinstance(value, bool) or not (isinstance(value, int | float) or value in ("inf", "-inf", "nan")):
        return None
    return float(value)


def read_records(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file of JSON lines, if it is there; what is no whole record is passed over."""
    return _parsed(_lines(file))


def _parsed(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    def whole(digits: str) -> float:  # beyond what a float tells apart nothing was counted
        return int(digits) if len(digits) < 16 else float(digits)

    for line in lines:
        try:
            record = json.loads(line, parse_int=whole)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []


def changed_lines(before: str, now: str) -> list[str]:
    """Return the lines that are gone, behind a ``-``, and those that are new, behind a ``+``."""
    lines = difflib.unified_diff(before.splitlines(), now.splitlines(), n=0, lineterm="")
    return [line for line in lines if not line.startswith(_DIFF_HEADS)]
