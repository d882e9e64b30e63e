"""The small studies of residual contrastive learning (arXiv:2106.10070).

A small U-Net is pre-trained on noisy photographs by several methods (``rcl-mini``) or with several settings of the
contrastive loss (``rcl-scale``), with the same number of steps and the same initial weights. Then all layers are frozen
except a new last layer, which is trained for denoising and for super-resolution ×2. Both trainings have the same seed,
so the differences between methods are paired.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mcir.config import load
from mcir.launch import Log
from mcir.registry import DATASETS
from mcir.report.page import Report
from mcir.tables.cache import Record, RunCache, run_cached
from mcir.tables.commands import Proxy, StudyCommand
from mcir.tables.inputs import held_out_lists, weights_digest
from mcir.tables.mini_report import mini_report
from mcir.tables.pretraining import has_consistency, methods, overrides_for
from mcir.tables.proxy import run_trial
from mcir.tables.proxy_plan import RANDOM, check, pretrainings
from mcir.tables.proxy_plan import plan as plan_proxy
from mcir.tables.residuals import before_and_after
from mcir.tables.study import Study
from mcir.tables.training import StudyRun, study_run, train

ORACLE = "oracle"
RESIDUAL = "ResidualContrastiveModel"
STEPS = 500
"""Number of steps of a proxy training."""
RATE = 1e-2
"""Learning rate of a proxy training: ten times that of the paper, because there are so few steps."""
_SHARED_OPTIONS = ("dist_params", "imports", "num_gpu")
"""Options whose overrides apply to all trainings, not only to the pre-trainings."""


def run_rcl_mini(study: Study, command: StudyCommand, jobs: int, log: Log) -> tuple[Report, dict[str, Any]]:
    """Make the trainings that are not in ``runs.jsonl`` yet, and return the report and its data."""
    plan = RclPlan(study, command)
    cache = RunCache(command.folder / "runs.jsonl")

    def file_of(record: Record) -> Path:
        return command.folder / "weights" / str(record.get("weights"))

    def has_weights(record: Record) -> bool:
        return file_of(record).is_file()

    pretrained = run_cached("pre-training", pretrain, plan.pretrainings, cache, jobs, log, has_weights)
    weights = {(record["method"], record["task"], record["seed"]): file_of(record) for record in pretrained}
    trials = plan.trials(weights)
    results = run_cached("proxy training", evaluate, trials, cache, jobs, log)
    # methods that end with the same weights share a result
    records = [{**record, "method": run.name} for run, record in zip(trials, results, strict=True)]
    return mini_report(study, command, records, pretrained, plan.numbers())


class RclPlan:
    """The trainings of the study.

    Attributes:
        pretrainings: pre-trainings of all methods and seeds.

    Raises:
        ValueError: data or weights cannot be read, or an override is not valid.
    """

    def __init__(self, study: Study, command: StudyCommand) -> None:
        self.command = command
        self._seeds = range(command.seeds or study.seeds)
        self.file = study.folder / "pretraining.yml"
        self._lists = {} if command.data is None else held_out_lists(command.data, command.folder)
        self._digest = weights_digest(command.features, study.flag)
        options = load(self.file, self._overrides(study.reference, 0))
        assert options.train is not None and options.datasets.train is not None
        data = options.datasets.train
        self.steps = options.train.total_iter
        self.patch, self.batch = int(data.section["patch_size"]), 2 * data.batch_size_per_gpu
        self.proxy_steps = 2 if command.quick else STEPS
        self._network = options.networks["network_g"]
        DATASETS.build(data.section)
        for task in command.task:
            check(self._proxy(task, [RANDOM], 0))
        self.pretrainings = [run for seed in self._seeds for run in self._pretrainings(seed)]

    def numbers(self) -> dict[str, float]:
        """Return the sizes of the study for the report."""
        numbers = {"steps": self.steps, "batch": self.batch, "patch": self.patch, "proxy_steps": self.proxy_steps}
        return {**numbers, "proxy_rate": RATE}

    def trials(self, weights: Mapping[tuple[str, str, int], Path]) -> list[StudyRun]:
        """Return the proxy trainings, ordered by seed, task and method.

        ``weights`` contains the files of the pre-trained weights by method, task and seed.
        """
        found = []
        names = self.command.method
        for seed in self._seeds:
            for task in self.command.task:
                rows = [f"{name}={weights[name, '', seed]}" if name in methods(self.file) else name for name in names]
                oracle = {ORACLE: weights[ORACLE, task, seed]} if ORACLE in names else {}
                trials = plan_proxy(self._proxy(task, rows, seed, f"train.optim_g.lr={RATE}"), oracle)
                found += [trial for trial in trials if trial.seed == seed]
        return found

    def _overrides(self, method: str, seed: int) -> tuple[str, ...]:
        """Return the overrides of ``pretraining.yml`` for a method."""
        found = [*overrides_for(method, self.command.features, self.file), f"manual_seed={seed}"]
        if self.command.quick:
            found += ["train.total_iter=2", "datasets.train.patch_size=16", "datasets.train.batch_size_per_gpu=2"]
        if self.command.data is not None:
            folder = str(self.command.data)
            train = {"dataroot": folder, "meta_info_file": str(self._lists["train"]), "tile_size": None}
            found += [f"datasets.train.{key}={json.dumps(value)}" for key, value in train.items()]
            held_out = {
                "name": "held-out images",
                "type": "PairedImageDataset",
                "dataroot_gt": folder,
                "meta_info_file": str(self._lists["val"]),
                "degradation": {"type": "HeteroscedasticNoise", "sigma": [0, 20]},
            }
            found.append(f"datasets.val={json.dumps(held_out)}")
        return (*found, *self.command.set)

    def _pretrainings(self, seed: int) -> list[StudyRun]:
        """Return the pre-trainings of a seed; only those of the oracle have a task."""
        root = self.command.folder / "pretrained"
        found = []
        for name in self.command.method:
            if name in methods(self.file):
                digest = self._digest if has_consistency(name, self.file) else ""
                found.append(study_run(name, "", seed, self.file, self._overrides(name, seed), root, digest))
        if ORACLE in self.command.method:
            found += [pretrainings(self._proxy(task, [ORACLE], seed))[ORACLE] for task in self.command.task]
        return found

    def _proxy(self, task: str, rows: Sequence[str], seed: int, *changes: str) -> Proxy:
        """Return the settings of a proxy evaluation."""
        data = self.command.data
        overrides = ["train.channels_last=true", *changes]
        if data is None:
            overrides += [f"datasets.{part}.tile_size=128" for part in ("train", "val")]
        else:
            overrides += [f"datasets.{key}.meta_info_file={json.dumps(str(file))}" for key, file in self._lists.items()]
        overrides += [text for text in self.command.set if re.split("[.=]", text)[0] in _SHARED_OPTIONS]
        return Proxy(
            weights=list(rows),
            task=task,
            trials=seed + 1,
            steps=self.proxy_steps,
            patch=self.patch,
            batch=self.batch,
            pretrain_steps=self.steps,
            pretrain_seed=seed,
            network=self._network,
            data=data,
            test=data,
            results=self.command.folder,
            set=overrides,
        )


def pretrain(run: StudyRun) -> Record:
    """Run a pre-training, keep its weights, and return its result."""
    options = run.options()
    trained = train(options)
    name = "_".join([run.name, *([run.task] if run.task else []), f"seed{run.seed}"])
    weights = run.root.parent / "weights" / f"{name}_{run.fingerprint}{trained.weights.suffix}"
    weights.parent.mkdir(parents=True, exist_ok=True)
    trained.weights.replace(weights)
    psnr = trained.evaluation.scores["psnr"]
    return {
        "method": run.name,
        "task": run.task,
        "seed": run.seed,
        "weights": weights.name,
        "psnr": psnr.mean,
        "psnr_of_input": psnr.of_input,
        "torch": torch.__version__,
        **({"residuals": before_and_after(options, weights)} if options.model_type == RESIDUAL else {}),
    }


def evaluate(run: StudyRun) -> Record:
    """Run a proxy training and return its result."""
    record = run_trial(run)
    return {"method": record.pop("weights"), "seed": record.pop("trial"), **record}
