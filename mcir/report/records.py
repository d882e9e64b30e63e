"""Read the files in the folder of a training, which may be incomplete or damaged."""

from __future__ import annotations

import difflib
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mcir.checked_json import read_records, read_text
from mcir.errors import suggestion
from mcir.report.progress import FOLDER, ImageHistory, read_images

RESULTS, STARTS, OPTIONS, COLLAPSE = "results.jsonl", "environment.jsonl", "options.yml", "collapse.json"
"""Files of a run: logged values, environment of each start, resolved options, and the collapse of the training."""

_LOG = logging.getLogger("mcir")
_NOT_SCALARS = {"kind", "iteration"}


@dataclass
class Metric:
    """The values of a metric on a validation set during training.

    Attributes:
        points: (iteration, mean) pairs in order.
        images: values of each image, by iteration.
        baseline: baseline of the comparison: ``bicubic`` (the enlarged input) or ``input``.
        baseline_value: value of the baseline. None: it is not recorded.
        unit: unit of the values.
        higher_is_better: whether larger values are better.
    """

    points: list[tuple[int, float]] = field(default_factory=list)
    images: dict[int, dict[str, float]] = field(default_factory=dict)
    baseline: str = "input"
    baseline_value: float | None = None
    unit: str = ""
    higher_is_better: bool = True

    @property
    def last(self) -> tuple[int, float]:
        """The iteration and the value of the last evaluation."""
        return self.points[-1]

    @property
    def best(self) -> tuple[int, float]:
        """The iteration and the value of the best evaluation. Of equal values, the first is used; NaN is the worst."""
        sign = 1 if self.higher_is_better else -1
        return max(self.points, key=lambda point: -math.inf if math.isnan(point[1]) else sign * point[1])

    def format(self, value: float, sign: str = "") -> str:
        """Return a value with its unit, on one line of the page."""
        if math.isnan(value):
            return "not a number"
        return format_value(value, self.unit, sign).replace(" ", "\N{NO-BREAK SPACE}")


def format_value(value: float, unit: str, sign: str = "") -> str:
    """Return a metric's value with its unit. It has two decimals if there is a unit, and four otherwise."""
    return f"{value:{sign}.2f} {unit}" if unit else f"{value:{sign}.4f}"


@dataclass(frozen=True)
class Collapse:
    """The end of a training that diverged: a loss or the gradient was NaN or infinite.

    Attributes:
        iteration: first iteration with such a value.
        scalars: names of the values.
        options: resolved options of the training.
    """

    iteration: int
    scalars: list[str]
    options: str

    def __str__(self) -> str:
        """Describe the collapse."""
        return f"collapsed at iteration {self.iteration:,}: NaN or infinite values of {', '.join(self.scalars)}"


