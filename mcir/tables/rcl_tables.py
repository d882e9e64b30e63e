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

from mcir.data.folders import listed
from mcir.launch import Log
from mcir.tables.cache import Record
from mcir.tables.commands import Proxy, RclTable
from mcir.tables.plan import chosen_rows, option_file
from mcir.tables.pretraining import methods, overrides_for
from mcir.tables.proxy import collapsed_pretrainings, known_results, run_proxy, summarize, with_input
from mcir.tables.proxy_plan import ORACLES, RANDOM, check
from mcir.tables.published import Column, Row, Table
from mcir.tables.results import Cell, Results
from mcir.tables.runs import TableRun
from mcir.tables.table_report import curves_by_labels


def plan_proxies(table: Table, command: RclTable) -> tuple[Table, list[TableRun]]:
    """Return the table with the settings of the command, and the pre-trainings of its rows."""
    if command.labels:
        table = table.with_labels(command.labels)
    steps = table.steps if command.steps is None else command.steps
    table = table.model_copy(update={"rows": chosen_rows(table, command), "steps": steps})
    options = dict.fromkeys(column.option for column in table.columns)
    runs = [_pretraining(table, row, option, command) for option in options for row in table.rows]
    for columns in table.groups() if command.train else ():
        for run in _runs_of(runs, columns, command)[:1]:
            if not run.missing_paths():
                check(_proxy_settings(table, columns, run, command))
    return table, runs


def _pretraining(table: Table, row: Row, option: str, command: RclTable) -> TableRun:
    untrained = ""
    if row.initial not in methods():
        untrained = "random weights" if row.initial == RANDOM else "supervised pre-training, part of --train"
    method = methods()[0] if untrained else row.initial
    overrides = [*overrides_for(method, command.resnet), f"path.results_root={command.results}", *command.set]
    images = {column.images for column in table.columns if column.option == option and column.images is not None}
    file = option_file(command, option)
    return TableRun.load(row, file, overrides, untrained=untrained, labelled=True, images=sorted(images))


def _runs_of(runs: Sequence[TableRun], columns: Sequence[Column], command: RclTable) -> list[TableRun]:
    """Return the runs with valid options for columns that are evaluated together; all have the same data sets."""
    file = option_file(command, columns[0].option)
    return [run for run in runs if run.file == file and run.options is not None]


def evaluate_proxies(table: Table, runs: Sequence[TableRun], command: RclTable, log: Log) -> Results:
    """Return the results of a proxy table; with ``--train``, train what is missing on the labelled images."""
    conditions: dict[str, Any] = {
        "seeds of the trials": list(range(command.trials)),
        "weights of the consistency loss": command.resnet,
        "overrides of the pre-trainings": list(command.set),
        "overrides of the trainings on labelled images": list(command.proxy_set),
        "torch": torch.__version__,
    }
    results = Results(table, conditions={key: value for key, value in conditions.items() if value})
    results.row_facts = {row.name: {"weights": row.initial} for row in table.rows}
    for columns in table.groups():
        group = _runs_of(runs, columns, command)
        if not group:
            continue
        proxy = _proxy_settings(table, columns, group[0], command)
        results.column_conditions |= dict.fromkeys((c.name for c in columns), _conditions(proxy, group[0]))
        if not group[0].missing_paths():
            _add_records(results, columns, _evaluate(proxy, group, command.train, log), group)
            _add_collapses(results, columns, proxy, group)
    if table.finetune:
        results.sections.append(curves_by_labels(results))
    results.is_complete = _is_complete(results, command.trials)
    return results


def _evaluate(proxy: Proxy, runs: Sequence[TableRun], train: bool, log: Log) -> Sequence[Record]:
    """Return the results of columns that are evaluated together; with ``train``, train what is missing."""
    weights = []
    for run in runs:
        if run.untrained:
            weights.append(run.row.initial)
        elif (checkpoint := run.checkpoint()) is not None:
            weights.append(f"{run.row.initial}={checkpoint}")
    if not weights:
        return []
    proxy = replace(proxy, weights=weights)
    if train:
        return run_proxy(proxy, log)
    return known_results(proxy) if (proxy.results / "runs.jsonl").is_file() else []


def _add_records(
    results: Results, columns: Sequence[Column], records: Sequence[Record], runs: Sequence[TableRun]
) -> None:
    """Add the results of columns that differ only in their number of labels."""
    by_labels: dict[int | None, Column] = {column.labels: column for column in columns}
    by_weights = {run.row.initial: run for run in runs}
    for (weights, labels), cell in summarize(records).items():
        run, column = by_weights[weights], by_labels[labels]
        differences = run.differences() if run.checkpoint() else []
        results.cells[run.row.name, column.name] = replace(cell, differences=differences)
        if differences:
            remark = f"¶ {run.row.name} was pre-trained with other options ({column.option}): {', '.join(differences)}."
            results.remarks = list(dict.fromkeys([*results.remarks, remark]))
    for record in with_input(records)[:1]:
        inputs = {"psnr": record["psnr_of_input"], "ssim": record["ssim_of_input"]}
        results.inputs |= {column.name: inputs for column in columns}


def _add_collapses(results: Results, columns: Sequence[Column], proxy: Proxy, runs: Sequence[TableRun]) -> None:
    """Add the pre-trainings that collapsed, which leave nothing to evaluate."""
    supervised = [run.row.initial for run in runs if run.row.initial in ORACLES]
    ends = collapsed_pretrainings(replace(proxy, weights=supervised))
    for run in runs:
        if (end := ends.get(run.row.initial) or run.collapse()) is not None:
            results.remarks.append(f"{run.row.name}: the pre-training ({run.origin}) {end}.")
            for column in columns:
                if column.labels or run.row.initial not in ORACLES:
                    text = f"pre-training, iteration {end.iteration:,}"
                    results.cells[run.row.name, column.name] = Cell({}, trials=0, collapse=text)


def _folder(run: TableRun, value: str | Sequence[str]) -> Path:
    if len(roots := listed(value)) > 1:
        raise ValueError(f"{run.file}: the table requires one folder of images, got {len(roots)}.")
    return Path(roots[0])


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
        data=first.images or _folder(run, training.section["dataroot"]),
        test=first.images or _folder(run, test.section["dataroot_gt"]),
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
    return all(
        cell is not None and (cell.collapse or (cell.trials == count and not cell.differences))
        for cell, count in needed
    )
