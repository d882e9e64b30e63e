"""Residual contrastive learning (arXiv:2106.10070) at a size that two processor cores carry, with an honest answer.

A small U-Net is pre-trained on noisy photographs by several methods (``rcl_mini.yml``), for the same number of steps
and from the same first weights. Then a new last layer is trained on the frozen rest, for denoising and for
super-resolution ×2. The seed of the pre-training is that of this proxy training, too, so differences between methods
are paired.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mcir.atomic import write_atomically
from mcir.config import load
from mcir.engine.loggers import as_json
from mcir.engine.run_lock import lock_run_dir
from mcir.registry import DATASETS
from mcir.tables.inputs import digest_of, held_out_lists
from mcir.tables.pool import worker_count
from mcir.tables.pretraining import is_consistent, methods, overrides_for
from mcir.tables.proxy import run_trial, trained
from mcir.tables.proxy_plan import RANDOM, ProxySettings, Trial, check, planned, pretrainings
from mcir.tables.rcl_mini_report import AGAINST, METHODS, TASKS, Conditions, tell
from mcir.tables.run_cache import Record, Say, run_cached

HOME = Path(__file__).with_name("rcl_mini.yml")
ORACLE = "oracle"
STEPS = 500
"""Of a proxy training."""
RATE = 1e-2
"""Its learning rate: ten times that of the paper, so that the new layer comes to its place in so few steps."""
_WEIGHTS = "weights"
_EVERYWHERE = ("dist_params", "imports", "num_gpu")
"""Options that, laid over the pre-trainings, are laid over all trainings."""


@dataclass(frozen=True)
class RclMiniSettings:
    """How the small reproduction is made.

    Attributes:
        results: where ``runs.jsonl``, the pre-trained weights and the report go.
        seeds: trainings of each method, with the seeds 0, 1, …
        tasks: which of ``TASKS``.
        methods: which of :func:`known_methods`; ``RCL-EMD``, which others are compared with, always comes along.
        data: folder of clean images instead of the bundled photographs; every fifth is held out.
        resnet: weights of the consistency loss's network: ``random``, ``imagenet`` or a file.
        jobs: trainings at a time, each on one core; None: as many as cores, one on a GPU.
        quick: two seeds and a few steps, to see that everything works; its numbers mean nothing.
        overrides: ``a.b=c``, laid over every pre-training. Crops, batches, network and number of steps hold for the
            oracle, too, and all but the last for the proxy trainings.
    """

    results: Path = Path("results/rcl-mini")
    seeds: int = 3
    tasks: Sequence[str] = tuple(TASKS)
    methods: Sequence[str] = METHODS
    data: Path | None = None
    resnet: str = "random"
    jobs: int | None = None
    quick: bool = False
    overrides: Sequence[str] = ()


def known_methods() -> tuple[str, ...]:
    """Return the names of all methods: those of ``pretraining.yml``, ``random`` and ``oracle``."""
    return (*methods(), RANDOM, ORACLE)


def reproduce_rcl_mini(settings: RclMiniSettings, say: Say = print) -> int:
    """Make all trainings that are not yet in ``runs.jsonl``, and write the report; return 0.

    Raises:
        ValueError: an unknown task or method, data or weights that cannot be read, or the same is made elsewhere now.
        SystemExit: a signal stopped a training; the same call goes on from there.
    """
    jobs = worker_count(settings.jobs)
    with lock_run_dir(settings.results):
        plan = _Plan(settings)
        pretrained = run_cached(
            "pre-training", pretrain, plan.pretrainings, plan.file, jobs, say, _told_of_pretraining, plan.holds
        )
        files = {(made["method"], made["task"], made["seed"]): plan.weights(made) for made in pretrained}
        found = run_cached("proxy training", evaluate, plan.trials(files), plan.file, jobs, say, _told)
        images = "the bundled photographs" if settings.data is None else f"the images of {settings.data}"
        conditions = Conditions(
            images, settings.resnet, settings.quick, plan.steps, plan.batch, plan.patch, plan.proxy_steps, RATE
        )
        report, data = tell(pretrained, found, conditions)
        target = settings.results / "rcl-mini.json"
        write_atomically(target, (as_json(data, indent=2) + "\n").encode())
        for path in [target, *report.write(settings.results, "rcl-mini")]:
            say(f"results: {path}")
    return 0


# -- the plan ---------------------------------------------------------------------------------------------------------


class _Plan:
    """What is to be trained.

    Raises:
        ValueError: something makes no sense or cannot be read.
    """

    def __init__(self, settings: RclMiniSettings) -> None:
        for kind, asked, known in (("task", settings.tasks, TASKS), ("method", settings.methods, known_methods())):
            odd = [name for name in asked if name not in known]
            if odd or not asked:
                raise ValueError(f"rcl-mini has no {kind} '{', '.join(odd)}'. Known are {', '.join(known)}.")
        if settings.seeds < 1:
            raise ValueError(f"rcl-mini needs at least one seed, not {settings.seeds}.")
        self.settings = settings
        self.file = settings.results / "runs.jsonl"
        self.seeds = range(2 if settings.quick else settings.seeds)
        self.methods = [name for name in known_methods() if name in settings.methods or name == AGAINST]
        self._lists = {} if settings.data is None else held_out_lists(settings.data, settings.results)
        self._features = digest_of(settings.resnet, "--resnet")
        options = load(HOME, self._overrides(AGAINST, 0))
        assert options.train is not None and options.datasets.train is not None
        data = options.datasets.train
        self.steps = options.train.total_iter
        self.patch, self.batch = int(data.section["patch_size"]), 2 * data.batch_size_per_gpu
        self.proxy_steps = 2 if settings.quick else STEPS
        self._network = options.networks["network_g"]
        DATASETS.build(data.section)
        for task in settings.tasks:
            check(self._proxy(task, [RANDOM], 0))
        self.pretrainings = [one for seed in self.seeds for one in self._pretrainings(seed)]
        for one in self.pretrainings:
            one.options()

    def _overrides(self, method: str, seed: int) -> tuple[str, ...]:
        """Return what is laid over ``rcl_mini.yml`` for a method."""
        found = [*overrides_for(method, self.settings.resnet), f"manual_seed={seed}"]
        if self.settings.quick:
            found += ["train.total_iter=2", "datasets.train.patch_size=16", "datasets.train.batch_size_per_gpu=2"]
        if self.settings.data is not None:
            common = {
                "dataroot": str(self.settings.data),
                "meta_info_file": str(self._lists["train"]),
                "tile_size": None,
            }
            found += [f"datasets.train.{key}={json.dumps(value)}" for key, value in common.items()]
            found.append(f"datasets.val={json.dumps(self._held_out())}")
        return (*found, *self.settings.overrides)

    def _held_out(self) -> dict[str, Any]:
        return {
            "name": "held-out images",
            "type": "PairedImageDataset",
            "dataroot_gt": str(self.settings.data),
            "meta_info_file": str(self._lists["val"]),
            "degradation": {"type": "HeteroscedasticNoise", "sigma": [0, 20]},
        }

    def _pretrainings(self, seed: int) -> list[Trial]:
        """Return the pre-trainings of a seed; ``task`` is empty unless they are for one."""
        root = self.settings.results / "pretrained"
        found = [
            Trial(name, "", False, None, seed, root, None, features, self._overrides(name, seed), HOME)
            for name in self.methods
            if name in methods()
            for features in [self._features * is_consistent(name)]
        ]
        if ORACLE in self.methods:
            found += [pretrainings(self._proxy(task, [ORACLE], seed))[ORACLE] for task in self.settings.tasks]
        return found

    def trials(self, weights: dict[tuple[str, str, int], Path]) -> list[Trial]:
        """Return the proxy trainings: all methods of a seed before the next seed.

        Args:
            weights: the files of the pre-trained weights, by method, task and seed.
        """
        found = []
        for seed in self.seeds:
            for task in self.settings.tasks:
                rows = [f"{name}={weights[name, '', seed]}" if name in methods() else name for name in self.methods]
                oracle = {ORACLE: weights[ORACLE, task, seed]} if ORACLE in self.methods else {}
                trials = planned(self._proxy(task, rows, seed, f"train.optim_g.lr={RATE}"), oracle)
                found += [trial for trial in trials if trial.seed == seed]
        return found

    def _proxy(self, task: str, rows: Sequence[str], seed: int, *changes: str) -> ProxySettings:
        """Return the settings of the proxy evaluation of rows."""
        given = self.settings
        overrides = ["train.channels_last=true", *changes]
        if given.data is None:
            overrides += [f"datasets.{part}.tile_size=128" for part in ("train", "val")]
        else:
            overrides += [
                f"datasets.{part}.meta_info_file={json.dumps(str(file))}" for part, file in self._lists.items()
            ]
        overrides += [text for text in given.overrides if re.split("[.=]", text)[0] in _EVERYWHERE]
        return ProxySettings(
            rows,
            task,
            trials=seed + 1,
            steps=self.proxy_steps,
            patch=self.patch,
            batch=self.batch,
            pretrain_steps=self.steps,
            pretrain_seed=seed,
            network=self._network,
            data=given.data,
            test=given.data,
            results=given.results,
            overrides=overrides,
        )

    def weights(self, record: Record) -> Path:
        """Return the file of the weights that a pre-training left."""
        return self.settings.results / _WEIGHTS / str(record["weights"])

    def holds(self, record: Record) -> bool:
        """Return whether what a pre-training left is still there."""
        return self.weights(record).is_file()


# -- trainings --------------------------------------------------------------------------------------------------------


def pretrain(trial: Trial) -> Record:
    """Make a pre-training, or go on with it, and leave the weights of it."""
    begin = time.perf_counter()
    file, (evaluation,) = trained(trial.options())
    name = "_".join([trial.name, *([trial.task] if trial.name == ORACLE else []), f"seed{trial.seed}"])
    weights = trial.root.parent / _WEIGHTS / f"{name}_{trial.fingerprint()}{file.suffix}"
    weights.parent.mkdir(parents=True, exist_ok=True)
    file.replace(weights)
    shutil.rmtree(trial.folder, ignore_errors=True)
    scores = evaluation.scores
    return {
        "fingerprint": trial.fingerprint(),
        "method": trial.name,
        "task": trial.task,
        "seed": trial.seed,
        "weights": weights.name,
        "psnr": scores["psnr"].mean,
        "psnr_of_input": scores["psnr"].of_input,
        "seconds": time.perf_counter() - begin,
        "torch": torch.__version__,
    }


def evaluate(trial: Trial) -> Record:
    """Make a proxy training."""
    result = asdict(run_trial(trial))
    return {"method": result.pop("weights"), "seed": result.pop("trial"), **result}


def _told_of_pretraining(record: Record) -> str:
    return f"{record['method']} {record['task']} seed {record['seed']}".replace("  ", " ")


def _told(record: Record) -> str:
    return f"{record['task']} {record['method']} seed {record['seed']}: {float(record['psnr']):.3f} dB"
