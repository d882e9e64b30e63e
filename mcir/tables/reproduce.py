"""Reproduce a table of a paper: train what is missing, evaluate, and compare with the published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mcir.launch import Log
from mcir.tables.commands import PaperTable, RclTable, TableCommand
from mcir.tables.datasets import how_to_get, sets_to_evaluate
from mcir.tables.evaluation import RunResult, evaluate_run
from mcir.tables.plan import plan, train
from mcir.tables.published import Table, read_table
from mcir.tables.rcl_tables import evaluate_proxies, plan_proxies
from mcir.tables.render import write_results
from mcir.tables.results import Cell, Results
from mcir.tables.runs import TableRun
from mcir.tables.table_figures import compared_images, training_curves
from mcir.tables.table_report import table_report

COLLAPSE_STATUS = 3
"""Exit status if every row has its results, and some of them are collapses."""


def reproduce(name: str, command: TableCommand, log: Log = print) -> int:
    """Train the rows of a table with ``--train``, evaluate what can be evaluated, and write the report.

    Returns:
        0 if every chosen row has all results, from published weights or from a training with the options of the row; 3
        if some of these results are collapses; else 1. With ``--no-wait``, nothing is evaluated, and 0 means that all
        missing trainings are submitted.

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
    collapsed = results.collapsed()
    if collapsed:
        log("collapsed: " + "; ".join(collapsed))
    return 1 if not results.is_complete else COLLAPSE_STATUS if collapsed else 0


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
    results.cells = {key: _cell(result, key[1], table.metrics) for key, result in by_cell.items()}
    diverged = {run: end for run in runs if (end := run.collapse()) is not None}
    for run, end in diverged.items():
        results.cells |= dict.fromkeys(_cells_of(run), Cell({}, collapse=f"iteration {end.iteration:,}"))
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
    results.remarks += [f"{run.row.name} ({run.origin}) {end}." for run, end in diverged.items()]
    results.is_complete = len(tested) + len(diverged) == len(runs) and all(result.is_complete for result in tested)
    return results


def _cell(result: RunResult, data_set: str, metrics: Sequence[str]) -> Cell:
    """Return the results of a training on one data set. The first metric decides whether it is below the input."""
    means = {metric: mean for metric in metrics if (mean := result.mean(data_set, metric)) is not None}
    collapse = "below the input" if result.is_below_input(data_set, metrics[0]) else ""
    return Cell(means, is_own=result.is_own, differences=result.differences, collapse=collapse)


def _cells_of(run: TableRun) -> list[tuple[str, str]]:
    """Return the names of row and column of the cells that a training fills."""
    assert run.options is not None
    return [(run.row.name, part.name) for part in sets_to_evaluate(run.options).values()]


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
