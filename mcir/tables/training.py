"""The trainings of a study, made in this process by the training loop of the engine."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import mcir
from mcir.config import Options, load
from mcir.device import best_device
from mcir.engine.checkpoint import load_into
from mcir.engine.distributed import init_distributed
from mcir.engine.evaluation import Evaluation, evaluation_sets
from mcir.engine.trainer import Trainer
from mcir.registry import MODELS
from mcir.report.records import Run, read_run


@dataclass(frozen=True)
class StudyRun:
    """A training of a study.

    Attributes:
        name: method or row.
        task: task.
        seed: seed.
        file: option file.
        overrides: overrides of the option file.
        fingerprint: digest of everything that decides the result.
        root: folder that contains the run's own folder.
        weights: initial weights.
        labels: number of labelled images; None: all.
    """

    name: str
    task: str
    seed: int
    file: Path
    overrides: Sequence[str]
    fingerprint: str
    root: Path
    weights: Path | None = None
    labels: int | None = None

    @property
    def folder(self) -> Path:
        """Folder of the run, while it trains."""
        return self.root / self.fingerprint

    def options(self) -> Options:
        """Return the checked options of the training."""
        weights = None if self.weights is None else str(self.weights)
        paths = {"experiments_root": str(self.folder), "pretrain_network_g": weights}
        return load(self.file, [*self.overrides, *(f"path.{key}={json.dumps(value)}" for key, value in paths.items())])


def fingerprint(options: Options, facts: Sequence[str]) -> str:
    """Return a digest of options and of other facts that decide a result."""
    return hashlib.sha256("\n".join([options.dump(), *facts]).encode()).hexdigest()[:16]


def versions() -> tuple[str, str]:
    """Return the versions of mcir and torch."""
    return mcir.__version__, torch.__version__


def device_kind(options: Options) -> str:
    """Return the kind of device on which options train on this machine."""
    if isinstance(options.num_gpu, int):
        return "cuda" if options.num_gpu and torch.cuda.is_available() else "cpu"
    return best_device().type if options.num_gpu == "auto" else options.num_gpu


@dataclass(frozen=True)
class Trained:
    """A finished training: its weight file, its last evaluation, and its scalars and metrics by iteration."""

    weights: Path
    evaluation: Evaluation
    history: Run


def train(options: Options) -> Trained:
    """Train to the end, or resume a training that was stopped. Its output goes to ``log.txt`` next to its folder.

    Raises:
        ValueError: the options do not fit together, or data or weights cannot be read.
        SystemExit: a signal stopped the training; its checkpoint is saved.
    """
    root = Path(options.path.experiments_root)
    root.mkdir(parents=True, exist_ok=True)
    changes = {"print_freq": options.val.val_freq, "keep_checkpoints": 1, "use_tb_logger": False, "report": False}
    options = options.model_copy(update={"logger": options.logger.model_copy(update=changes)})
    with (
        (root / "log.txt").open("a", encoding="utf-8") as output,
        contextlib.redirect_stdout(output),
        init_distributed(options.num_gpu, options.dist_params) as dist,
    ):
        trainer = Trainer(options, dist, resume=True)
        if status := trainer.train():
            raise SystemExit(status)
        # a training that a signal stopped after its last step has its weights, but no evaluation
        evaluations = trainer.last_evaluations or [part.evaluate(trainer.model.restore) for part in trainer.sets]
    weights = trainer.checkpoints.models / f"net_g_{trainer.total}.pth"
    return Trained(weights, evaluations[0], read_run(trainer.folder))


def evaluate(options: Options) -> Evaluation:
    """Evaluate the weights that the options name, without any training.

    Raises:
        ValueError: weights or data cannot be read, or do not fit.
    """
    with init_distributed(options.num_gpu, options.dist_params) as dist:
        (held_out,) = evaluation_sets(options, "val", dist)
        model = MODELS.build({"type": "RestorationModel", "network_g": options.network_g}).to(dist.device)
        load_into(model, Path(options.path.pretrain_network_g or ""), options.path.param_key_g)
        return held_out.evaluate(model.restore)
