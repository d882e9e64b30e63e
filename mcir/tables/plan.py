"""Plan and start the trainings of a table."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from mcir.config import OptionError, load
from mcir.config.files import find_by_name, shipped
from mcir.features.base import imagenet_file
from mcir.launch import LaunchOptions, Log, start
from mcir.registry import MODELS
from mcir.tables.commands import PaperTable, TableCommand
from mcir.tables.datasets import missing_paths
from mcir.tables.published import Row, Run, Table
from mcir.tables.runs import TableRun


def chosen_rows(table: Table, command: TableCommand) -> list[Row]:
    """Return the rows that match ``--row``, and the rows that they are compared with.

    Raises:
        ValueError: a pattern matches no row, or the folder of option files does not exist.
    """
    if command.options is not None and not command.options.is_dir():
        raise ValueError(f"--options: there is no folder {command.options}.")
    chosen: set[str] = set()
    for pattern in command.row or ["*"]:
        matching = {row.name for row in table.rows if fnmatchcase(row.name.lower(), pattern.lower())}
        if not matching:
            names = ", ".join(f"'{row.name}'" for row in table.rows)
            raise ValueError(f"--row: no row of {table.name} matches '{pattern}'. Its rows are {names}.")
        chosen |= matching
    for row in reversed(table.rows):
        if row.name in chosen and row.against:
            chosen.add(row.against)
    return [row for row in table.rows if row.name in chosen]


def option_file(command: TableCommand, name: str) -> Path:
    """Return an option file of ``--options``, or by default of ``options`` in the current folder or of mcir."""
    return (find_by_name(name) or shipped() / name) if command.options is None else command.options / name


def plan(table: Table, command: PaperTable) -> list[TableRun]:
    """Return the trainings of the chosen rows."""
    rows = chosen_rows(table, command)
    runs = []
    for row in rows:
        for run in row.runs:
            ignored = _ignored(run, command)
            overrides = [text for text in command.set if text not in ignored]
            overrides.insert(0, f"path.results_root={command.results}")
            which = command.checkpoint or row.checkpoint or table.checkpoint
            file = option_file(command, run.option)
            overrides_of_run = [*_sweep(run), *overrides]
            planned = TableRun.load(row, file, overrides_of_run, which=which, variant=run.variant, ignored=ignored)
            if run.published:
                _load_published(planned, option_file(command, run.published), overrides)
            runs.append(planned)
    return runs


def _load_published(run: TableRun, file: Path, overrides: Sequence[str]) -> None:
    """Load the options for the published weights of a run."""
    try:
        run.published = load(file, [text for text in overrides if not text.startswith(("train.", "datasets.train."))])
    except OptionError as error:
        run.options, run.problem = None, run.problem or str(error)


def train(runs: Sequence[TableRun], command: TableCommand, log: Log) -> bool:
    """Start or resume the trainings without a checkpoint whose data and weights exist.

    A training that collapsed does not stop the others, and is not started again with the same options.

    Returns:
        Whether every training is complete or collapsed; with ``--no-wait``, also whether the others are submitted.

    Raises:
        ValueError: Slurm is missing, or rejects a job.
    """
    startable = [run for run in runs if _can_start(run, log)]
    options = LaunchOptions.from_arguments(command, logs=command.results / "slurm")
    start([run.job for run in startable], options, log)
    waiting = [] if options.wait else startable
    return all(run.untrained or run.checkpoint() is not None or run.collapse() or run in waiting for run in runs)


def _can_start(run: TableRun, log: Log) -> bool:
    """Return whether a training is incomplete and can be started; log what is missing."""
    if run.options is None or run.untrained or run.checkpoint() is not None:
        return False
    if run.collapse():
        log(f"{run.row.name}: {run.state()}")
        return False
    missing = [*missing_paths(run.training_sets()), *run.missing_weights()]
    if missing:
        log(f"{run.row.name}: cannot be trained. Missing: {', '.join(missing)}")
        return False
    try:
        for network in run.feature_networks():  # downloaded here, because jobs may have no network
            imagenet_file(network)
    except ValueError as error:
        log(f"{run.row.name}: cannot be trained. {error}")
        return False
    return True


def _ignored(run: Run, command: TableCommand) -> list[str]:
    """Return the overrides of sections below ``train`` that neither the run nor another override defines."""
    sections = {text: keys[1] for text in command.set if len(keys := _keys(text)) > 2 and keys[0] == "train"}
    if not sections:
        return []
    try:
        options = load(option_file(command, run.option), _sweep(run))
    except OptionError:  # TableRun.load reports the error
        return []
    known = {name for model in MODELS.names() for name in MODELS.parameters(model)}
    created = {".".join(_keys(text)).removesuffix(".type") for text in command.set}
    own = options.train.model if options.train is not None else {}
    return [
        text
        for text, section in sections.items()
        if section in known and not own.get(section) and f"train.{section}" not in created
    ]


def _keys(override: str) -> list[str]:
    return override.partition("=")[0].strip().split(".")


def _sweep(run: Run) -> list[str]:
    return [f"sweep={run.variant}"] if run.variant else []
