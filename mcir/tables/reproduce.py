"""Reproduce a table of a paper: train what is missing, evaluate, and compare with the published numbers."""

from __future__ import annotations

from collections.abc import Sequence

from mcir.launch import Log
from mcir.tables.commands import PaperTable, RclTable, TableCommand
from mcir.tables.datasets import how_to_get, missing_paths
from mcir.tables.evaluation import RunResult, evaluate_run
from mcir.tables.plan import plan, train
from mcir.tables.published import Row, Table, read_table
from mcir.tables.rcl_tables import reproduce_proxy_table
from mcir.tables.render import write_results
from mcir.tables.results import Cell, Results
from mcir.tables.runs import TableRun
from mcir.tables.table_figures import compared_images, training_curves
from mcir.tables.table_report import table_report


def reproduce(name: str, command: TableCommand, log: Log = print) -> int:
    """Train the rows of a table with ``--train``, evaluate what can be evaluated, and write the report.

    Returns:
        0 if every chosen row has all results, from published weights or from a training with the options of the row,
        else 1. With ``--no-wait``, nothing is evaluated, and 0 means that all missing trainings are submitted.

    Raises:
        ValueError: there is no such table or row, or the settings are not valid.
        SystemExit: a signal stopped a training; the same call resumes.
    """
    if command.launcher == "slurm" and not command.train:
        raise ValueError("--launcher slurm needs --train.")
    table = read_table(name)
    if isinstance(command, RclTable):
        return reproduce_proxy_table(table, command, log)
    assert isinstance(command, PaperTable)
    return reproduce_table(table, command, log)


def reproduce_table(table: Table, command: PaperTable, log: Log = print) -> int:
    """Reproduce a table of the MCIR paper; see :func:`reproduce`."""
    runs = plan(table, command)
    log(f"{table.name}: {table.title}\n")
    if command.train:
        complete = train(runs, command, log)
        if command.no_wait:
            return 0 if complete else 1
    tested = [result for run in runs if (result := evaluate_run(run, command.again, log)) is not None]
    missing = _state_lines(runs, tested)
    log("\n".join(["", *missing]))
    by_cell = {(row.name, c.name): r for row in table.rows for c in table.columns if (r := _find(tested, row, c.name))}
    results = _results(table, runs, tested, by_cell, command)
    sections = [training_curves(results, runs), compared_images(results, by_cell)]
    write_results(command.results, table.name, results.data(), table_report(results, sections, missing), log)
    return 0 if len(tested) == len(runs) and all(result.is_complete for result in tested) else 1


def _find(tested: Sequence[RunResult], row: Row, data_set: str) -> RunResult | None:
    """Return the results of a row on a data set."""
    return next((result for result in tested if result.run.row is row and data_set in result.scores), None)


def _results(
    table: Table,
    runs: Sequence[TableRun],
    tested: Sequence[RunResult],
    by_cell: dict[tuple[str, str], RunResult],
    command: PaperTable,
) -> Results:
    cells = {}
    for key, result in by_cell.items():
        means = {metric: mean for metric in table.metrics if (mean := result.mean(key[1], metric)) is not None}
        cells[key] = Cell(means, is_own=result.is_own, differences=result.differences)
    facts = {}
    for row in table.rows:
        of_row = [run for run in runs if run.row is row]
        facts[row.name] = {
            "weights": [str(found[1]) for run in of_row if (found := run.to_evaluate())],
            "problems": [result.problem for result in tested if result.run.row is row and result.problem],
            "overrides_left_out": list(dict.fromkeys(text for run in of_row for text in run.ignored)),
        }
    remarks = [
        f"{run.row.name} ignores {', '.join(run.ignored)}: it has no such section." for run in runs if run.ignored
    ]
    remarks += [
        f"¶ {result.run.row.name} was trained with other options: {', '.join(result.differences)}."
        for result in tested
        if result.differences
    ]
    conditions = {"overrides": list(command.set)}
    return Results(table, cells, conditions=conditions, row_facts=facts, remarks=remarks)


def _state_lines(runs: Sequence[TableRun], tested: Sequence[RunResult]) -> list[str]:
    """Return lines about the state of each training, what is missing, and which rows need it."""
    lines = [f"{run.row.name}  ({run.origin})  {run.state()}" for run in runs]
    remarks: dict[str, list[str]] = {}
    paths: dict[str, list[str]] = {}
    for run in runs:
        ignored = [f"{text} is ignored: there is no such section" for text in run.ignored]
        problems = [result.problem for result in tested if result.run is run and result.problem]
        for line in [*ignored, *problems, *run.missing_for_evaluation()]:
            remarks.setdefault(line, []).append(run.row.name)
        if run.options is not None:
            sets = [] if run.checkpoint() else run.training_sets()
            for path in missing_paths([*sets, *run.test_sets().values()]):
                paths.setdefault(path, []).append(run.row.name)
    needed = [f"{', '.join(dict.fromkeys(rows))}: {line}" for line, rows in remarks.items()]
    return [*lines, *([""] if needed else []), *needed, *([""] if paths else []), *how_to_get(paths)]
