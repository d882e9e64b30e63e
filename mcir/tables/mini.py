"""The small studies: tests of the papers' claims with small networks on two processor cores.

``mini`` trains three tasks without negatives and with several kinds of negatives. For the same seed, all methods have
the same initial weights, batches, optimizer, schedule and moving average, so the differences are paired.
:mod:`mcir.tables.rcl_mini` contains the studies ``rcl-mini`` and ``rcl-scale``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean

import torch

import mcir
from mcir.config import Options, load
from mcir.device import device_kind
from mcir.engine.guard import NotFiniteError
from mcir.engine.run_lock import lock_run_dir
from mcir.launch import Log
from mcir.tables.cache import Record, RunCache, run_cached
from mcir.tables.commands import StudyCommand
from mcir.tables.inputs import held_out_lists, weights_digest
from mcir.tables.mini_report import mini_report
from mcir.tables.pool import worker_count
from mcir.tables.rcl_mini import run_rcl_mini
from mcir.tables.render import write_results
from mcir.tables.study import Study, complete, read_study
from mcir.tables.training import StudyRun, fingerprint, train


def reproduce_mini(command: StudyCommand, log: Log = print) -> int:
    """Make the trainings that are not in ``runs.jsonl`` yet, write the report, and return 0.

    Raises:
        ValueError: an unknown task or method, data or weights cannot be read, or another process uses the folder.
        SystemExit: a signal stopped a training; the same call resumes.
    """
    study = read_study(command.study)
    command = complete(command, study)
    jobs = worker_count(command.jobs)
    with lock_run_dir(command.folder):
        if study.has_pretraining:
            report, data = run_rcl_mini(study, command, jobs, log)
        else:
            runs = plan(study, command)
            cache = RunCache(command.folder / "runs.jsonl")
            records = run_cached("mini", train_one, runs, cache, jobs, log)
            report, data = mini_report(study, command, records)
        write_results(command.folder, study.name, data, report, log)
    return 0


def plan(study: Study, command: StudyCommand) -> list[StudyRun]:
    """Return the trainings of the study ``mini``, ordered by seed, task and method."""
    digest = weights_digest(command.features, study.flag)
    common = {task: _common_overrides(study.folder / f"{task}.yml", command) for task in command.task}
    runs = []
    for seed in range(command.seeds or study.seeds):
        for task in command.task:
            file = study.folder / f"{task}.yml"
            for method in command.method:
                features = [f"train.contrastive_opt.weights={json.dumps(command.features)}"]
                features = [] if method == study.reference else features
                overrides = [f"sweep={method}", f"manual_seed={seed}", *features, *common[task]]
                options = load(file, overrides)
                device = device_kind(options.num_gpu)
                facts = [f"mcir {mcir.__version__}", f"torch {torch.__version__}", f"device {device}"]
                facts += [f"features {digest}"] if features and digest else []
                root = command.folder / "runs"
                runs.append(StudyRun(method, task, seed, file, overrides, fingerprint(options, facts), root))
    return runs


def _common_overrides(file: Path, command: StudyCommand) -> list[str]:
    """Return the overrides of every training of a task."""
    overrides = []
    if command.quick:
        overrides += ["train.total_iter=4", "val.val_freq=2", "datasets.train.gt_size=16"]
    if command.data is not None:
        overrides += _own_data(load(file, ["sweep=plain", *overrides]), command.data, command.folder)
    return [*overrides, *command.set]


def _own_data(options: Options, folder: Path, results: Path) -> list[str]:
    """Return the overrides that replace the bundled photographs by the images of a folder."""
    files = held_out_lists(folder, results)
    assert options.datasets.train is not None
    overrides = []
    for key, part in {"train": options.datasets.train, **options.datasets.val}.items():
        section = {name: value for name, value in part.section.items() if name not in ("type", "split")}
        section.setdefault("degradation", {"type": "BicubicDown"})
        section |= {"type": "PairedImageDataset", "dataroot_gt": str(folder), "meta_info_file": str(files[key])}
        section["name"] = part.name
        if key == "train":
            section["batch_size_per_gpu"] = part.batch_size_per_gpu
        overrides.append(f"datasets.{key}={json.dumps(section)}")
    return overrides


def train_one(run: StudyRun) -> Record:
    """Run a training of the study ``mini`` and return its result; after a collapse, its metrics are NaN."""
    options = run.options()
    assert options.train is not None and options.datasets.train is not None
    facts = {"task": run.task, "method": run.name, "seed": run.seed, "device": device_kind(options.num_gpu)}
    facts["torch"] = torch.__version__
    try:
        trained = train(options)
    except NotFiniteError as error:
        return {**facts, "psnr": math.nan, "ssim": math.nan, "collapsed": error.iteration}
    scores, history = trained.evaluation.scores, trained.history
    (metrics,) = history.metrics.values()
    ratios = [ratio for _, ratio in history.scalars.get("ratio_l_neg", [])]
    images = options.train.total_iter * options.datasets.train.batch_size_per_gpu
    return {
        **facts,
        "psnr": scores["psnr"].mean,
        "ssim": scores["ssim"].mean,
        "psnr_of_input": scores["psnr"].of_input,
        "images": scores["psnr"].images,
        "curve": metrics["psnr"].points,
        "ratio": fmean(ratios) if ratios else None,
        "training_seconds": images * fmean(1 / speed for _, speed in history.scalars["images_per_s"]),
    }
