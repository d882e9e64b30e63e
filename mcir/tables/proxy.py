"""Evaluate pre-trained weights: freeze all layers except a new last layer, and train that on few labelled images.

"Residual Contrastive Learning for Image Reconstruction", IJCAI 2022, arXiv:2106.10070. The last layer is trained
with L1; ``finetune`` trains all weights instead (Table 3). All rows have the same images, steps and seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from mcir.engine.run_lock import lock_run_dir
from mcir.launch import Log
from mcir.report.page import Report, Section
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
    pretrainings,
    row_of,
)
from mcir.tables.render import page, write_results
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
        runs = plan(settings, _pretrain(settings, log))
        if not runs:
            raise ValueError("With 0 labels, expected at least one weight file for the task, got none.")
        cache = RunCache(settings.results / "runs.jsonl")
        records = run_cached(f"proxy {settings.task}", run_trial, runs, cache, jobs, log)
    return [{**record, "weights": run.name} for run, record in zip(runs, records, strict=True)]


def known_results(settings: Proxy) -> list[Record]:
    """Return the results of :func:`run_proxy` that are in ``runs.jsonl``; nothing is trained."""
    check(settings)
    files = {name: pretrained_file(run, settings) for name, run in pretrainings(settings).items()}
    files = {name: file for name, file in files.items() if file.is_file()}
    rows = [row for row in settings.weights if row in files or row not in ORACLES]
    records = RunCache(settings.results / "runs.jsonl").records
    runs = plan(replace(settings, weights=rows), files) if rows else []
    return [{**records[run.fingerprint], "weights": run.name} for run in runs if run.fingerprint in records]


def run_trial(run: StudyRun) -> Record:
    """Run a training and return its result."""
    options = run.options()
    evaluation = evaluate(options) if run.labels == 0 else train(options).evaluation
    psnr, ssim = evaluation.scores["psnr"], evaluation.scores["ssim"]
    return {
        "weights": run.name,
        "task": run.task,
        "finetune": options.model_type == "RestorationModel",
        "labels": run.labels,
        "trial": run.seed,
        "psnr": psnr.mean,
        "ssim": ssim.mean,
        "psnr_of_input": psnr.of_input,
        "ssim_of_input": ssim.of_input,
        "images": psnr.images,
    }


def summarize(records: Sequence[Record]) -> dict[tuple[str, int | None], Cell]:
    """Return means and standard deviations over the trials, by row and number of labels."""
    groups: dict[tuple[str, int | None], list[Record]] = {}
    for record in records:
        groups.setdefault((record["weights"], record["labels"]), []).append(record)
    cells = {}
    for key, group in groups.items():
        values = {metric: [float(record[metric]) for record in group] for metric in METRICS}
        means = {metric: fmean(numbers) for metric, numbers in values.items()}
        cells[key] = Cell(means, {metric: deviation(numbers) for metric, numbers in values.items()}, len(group))
    return cells


def proxy_report(records: Sequence[Record], settings: Proxy) -> Report:
    """Return the report with the table of results."""
    table = [["weights", "labelled images", "PSNR in dB", "SSIM", "trials"]]
    for first in records[:1]:
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
    return page(f"Proxy evaluation: {TASKS[settings.task].title}", [Section("Results", paragraphs, table)])


def _pretrain(settings: Proxy, log: Log) -> dict[str, Path]:
    """Run the missing supervised pre-trainings, and return the weight files of all."""
    files = {}
    for name, run in pretrainings(settings).items():
        files[name] = pretrained_file(run, settings)
        if not files[name].is_file():
            steps = counted(settings.pretrain_steps, "step")
            log(f"{name}: supervised pre-training, {TASKS[run.task].title}, {steps}")
            train(run.options())
    return files
