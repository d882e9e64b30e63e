"""Evaluate pre-trained weights: freeze all layers except a new last layer, and train that on few labelled images.

"Residual Contrastive Learning for Image Reconstruction", IJCAI 2022, arXiv:2106.10070. The last layer is trained
with L1; ``finetune`` trains all weights instead (Table 3). All rows have the same images, steps and seeds.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from mcir.engine.guard import NotFiniteError
from mcir.engine.run_lock import lock_run_dir
from mcir.launch import Log
from mcir.report.page import Report, Section
from mcir.report.records import Collapse, read_collapse
from mcir.tables.cache import Record, RunCache, run_cached
from mcir.tables.commands import Proxy
from mcir.tables.formatting import counted, deviation
from mcir.tables.pool import worker_count
from mcir.tables.proxy_plan import (
    ORACLES,
    TASKS,
    check,
    plan,
    pretrained_file,
    pretrained_folder,
    pretrainings,
    row_of,
)
from mcir.tables.render import write_results
from mcir.tables.results import Cell
from mcir.tables.training import StudyRun, evaluate, train

METRICS = ("psnr", "ssim")


def proxy(settings: Proxy, log: Log = print) -> int:
    """Evaluate weights, write the results as JSON and as a table, and return 0; see :func:`run_proxy`."""
    records = run_proxy(settings, log)
    report = proxy_report(records, settings)
    log(report.as_markdown())
    stored = {key: value for key, value in vars(settings).items() if key not in ("data", "test", "results", "jobs")}
    rows = [
        {"weights": weights, "labels": labels, "trials": cell.trials, **cell.means}
        | {f"{metric}_std": std for metric, std in cell.stds.items()}
        for (weights, labels), cell in summarize(records).items()
    ]
    data = {"settings": stored, "rows": rows, "results": records}
    write_results(settings.results, f"proxy_{settings.task}{'_finetuned' * settings.finetune}", data, report, log)
    return 0


def run_proxy(settings: Proxy, log: Log = print) -> list[Record]:
    """Make the trainings that are not in ``runs.jsonl`` yet, and return all results, ordered by row and trial.

    Raises:
        ValueError: settings are not valid, weights or data cannot be read, or another process uses the folder.
        SystemExit: a signal stopped a training; the same call resumes.
    """
    check(settings)
    jobs = worker_count(settings.jobs)
    with lock_run_dir(settings.results):
        files = _pretrain(settings, log)
        runs = _trials(settings, files)
        if not runs and not collapsed_pretrainings(settings):
            raise ValueError("With 0 labels, expected at least one weight file for the task, got none.")
        cache = RunCache(settings.results / "runs.jsonl")
        records = run_cached(f"proxy {settings.task}", run_trial, runs, cache, jobs, log)
    return [{**record, "weights": run.name} for run, record in zip(runs, records, strict=True)]


def known_results(settings: Proxy) -> list[Record]:
    """Return the results of :func:`run_proxy` that are in ``runs.jsonl``; nothing is trained."""
    check(settings)
    files = {name: pretrained_file(run, settings) for name, run in pretrainings(settings).items()}
    records = RunCache(settings.results / "runs.jsonl").records
    runs = _trials(settings, {name: file for name, file in files.items() if file.is_file()})
    return [{**records[run.fingerprint], "weights": run.name} for run in runs if run.fingerprint in records]


def collapsed_pretrainings(settings: Proxy) -> dict[str, Collapse]:
    """Return the supervised pre-trainings that collapsed, by row."""
    found = {name: read_collapse(pretrained_folder(run)) for name, run in pretrainings(settings).items()}
    return {name: collapse for name, collapse in found.items() if collapse is not None}


def _trials(settings: Proxy, files: Mapping[str, Path]) -> list[StudyRun]:
    """Return the trainings of all rows except supervised pre-trainings without a weight file."""
    rows = [row for row in settings.weights if row in files or row not in ORACLES]
    return plan(replace(settings, weights=rows), files) if rows else []


def run_trial(run: StudyRun) -> Record:
    """Run a training and return its result; after a collapse, metrics are NaN and ``collapsed`` is the iteration."""
    options = run.options()
    facts = {
        "weights": run.name,
        "task": run.task,
        "finetune": options.model_type == "RestorationModel",
        "labels": run.labels,
        "trial": run.seed,
    }
    try:
        evaluation = evaluate(options) if run.labels == 0 else train(options).evaluation
    except NotFiniteError as error:
        return {**facts, **dict.fromkeys(METRICS, math.nan), "collapsed": error.iteration}
    psnr, ssim = evaluation.scores["psnr"], evaluation.scores["ssim"]
    return {
        **facts,
        "psnr": psnr.mean,
        "ssim": ssim.mean,
        "psnr_of_input": psnr.of_input,
        "ssim_of_input": ssim.of_input,
        "images": psnr.images,
    }


def summarize(records: Sequence[Record]) -> dict[tuple[str, int | None], Cell]:
    """Return means and standard deviations over the trials, by row and number of labels.

    If a trial collapsed, there is no mean.
    """
    groups: dict[tuple[str, int | None], list[Record]] = {}
    for record in records:
        groups.setdefault((record["weights"], record["labels"]), []).append(record)
    cells = {}
    for key, group in groups.items():
        if ends := [record["collapsed"] for record in group if "collapsed" in record]:
            at = ", ".join(f"{end:,}" for end in ends)
            collapse = f"{counted(len(ends), 'trial')} of {len(group)}, iteration {at}"
            cells[key] = Cell({}, trials=len(group), collapse=collapse)
            continue
        values = {metric: [float(record[metric]) for record in group] for metric in METRICS}
        means = {metric: fmean(numbers) for metric, numbers in values.items()}
        cells[key] = Cell(means, {metric: deviation(numbers) for metric, numbers in values.items()}, len(group))
    return cells


def with_input(records: Sequence[Record]) -> list[Record]:
    """Return the results that contain the metrics of the degraded images: those of trainings that did not collapse."""
    return [record for record in records if "psnr_of_input" in record]


def proxy_report(records: Sequence[Record], settings: Proxy) -> Report:
    """Return the report with the table of results."""
    table = [["weights", "labelled images", "PSNR in dB", "SSIM", "trials"]]
    for first in with_input(records)[:1]:
        name = "bicubic enlargement" if TASKS[settings.task].scale > 1 else "the input itself"
        table.append([name, "", f"{first['psnr_of_input']:.2f}", f"{first['ssim_of_input']:.4f}", ""])
    for (weights, labels), cell in summarize(records).items():
        count = "all" if labels is None else f"{labels:,}"
        table.append([weights, count, *(cell.text(metric) for metric in METRICS), str(cell.trials)])
    trained = "all weights are trained" if settings.finetune else "only a new last layer is trained"
    paragraphs = [
        f"Starting from the weights of each row, {trained}: {counted(settings.steps, 'step')} on batches of "
        f"{settings.batch} crops of {settings.patch} pixels, with the same images, order and seeds for every row. Mean "
        "± standard deviation over the trials; metrics in RGB, including the border."
    ]
    without_labels = {record["weights"] for record in records if record["labels"] == 0}
    names = [row_of(text)[0] for text in settings.weights] if 0 in settings.labels else []
    if missing := [name for name in names if name not in without_labels]:
        paragraphs.append(
            f"These rows have no weights for the task, so they have no result with 0 labels: {', '.join(missing)}."
        )
    return Report(f"Proxy evaluation: {TASKS[settings.task].title}", [Section("Results", paragraphs, table)])


def _pretrain(settings: Proxy, log: Log) -> dict[str, Path]:
    """Run the missing supervised pre-trainings, and return the weight files of those that do not collapse."""
    files = {}
    for name, run in pretrainings(settings).items():
        file, folder = pretrained_file(run, settings), pretrained_folder(run)
        if not file.is_file() and read_collapse(folder) is None:
            steps = counted(settings.pretrain_steps, "step")
            log(f"{name}: supervised pre-training, {TASKS[run.task].title}, {steps}")
            with contextlib.suppress(NotFiniteError):  # recorded in its folder
                train(run.options())
        if file.is_file():
            files[name] = file
        else:
            log(f"{name}: {read_collapse(folder)}; to train it again, remove {folder}")
    return files
