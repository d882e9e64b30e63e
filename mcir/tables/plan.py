"""Plan and start the trainings of a table."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from mcir.config import OptionError, load
from mcir.features.base import imagenet_file
from mcir.launch import LaunchOptions, start
from mcir.registry import MODELS
from mcir.tables.cache import Log
from mcir.tables.commands import PaperTable, TableCommand
from mcir.tables.datasets import missing_paths
from mcir.tables.published import Row, Run, Table
from mcir.tables.runs import TableRun


def chosen_rows(table: Table, command: TableCommand) -> list[Row]:
    """Return the rows that the settings choose, and those that they are compared with.

    Raises:
        ValueError: no row matches a pattern, or there is no folder of option files.
    """
    if not command.options.is_dir():
        raise ValueError(f"There is no folder {command.options} of option files: start in the clone, or set --options.")
    chosen: set[str] = set()
    for pattern in command.row or ["*"]:
        matching = {row.name for row in table.rows if fnmatchcase(row.name.lower(), pattern.lower())}
        if not matching:
            names = ", ".join(f"'{row.name}'" for row in table.rows)
            raise ValueError(f"No row of {table.name} matches '{pattern}'. Its rows are {names}.")
        chosen |= matching
    for row in reversed(table.rows):
        if row.name in chosen and row.against:
            chosen.add(row.against)
    return [row for row in table.rows if row.name in chosen]


def plan(table: Table, command: PaperTable) -> list[TableRun]:
    """Return the trainings of the chosen rows.

    Raises:
        ValueError: no row matches a pattern, or there is no folder of option files.
    """
    rows = chosen_rows(table, command)
    runs = []
    for row in rows:
        for run in row.runs:
            ignored = _ignored(run, command)
            overrides = [text for text in command.set if text not in ignored]
            overrides.insert(0, f"path.results_root={command.results}")
            which = command.checkpoint or row.checkpoint or table.checkpoint
            file = command.options / run.option
            facts = {"which": which, "variant": run.variant, "ignored": ignored}
            planned = TableRun.load(row, file, [*_sweep(run), *overrides], **facts)
            if run.published:
                _load_published(planned, command.options / run.published, overrides)
            runs.append(planned)
    return runs


def _load_published(run: TableRun, file: Path, overrides: Sequence[str]) -> None:
    """Load the options of the published weights of a run."""
    try:
        run.published = load(file, [text for text in overrides if not text.startswith(("train.", "datasets.train."))])
    except OptionError as error:
        run.options, run.problem = None, run.problem or str(error)


def train(runs: Sequence[TableRun], command: TableCommand, log: Log) -> bool:
    """Train or resume what has no checkpoint, if everything that it needs is there.

    Returns:
        Whether every training is complete or, if jobs of a cluster are not waited for, in progress.

    Raises:
        ValueError: Slurm is missing, or rejects a job.
    """
    startable = [run for run in runs if _can_start(run, log)]
    options = LaunchOptions.from_arguments(command, logs=command.results / "slurm")
    start([run.job for run in startable], options, log)
    waiting = [] if options.wait else startable
    return all(run.checkpoint() is not None or run in waiting for run in runs)


def _can_start(run: TableRun, log: Log) -> bool:
    """Return whether a training has to be started and can be; log what is missing."""
    if run.options is None or run.checkpoint() is not None:
        return False
    missing = [*missing_paths(run.training_sets()), *run.missing_weights()]
    if missing:
        log(f"{run.row.name}: cannot be trained, {', '.join(missing)} missing")
        return False
    try:
        for network in run.feature_networks():  # downloaded once, before several processes or a job without a network
            imagenet_file(network)
    except ValueError as error:
        log(f"{run.row.name}: cannot be trained. {error}")
        return False
    return True


def _ignored(run: Run, command: TableCommand) -> list[str]:
    """Return the overrides of subsections of ``train`` that a run does not have and that no override creates."""
    concerned = {text: keys[1] for text in command.set if len(keys := _keys(text)) > 2 and keys[0] == "train"}
    if not concerned:
        return []
    try:
        options = load(command.options / run.option, _sweep(run))
    except OptionError:  # reported when the run is planned
        return []
    known = {name for model in MODELS.names() for name in MODELS.parameters(model)}
    created = {".".join(_keys(text)).removesuffix(".type") for text in command.set}
    own = options.train.model if options.train is not None else {}
    return [
        text
        for text, section in concerned.items()
        if section in known and not own.get(section) and f"train.{section}" not in created
    ]


def _keys(override: str) -> list[str]:
    return override.partition("=")[0].strip().split(".")


def _sweep(run: Run) -> list[str]:
    return [f"sweep={run.variant}"] if run.variant else []