@dataclass
class Run:
    """A training.

    Attributes:
        name: name of its folder.
        folder: path of its folder.
        starts: environment of each start, in order.
        options: resolved options of the last start.
        scalars: logged values, (iteration, value) by name.
        metrics: metrics by validation set and name.
        pictures: stored images by validation set and name.
        missing: descriptions of data that are missing or cannot be read.
        iteration: last known iteration.
        running: whether the training is running now.
        collapse: collapse of the training; None if it did not diverge.
    """

    name: str
    folder: Path
    starts: list[dict[str, Any]] = field(default_factory=list)
    options: str = ""
    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    metrics: dict[str, dict[str, Metric]] = field(default_factory=dict)
    pictures: dict[str, dict[str, ImageHistory]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    iteration: int = 0
    running: bool = False
    collapse: Collapse | None = None

    @property
    def total(self) -> int | None:
        """The planned number of iterations, if it is recorded."""
        total = self.starts[-1].get("total_iter") if self.starts else None
        return total if isinstance(total, int) else None

    @property
    def state(self) -> str:
        """The progress of the training as text."""
        if self.running:
            return f"running: iteration {self.iteration:,}" + (f" of {self.total:,}" if self.total else "")
        if self.collapse is not None:
            return str(self.collapse)
        if self.total is None:
            return f"at iteration {self.iteration:,} (the planned number is not recorded)"
        if self.iteration >= self.total:
            return f"finished: {self.total:,} iterations"
        return f"stopped at iteration {self.iteration:,} of {self.total:,}"


def find_run(run: str, experiments: Path = Path("experiments")) -> Path:
    """Return the folder of a run: ``run`` as a path, or the folder of this name in ``experiments``.

    Raises:
        ValueError: there is no such folder, or it contains no files of a training.
    """
    folder = next((path for path in (Path(run), experiments / run) if path.is_dir()), None)
    if folder is None:
        near = suggestion(run, (path.name for path in experiments.glob("*/")))
        raise ValueError(f"{run}: there is no such folder, and no {experiments / run}.{near}")
    if not any((folder / part).exists() for part in (RESULTS, STARTS, OPTIONS, FOLDER, "training_states", "models")):
        raise ValueError(f"{folder}: expected the folder of a training, with {RESULTS}, {STARTS} or checkpoints.")
    return folder


def read_run(folder: Path, running: bool = False) -> Run:
    """Read the folder of a training. Missing files are described in ``Run.missing``.

    Raises:
        OSError: a file exists but cannot be read.
    """
    run = Run(folder.resolve().name, folder, running=running)
    _read_starts(run)
    _read_options(run)
    _read_results(run)
    run.collapse = read_collapse(folder)
    run.pictures, problems = read_images(folder)
    run.missing += problems
    saved = [*folder.glob("training_states/*.state"), *folder.glob("models/net_g_*.pth")]
    numbers = (file.stem.rpartition("_")[2] for file in saved)
    run.iteration = max([run.iteration, *(int(number) for number in numbers if number.isdecimal())])
    if not any(run.metrics.values()):
        run.missing.append("No validation is recorded, so there are no results.")
    elif not run.pictures and not problems:
        run.missing.append(f"{FOLDER}/: no images over time (val.pictures may be 0).")
    return run


def read_collapse(folder: Path) -> Collapse | None:
    """Return the recorded collapse of the training in a folder; None if there is none."""
    records, problem = read_records(folder / COLLAPSE)
    if problem:
        _LOG.warning("%s: %s", folder / COLLAPSE, problem)
    for record in records:
        iteration, scalars, options = (record.get(key) for key in ("iteration", "scalars", "options"))
        if isinstance(iteration, int) and isinstance(scalars, list):
            return Collapse(iteration, [str(name) for name in scalars], str(options))
    return None


def _read_starts(run: Run) -> None:
    run.starts = [start for start in _records(run, STARTS) if isinstance(start.get("iteration"), int)]
    if not run.starts:
        run.missing.append(f"{STARTS}: network, machine and planned iterations are not recorded.")


def _read_options(run: Run) -> None:
    file = run.folder / OPTIONS
    if not file.is_file():
        run.missing.append(f"{OPTIONS}: the options are not recorded.")
        return
    run.options, problem = read_text(file)
    if problem:
        run.missing.append(f"{OPTIONS}: {problem}.")
    try:
        is_mapping = isinstance(yaml.compose(run.options, yaml.SafeLoader), yaml.MappingNode)
    except (yaml.YAMLError, RecursionError):
        is_mapping = False
    if not is_mapping:
        run.missing.append(f"{OPTIONS}: expected options in YAML.")


def _read_results(run: Run) -> None:
    """Read the logged values; of several lines with the same iteration, the last one is used."""
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
                _update_metric(metric, name, record)
    run.scalars = {name: sorted(values.items()) for name, values in scalars.items()}
    for (data_set, name), values in points.items():
        run.metrics[data_set][name].points = sorted(values.items())
    if not (run.folder / RESULTS).is_file():
        run.missing.append(f"{RESULTS}: losses, speed and results are not recorded.")
    if infinite := [name for name, values in run.scalars.items() if not all(math.isfinite(y) for _, y in values)]:
        run.missing.append(f"{', '.join(infinite)}: values that are not finite are not drawn.")
    if (run.folder / f"{RESULTS}.abandoned").is_file():
        run.missing.append(f"{RESULTS}.abandoned: values of iterations that a resumed run repeated are not shown.")


def _records(run: Run, name: str) -> list[dict[str, Any]]:
    """Read a file of JSON lines of a run, and describe the damaged lines in ``Run.missing``."""
    records, problem = read_records(run.folder / name)
    if problem:
        run.missing.append(f"{name}: {problem}.")
    return records


def _update_metric(metric: Metric, name: str, record: dict[str, Any]) -> None:
    def value_of(key: str) -> Any:
        values = record.get(key)
        return values.get(name) if isinstance(values, dict) else None

    metric.baseline = str(record.get("given", metric.baseline))  # key of version 0.1.0
    metric.unit = str(value_of("unit") or metric.unit)
    metric.higher_is_better = value_of("higher_is_better") is not False
    baseline = _number(value_of("of_input"))
    metric.baseline_value = metric.baseline_value if baseline is None else baseline
    images = value_of("images")
    if isinstance(images, dict):
        metric.images[record["iteration"]] = _numbers(images)


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    found = {str(name): _number(value) for name, value in record.items() if name not in _NOT_SCALARS}
    return {name: value for name, value in found.items() if value is not None}


def _number(value: Any) -> float | None:
    """Return a number from a JSON line, in which infinite values and NaN are strings; None for other values."""
    if isinstance(value, bool) or not (isinstance(value, int | float) or value in ("inf", "-inf", "nan")):
        return None
    return float(value)


def changed_lines(before: str, now: str) -> list[str]:
    """Return removed lines, prefixed with ``-``, and added lines, prefixed with ``+``."""
    lines = difflib.unified_diff(before.splitlines(), now.splitlines(), n=0, lineterm="")
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]
