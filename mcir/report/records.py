"""Read the files in the folder of a training, which may be incomplete or damaged."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mcir.checked_json import Records, read_records, read_text
from mcir.errors import suggestion
from mcir.paths import file_problem_inside
from mcir.report.metric import Metric
from mcir.report.progress import FOLDER, ImageHistory, read_images
from mcir.text import shortened

RESULTS, STARTS, OPTIONS, COLLAPSE = "results.jsonl", "environment.jsonl", "options.yml", "collapse.json"
"""Files of a run: logged values, environment of each start, resolved options, and the collapse of the training."""

_LOG = logging.getLogger("mcir")
_NOT_SCALARS = {"kind", "iteration"}
_MAX_STARTS, _MAX_NAMES, _MAX_NAME = 100, 200, 200
_MAX_OPTIONS, _MAX_OPTION_LINES, _MAX_DEPTH = 2**17, 2000, 100  # bytes, lines and levels of options.yml
_Name = TypeVar("_Name", str, tuple[str, str])


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
    records, problem = _read_inside(folder, COLLAPSE)
    if problem:
        _LOG.warning("%s: %s", folder / COLLAPSE, problem)
    for record in records:
        iteration, scalars, options = (record.get(key) for key in ("iteration", "scalars", "options"))
        if isinstance(iteration, int) and isinstance(scalars, list):
            return Collapse(iteration, [str(name) for name in scalars], str(options))
    return None


def _read_starts(run: Run) -> None:
    starts = [start for start in _records(run, STARTS) if isinstance(start.get("iteration"), int)]
    run.starts = starts[-_MAX_STARTS:]
    if len(starts) > _MAX_STARTS:
        run.missing.append(f"{STARTS}: only the last {_MAX_STARTS} of {len(starts):,} starts are shown.")
    if not run.starts:
        run.missing.append(f"{STARTS}: network, machine and planned iterations are not recorded.")


def _read_options(run: Run) -> None:
    file = run.folder / OPTIONS
    if not os.path.lexists(file):
        run.missing.append(f"{OPTIONS}: the options are not recorded.")
    elif problem := file_problem_inside(run.folder, file, _MAX_OPTIONS):
        run.missing.append(f"{OPTIONS}: {problem}.")
    else:
        text, problem = read_text(file)
        if problem:
            run.missing.append(f"{OPTIONS}: {problem}.")
        lines = text.splitlines(keepends=True)
        if len(lines) > _MAX_OPTION_LINES:
            run.missing.append(f"{OPTIONS}: only the first {_MAX_OPTION_LINES:,} of {len(lines):,} lines are shown.")
        run.options = "".join(lines[:_MAX_OPTION_LINES])
        if not _is_mapping(run.options):
            run.missing.append(f"{OPTIONS}: expected options in YAML.")


def _is_mapping(text: str) -> bool:
    """Return whether YAML text is a mapping of moderate depth. No values are built, which may be repeated endlessly."""
    depth, is_mapping = 0, False
    try:
        for number, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
            if number == 2:  # after the starts of the stream and of the document
                is_mapping = isinstance(event, yaml.MappingStartEvent)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                return False
    except (yaml.YAMLError, ValueError, OverflowError):
        return False
    return is_mapping


def _read_results(run: Run) -> None:
    """Read the logged values; of several lines with the same iteration, the last one is used."""
    scalars: dict[str, dict[int, float]] = {}
    points: dict[tuple[str, str], dict[int, float]] = {}
    hidden: set[int] = set()  # hashes, because names may be long
    for record in _records(run, RESULTS):
        iteration, data_set = record.get("iteration"), record.get("dataset")
        if not isinstance(iteration, int):
            continue
        run.iteration = max(run.iteration, iteration)
        if record.get("kind") == "train":
            for name, value in _numbers(record).items():
                _put(scalars, name, iteration, value, hidden)
        elif record.get("kind") == "val" and isinstance(data_set, str):
            for name, value in _numbers(record).items():
                if _put(points, (data_set, name), iteration, value, hidden):
                    metric = run.metrics.setdefault(data_set, {}).setdefault(name, Metric())
                    _update_metric(metric, name, record)
    run.scalars = {name: sorted(values.items()) for name, values in scalars.items()}
    for (data_set, name), values in points.items():
        run.metrics[data_set][name].points = sorted(values.items())
    if hidden:
        run.missing.append(f"{RESULTS}: {len(hidden):,} more names of values or data sets are not shown.")
    if not os.path.lexists(run.folder / RESULTS):
        run.missing.append(f"{RESULTS}: losses, speed and results are not recorded.")
    if infinite := [name for name, values in run.scalars.items() if not all(math.isfinite(y) for _, y in values)]:
        run.missing.append(f"{', '.join(infinite)}: values that are not finite are not drawn.")
    if (run.folder / f"{RESULTS}.abandoned").is_file():
        run.missing.append(f"{RESULTS}.abandoned: values of iterations that a resumed run repeated are not shown.")


def _records(run: Run, name: str) -> list[dict[str, Any]]:
    """Read a file of JSON lines of a run, and describe the damaged lines in ``Run.missing``."""
    records, problem = _read_inside(run.folder, name)
    if problem:
        run.missing.append(f"{name}: {problem}.")
    return records


def _read_inside(folder: Path, name: str) -> Records:
    """Read a file of JSON lines in the folder of a run."""
    file = folder / name
    problem = file_problem_inside(folder, file) if os.path.lexists(file) else None
    return Records([], problem) if problem else read_records(file)


def _put(values: dict[_Name, dict[int, float]], name: _Name, iteration: int, value: float, hidden: set[int]) -> bool:
    """Store a value, and return True. Beyond the limits of the page, add its hash to ``hidden`` and return False."""
    if name not in values and (len(values) >= _MAX_NAMES or len("".join(name)) > _MAX_NAME):
        hidden.add(hash(name))
        return False
    values.setdefault(name, {})[iteration] = value
    return True


def _update_metric(metric: Metric, name: str, record: dict[str, Any]) -> None:
    def value_of(key: str) -> Any:
        values = record.get(key)
        return values.get(name) if isinstance(values, dict) else None

    metric.baseline = _text(record.get("given")) or metric.baseline  # key of version 0.1.0
    metric.unit = _text(value_of("unit")) or metric.unit
    metric.higher_is_better = value_of("higher_is_better") is not False
    baseline = _number(value_of("of_input"))
    metric.baseline_value = metric.baseline_value if baseline is None else baseline
    images = value_of("images")
    if isinstance(images, dict):
        metric.images[record["iteration"]] = _numbers(images)


def _text(value: Any) -> str:
    return shortened(value) if isinstance(value, str) else ""


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    found = {str(name): _number(value) for name, value in record.items() if name not in _NOT_SCALARS}
    return {name: value for name, value in found.items() if value is not None}


def _number(value: Any) -> float | None:
    """Return a number from a JSON line, in which infinite values and NaN are strings; None for other values."""
    if isinstance(value, bool) or not (isinstance(value, int | float) or value in ("inf", "-inf", "nan")):
        return None
    return float(value)
