"""Reproduce a table of a paper: train what is missing, evaluate, and compare with the published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mcir.launch import Log
from mcir.tables.commands import PaperTable, RclTable, TableCommand
from mcir.tables.datasets import how_to_get
from mcir.tables.evaluation import evaluate_run
from mcir.tables.plan import plan, train
from mcir.tables.published import Table, read_table
from mcir.tables.rcl_tables import evaluate_proxies, plan_proxies
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
    return reproduce_table(read_table(name), command, log)


def reproduce_table(table: Table, command: TableCommand, log: Log = print) -> int:
    """Reproduce a table; see :func:`reproduce`."""
    if isinstance(command, RclTable):
        table, runs = plan_proxies(table, command)
    else:
        assert isinstance(command, PaperTable)
        runs = plan(table, command)
    log(f"{table.name}: {table.title}\n")
    if command.train:
        complete = train(runs, command, log)
        if command.no_wait:
            return 0 if complete else 1
    if isinstance(command, RclTable):
        results = evaluate_proxies(table, runs, command, log)
    else:
        results = evaluate_trainings(table, runs, command, log)
        results.sections += [training_curves(results, runs), compared_images(results, runs)]
    missing = state_lines(runs, results.problems())
    log("\n".join(["", *missing]))
    write_results(command.results, table.name, results.data(), table_report(results, missing), log)
    return 0 if results.is_complete else 1


def evaluate_trainings(table: Table, runs: Sequence[TableRun], command: PaperTable, log: Log) -> Results:
    """Evaluate the trainings of a table that can be evaluated, and return the results without figures."""
    tested = [result for run in runs if (result := evaluate_run(run, command.again, log)) is not None]
    by_cell = {
        (result.run.row.name, column.name): result
        for result in reversed(tested)
        for column in table.columns
        if column.name in result.scores
    }
    results = Results(table, conditions={"overrides": list(command.set)})
    for key, result in by_cell.items():
        means = {metric: mean for metric in table.metrics if (mean := result.mean(key[1], metric)) is not None}
        results.cells[key] = Cell(means, is_own=result.is_own, differences=result.differences)
    for row in table.rows:
        of_row = [run for run in runs if run.row is row]
        results.row_facts[row.name] = {
            "weights": [str(found[1]) for run in of_row if (found := run.to_evaluate())],
            "problems": [result.problem for result in tested if result.run in of_row and result.problem],
            "overrides_left_out": list(dict.fromkeys(text for run in of_row for text in run.ignored)),
        }
    results.remarks += [
        f"{run.row.name} ignores {', '.join(run.ignored)}: it has no such section." for run in runs if run.ignored
    ]
    results.remarks += [
        f"¶ {result.run.row.name} was trained with other options: {', '.join(result.differences)}."
        for result in tested
        if result.differences
    ]
    results.is_complete = len(tested) == len(runs) and all(result.is_complete for result in tested)
    return results


def state_lines(runs: Sequence[TableRun], problems: Mapping[str, Sequence[str]]) -> list[str]:
    """Return lines about the state of each training, what is missing, and which rows need it.

    Args:
        runs: trainings.
        problems: problems of the evaluation, by row.
    """
    lines = [f"{run.row.name}  ({run.origin})  {run.state()}" for run in runs]
    remarks: dict[str, list[str]] = {}
    paths: dict[str, list[str]] = {}
    for run in runs:
        ignored = [f"{text} is ignored: there is no such section" for text in run.ignored]
        for line in [*ignored, *problems.get(run.row.name, ()), *run.missing_for_evaluation()]:
            remarks.setdefault(line, []).append(run.row.name)
        for path in run.missing_paths():
            paths.setdefault(path, []).append(run.row.name)
    needed = [f"{', '.join(dict.fromkeys(rows))}: {line}" for line, rows in remarks.items()]
    return [*lines, *([""] if needed else []), *needed, *([""] if paths else []), *how_to_get(paths)]
