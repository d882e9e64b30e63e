"""Reproduce a proxy table of RCL: pre-train, train on labelled images, and compare with the published numbers.

"Residual Contrastive Learning for Image Reconstruction", IJCAI 2022, arXiv:2106.10070. The pre-trainings are the option
files in ``options/rcl``; :mod:`mcir.tables.proxy` evaluates them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mcir.launch import Log
from mcir.tables.cache import Record
from mcir.tables.commands import Proxy, RclTable
from mcir.tables.datasets import how_to_get, missing_paths
from mcir.tables.plan import chosen_rows, train
from mcir.tables.pretraining import methods, overrides_for
from mcir.tables.proxy import known_results, run_proxy, summarize
from mcir.tables.proxy_plan import RANDOM, check
from mcir.tables.published import Column, Row, Table
from mcir.tables.render import write_results
from mcir.tables.results import Cell, Results
from mcir.tables.runs import TableRun
from mcir.tables.table_report import curves_by_labels, table_report

Runs = dict[tuple[str, str], TableRun]
"""Pre-trainings by option file and initial weights. Rows without a pre-training have an entry for its data sets."""


def reproduce_proxy_table(table: Table, command: RclTable, log: Log) -> int:
    """Reproduce a proxy table; see :func:`mcir.tables.reproduce.reproduce`."""
    if command.labels:
        table = table.with_labels(command.labels)
    steps = table.steps if command.steps is None else command.steps
    table = table.model_copy(update={"rows": chosen_rows(table, command), "steps": steps})
    runs = _plan(table, command)
    log(f"{table.name}: {table.title}\n")
    if command.train:
        _check(table, runs, command)
        complete = train([run for (_, weights), run in runs.items() if weights in methods()], command, log)
        if command.no_wait:
            return 0 if complete else 1
    results = _results(table, runs, command, log)
    missing = _state_lines(table, runs)
    log("\n".join(["", *missing]))
    sections = [curves_by_labels(results)] if table.finetune else []
    write_results(command.results, table.name, results.data(), table_report(results, sections, missing), log)
    return 0 if _is_complete(results, command.trials) else 1


def _plan(table: Table, command: RclTable) -> Runs:
    options = dict.fromkeys(column.option for column in table.columns)
    return {(option, row.initial): _pretraining(row, option, command) for option in options for row in table.rows}


def _pretraining(row: Row, option: str, command: RclTable) -> TableRun:
    method = row.initial if row.initial in methods() else methods()[0]
    overrides = [f"path.results_root={command.results}", *command.set]
    return TableRun.load(row, command.options / option, [*overrides_for(method, command.resnet), *overrides])


def _valid_run(runs: Runs, option: str) -> TableRun | None:
    """Return any pre-training of an option file with valid options; all of them have the same data sets."""
    return next((run for (file, _), run in runs.items() if file == option and run.options is not None), None)


def _check(table: Table, runs: Runs, command: RclTable) -> None:
    """Check the settings of the proxy evaluations whose data exist.

    Raises:
        ValueError: settings are not valid, or data cannot be read.
    """
    for columns in table.groups():
        run = _valid_run(runs, columns[0].option)
        if run is not None and not _missing_paths(columns, run):
            check(_proxy_settings(table, columns, run, command))


# -- results ----------------------------------------------------------------------------------------------------------


def _results(table: Table, runs: Runs, command: RclTable, log: Log) -> Results:
    conditions: dict[str, Any] = {
        "seeds of the trials": list(range(command.trials)),
        "weights of the consistency loss": command.resnet,
        "overrides of the pre-trainings": list(command.set),
        "overrides of the trainings on labelled images": list(command.proxy_set),
        "torch": torch.__version__,
    }
    results = Results(table, conditions={key: value for key, value in conditions.items() if value})
    results.row_facts = {row.name: {"weights": row.initial} for row in table.rows}
    column_conditions: dict[str, dict[str, Any]] = {}
    for columns in table.groups():
        run = _valid_run(runs, columns[0].option)
        if run is None:
            continue
        shared = _conditions(_proxy_settings(table, columns, run, command), run)
        column_conditions |= dict.fromkeys((column.name for column in columns), shared)
        records = [] if _missing_paths(columns, run) else _evaluate(table, columns, runs, command, log)
        add_records(results, columns, records, runs)
    results.column_conditions = column_conditions
    return results


def add_records(results: Results, columns: Sequence[Column], records: Sequence[Record], runs: Runs) -> None:
    """Add the results of columns that differ only in their number of labels."""
    by_labels = {column.labels: column for column in columns}
    rows = {row.initial: row for row in results.table.rows}
    for entry in summarize(records):
        row, column = rows[entry["weights"]], by_labels[entry["labels"]]
        run = runs.get((column.option, row.initial)) if row.initial in methods() else None
        differences = run.differences() if run is not None and run.checkpoint() else []
        metrics = results.table.metrics
        means, stds = {m: entry[m] for m in metrics}, {m: entry[f"{m}_std"] for m in metrics}
        results.cells[row.name, column.name] = Cell(means, stds, entry["trials"], differences=differences)
        if differences:
            remark = f"¶ {row.name} was pre-trained with other options ({column.option}): {', '.join(differences)}."
            results.remarks = list(dict.fromkeys([*results.remarks, remark]))
    for record in records[:1]:
        inputs = {"psnr": record["psnr_of_input"], "ssim": record["ssim_of_input"]}
        results.inputs |= {column.name: inputs for column in columns}


def _evaluate(table: Table, columns: Sequence[Column], runs: Runs, command: RclTable, log: Log) -> Sequence[Record]:
    """Return the results of columns that are evaluated together; with ``--train``, train what is missing."""
    option, weights = columns[0].option, []
    for row in table.rows:
        checkpoint = runs[option, row.initial].checkpoint() if row.initial in methods() else None
        if checkpoint is not None:
            weights.append(f"{row.initial}={checkpoint}")
        elif row.initial not in methods():
            weights.append(row.initial)
    run = _valid_run(runs, option)
    if not weights or run is None:
        return []
    proxy = replace(_proxy_settings(table, columns, run, command), weights=weights)
    if command.train:
        return run_proxy(proxy, log)
    return known_results(proxy) if (proxy.results / "runs.jsonl").is_file() else []


def _proxy_settings(table: Table, columns: Sequence[Column], run: TableRun, command: RclTable) -> Proxy:
    """Return the settings of columns that are evaluated together."""
    assert run.options is not None and run.options.datasets.train is not None
    first, training = columns[0], run.options.datasets.train
    (test,) = run.options.datasets.test.values()
    lists = {f"datasets.train.{key}": training.section.get(key) for key in ("meta_info_file", "small")}
    lists["datasets.val.meta_info_file"] = test.section.get("meta_info_file")
    overrides = [f"{key}={json.dumps(value)}" for key, value in lists.items() if value is not None]
    return Proxy(
        weights=[RANDOM],
        task=first.task,
        labels=[column.labels for column in columns],
        trials=command.trials,
        steps=table.steps,
        patch=training.section["patch_size"],
        batch=training.batch_size_per_gpu,
        finetune=table.finetune,
        pretrain_steps=run.job.total,
        network=run.options.network_g,
        data=first.images or Path(training.section["dataroot"]),
        test=first.images or Path(test.section["dataroot_gt"]),
        results=command.results / table.name / f"{run.file.stem}_{first.task}",
        jobs=command.jobs,
        set=[f"num_gpu={run.options.num_gpu}", *overrides, *command.proxy_set],
    )


def _conditions(proxy: Proxy, run: TableRun) -> dict[str, Any]:
    """Return the conditions of columns that are evaluated together, without overrides."""
    names = ("pretrain_steps", "steps", "patch", "batch", "data", "test")
    values = {name.replace("_", "-"): getattr(proxy, name) for name in names}
    return {"pre-training": str(run.file), **{k: str(v) if isinstance(v, Path) else v for k, v in values.items()}}


def _is_complete(results: Results, trials: int) -> bool:
    """Return whether every cell has all trials, from a pre-training with the options of the row.

    With 0 labels, there is one trial, and none for random weights.
    """
    needed = [
        (results.cell(row, column), trials if column.labels else 1)
        for row in results.table.rows
        for column in results.table.columns
        if column.labels or row.initial != RANDOM
    ]
    return all(cell is not None and cell.trials == count and not cell.differences for cell, count in needed)


# -- what is missing --------------------------------------------------------------------------------------------------


def _missing_paths(columns: Sequence[Column], run: TableRun) -> list[str]:
    """Return the images and lists of columns that do not exist."""
    images = {column.images for column in columns if column.images is not None}
    paths = missing_paths([*run.training_sets(), *run.test_sets().values()])
    return [*paths, *(str(path) for path in sorted(images) if not path.exists())]


def _state_lines(table: Table, runs: Runs) -> list[str]:
    """Return lines about the state of each pre-training and about what is missing."""
    lines = []
    for option in dict.fromkeys(column.option for column in table.columns):
        for (file, weights), run in runs.items():
            if file == option and weights in methods():
                lines.append(f"{run.row.name}  ({run.file})  {run.state()}")
                lines += [f"    {line}" for line in run.missing_for_evaluation()]
            elif file == option:
                how = "random weights" if weights == RANDOM else "supervised pre-training, part of --train"
                lines.append(f"{run.row.name}  ({run.file})  {how}")
        run_with_data = _valid_run(runs, option)
        if run_with_data is not None:
            columns = [column for column in table.columns if column.option == option]
            lines += how_to_get(dict.fromkeys(_missing_paths(columns, run_with_data), ()))
    return lines
