"""A table of residual contrastive learning as a command: pre-train, train on labelled images, set beside the paper.

"Residual Contrastive Learning for Image Reconstruction", IJCAI 2022, arXiv:2106.10070. The pre-trainings are option
files (``options/rcl``); what they are worth is found by :mod:`mcir.tables.proxy`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mcir.atomic import write_atomically
from mcir.config import OptionError, load
from mcir.engine.loggers import as_json
from mcir.tables.plan import Job, Settings, chosen_rows, how_to_get, missing_paths
from mcir.tables.pretraining import methods, overrides_for
from mcir.tables.proxy import known_results, run_proxy
from mcir.tables.proxy_plan import HOME, RANDOM, TASKS, ProxySettings, check
from mcir.tables.proxy_plan import overrides_for as overrides_of_task
from mcir.tables.proxy_report import Result
from mcir.tables.rcl_paper import Column, RclRow, RclTable, read_rcl_table
from mcir.tables.rcl_report import Found, Otherwise, as_data, tell
from mcir.tables.training import Say, train


@dataclass(frozen=True)
class RclSettings:
    """How a table is made.

    Attributes:
        tables: what it has in common with other tables; its ``overrides`` are laid over the pre-trainings.
        labels: numbers of labelled images, instead of the table's.
        trials: trainings on labelled images of each row, with the seeds 0, 1, …
        steps: of each of them; None: as the table says.
        jobs: of them at a time; None: as many as cores, one on a GPU.
        classifier: weights of the network of the consistency loss: ``imagenet``, ``random`` or a file.
        overrides: ``a.b=c``, laid over every training on labelled images.
    """

    tables: Settings = field(default_factory=Settings)
    labels: Sequence[int] = ()
    trials: int = 5
    steps: int | None = None
    jobs: int | None = None
    classifier: str = "imagenet"
    overrides: Sequence[str] = ()


def reproduce_rcl(name: str, settings: RclSettings, say: Say = print) -> int:
    """Make a table: list its rows, train if asked to, and write the report.

    Returns 0 when every row that is asked for has its results, of a pre-training as it says, else 1. Where the jobs of
    a cluster are not waited for, nothing is evaluated, and 0 says that all that is not pre-trained is on its way.

    Raises:
        ValueError: there is no such table or row, or settings make no sense.
        SystemExit: a signal stopped a training; the same call goes on from there.
    """
    table = read_rcl_table(name)
    if settings.labels:
        table = table.with_labels(settings.labels)
    chosen = chosen_rows(table.name, table.rows, settings.tables)
    rows = [row for row in table.rows if row.name in chosen]
    table = table.model_copy(update={"rows": rows, "steps": table.steps if settings.steps is None else settings.steps})
    jobs = pretrainings(table, settings)
    say(f"{table.name}: {table.title}\n")
    if settings.tables.train:
        _check(table, jobs, settings)
        everything = train([job for (_, weights), job in jobs.items() if weights in methods()], settings.tables, say)
        if not settings.tables.wait:
            return 0 if everything else 1
    found = Found(_otherwise(jobs), _everywhere(settings), _by_column(table, jobs, settings))
    for columns in table.groups():
        found.add(columns, _results(table, columns, jobs, settings, say))
    lacking = _told(table, jobs)
    say("\n".join(["", *lacking]))
    results = settings.tables.results
    results.mkdir(parents=True, exist_ok=True)
    target = results / f"{table.name}.json"
    write_atomically(target, (as_json(as_data(table, found), indent=2) + "\n").encode())
    for file in [target, *tell(table, found, lacking).write(results, table.name)]:
        say(f"results: {file}")
    return 0 if found.is_whole(table, settings.trials) else 1


Jobs = dict[tuple[str, str], Job]
"""Pre-trainings by option file and weights; of weights without a pre-training, what tells of their data."""


def pretrainings(table: RclTable, settings: RclSettings) -> Jobs:
    """Return the pre-trainings of a table, in order."""
    options = dict.fromkeys(column.option for column in table.columns)
    return {(option, row.weights): _job(row, option, settings) for option in options for row in table.rows}


def _job(row: RclRow, option: str, settings: RclSettings) -> Job:
    method = row.weights if row.weights in methods() else methods()[0]
    common = [f"path.results_root={settings.tables.results}", *settings.tables.overrides]
    job = Job(row, settings.tables.options / option, [*overrides_for(method, settings.classifier), *common])
    try:
        job.options = load(job.file, job.overrides)
    except OptionError as error:
        job.problem = str(error)
    return job


def _readable(jobs: Jobs, option: str) -> Job | None:
    """Return a pre-training of an option file that can be used; they all tell of the same data."""
    return next((job for (of, _), job in jobs.items() if of == option and job.options is not None), None)


def _check(table: RclTable, jobs: Jobs, settings: RclSettings) -> None:
    """Check all that is evaluated later, where its data are there, before anything is trained.

    Raises:
        ValueError: settings make no sense, or data cannot be read.
    """
    for columns in table.groups():
        job = _readable(jobs, columns[0].option)
        if job is not None and not _missing(columns, job):
            check(_proxy_settings(table, columns, job, [RANDOM], settings))


def _otherwise(jobs: Jobs) -> Otherwise:
    """Return how the pre-trainings that are there differ from what is asked for."""
    there = {(of, weights): job for (of, weights), job in jobs.items() if weights in methods()}
    return {(of, weights): job.otherwise() for (of, weights), job in there.items() if job.options and job.trained()}


def _everywhere(settings: RclSettings) -> dict[str, Any]:
    """Return what decides all numbers of a table, by its name."""
    given: dict[str, Any] = {
        "seeds of the trials": list(range(settings.trials)),
        "weights of the consistency loss": settings.classifier,
        "laid over the pre-trainings": list(settings.tables.overrides),
        "laid over the trainings on labelled images": list(settings.overrides),
        "torch": torch.__version__,
    }
    return {name: value for name, value in given.items() if value}


def _by_column(table: RclTable, jobs: Jobs, settings: RclSettings) -> dict[str, dict[str, Any]]:
    """Return what decides the numbers of each column, by its name, by the name of the column."""
    found: dict[str, dict[str, Any]] = {}
    for columns in table.groups():
        job = _readable(jobs, columns[0].option)
        if job is not None:
            given = _proxy_settings(table, columns, job, [RANDOM], settings)
            found |= {column.name: _conditions(job, given) for column in columns}
    return found


def _conditions(job: Job, settings: ProxySettings) -> dict[str, Any]:
    """Return what decides the numbers of columns that are evaluated at once, as it is after all overrides."""
    assert job.options is not None and job.options.datasets.train is not None and settings.network is not None
    base = [*overrides_of_task(settings.task, settings.network, settings), f"train.total_iter={settings.steps}"]
    options, training = load(HOME, [*base, *settings.overrides]), job.options.datasets.train
    assert options.train is not None and options.datasets.train is not None
    labelled = options.datasets.train
    side = labelled.section.get("gt_size")
    (test,) = options.datasets.val.values()
    return {
        "pre-training": str(job.file),
        "pre-training steps": job.total,
        "pre-training patch": training.section["patch_size"],
        "pre-training batch": training.batch_size_per_gpu,
        "pre-training seed": job.options.manual_seed,
        "labelled images": labelled.section.get("dataroot_gt"),
        "test images": test.section.get("dataroot_gt"),
        "steps": options.train.total_iter,
        "patch": None if side is None else side // TASKS[settings.task].scale,
        "batch": labelled.batch_size_per_gpu,
        "device": "cuda" if options.num_gpu != 0 and torch.cuda.is_available() else "cpu",
    }


def _results(table: RclTable, columns: Sequence[Column], jobs: Jobs, settings: RclSettings, say: Say) -> list[Result]:
    """Return the results of columns that are evaluated at once; those that are missing are made if asked for."""
    option = columns[0].option
    weights = []
    for row in table.rows:
        job = jobs[option, row.weights]
        file = job.trained() if job.options is not None and row.weights in methods() else None
        if file is not None:
            weights.append(f"{row.weights}={file}")
        elif row.weights not in methods():
            weights.append(row.weights)
    readable = _readable(jobs, option)
    if not weights or readable is None or _missing(columns, readable):
        return []
    of_proxy = _proxy_settings(table, columns, readable, weights, settings)
    if settings.tables.train:
        return run_proxy(of_proxy, say)
    return known_results(of_proxy) if (of_proxy.results / "runs.jsonl").is_file() else []


def _proxy_settings(
    table: RclTable, columns: Sequence[Column], job: Job, weights: Sequence[str], settings: RclSettings
) -> ProxySettings:
    """Return how columns are evaluated: on the images of the pre-training, or on larger ones of the same names."""
    assert job.options is not None and job.options.datasets.train is not None
    first, training = columns[0], job.options.datasets.train
    (test,) = job.options.datasets.test.values()
    chosen = {f"datasets.train.{key}": training.section.get(key) for key in ("meta_info_file", "small")}
    chosen["datasets.val.meta_info_file"] = test.section.get("meta_info_file")
    given = [f"{key}={json.dumps(value)}" for key, value in chosen.items() if value is not None]
    return ProxySettings(
        weights=weights,
        task=first.task,
        labels=[column.labels for column in columns],
        trials=settings.trials,
        steps=table.steps,
        patch=training.section["patch_size"],
        batch=training.batch_size_per_gpu,
        finetune=table.finetune,
        pretrain_steps=job.total,
        network=job.options.network_g,
        data=first.images or Path(training.section["dataroot"]),
        test=first.images or Path(test.section["dataroot_gt"]),
        results=settings.tables.results / table.name / f"{job.file.stem}_{first.task}",
        jobs=settings.jobs,
        overrides=[f"num_gpu={job.options.num_gpu}", *given, *settings.overrides],
    )


def _missing(columns: Sequence[Column], job: Job) -> list[str]:
    """Return the images and lists that columns need and that are not there."""
    images = {column.images for column in columns if column.images is not None}
    paths = missing_paths([*job.training_sections(), *job.evaluation_sections()])
    return [*paths, *(str(path) for path in sorted(images) if not path.exists())]


def _told(table: RclTable, jobs: Jobs) -> list[str]:
    """Return the lines that tell of each pre-training and of the data, and what is missing."""
    lines = []
    for option in dict.fromkeys(column.option for column in table.columns):
        of_option = {weights: job for (of, weights), job in jobs.items() if of == option}
        for weights, job in of_option.items():
            if weights in methods():
                lines.append(f"{job.row.name}  ({job.file})  {job.state()}")
                lines += [f"    {line}" for line in job.to_get()]
            else:
                how = "from scratch" if weights == RANDOM else "supervised, by --train with the labelled images"
                lines.append(f"{job.row.name}  ({job.file})  {how}")
        readable = _readable(jobs, option)
        if readable is not None:
            columns = [column for column in table.columns if column.option == option]
            lines += how_to_get(_missing(columns, readable))
    return lines
