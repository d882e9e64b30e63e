"""The trainings of the small studies and of proxy evaluations. They run in this process."""

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
from mcir.data.folders import listed
from mcir.device import device_kind
from mcir.engine.checkpoint import load_into
from mcir.engine.distributed import init_distributed
from mcir.engine.evaluation import Evaluation, evaluation_sets
from mcir.engine.trainer import Trainer
from mcir.paths import file_problem
from mcir.registry import MODELS, Section
from mcir.report.records import Run, read_run
from mcir.tables.formatting import counted


@dataclass(frozen=True)
class StudyRun:
    """A training of a small study or of a proxy evaluation.

    Attributes:
        name: name of the method or of the row.
        task: task; empty for a pre-training of any task.
        seed: seed of the training.
        file: option file.
        overrides: overrides of the option file.
        fingerprint: digest of everything that the result depends on.
        root: parent of the folder of the run.
        weights: file of the initial weights; None: random.
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
        """Folder of the run; it exists only during the training."""
        return self.root / self.fingerprint

    @property
    def title(self) -> str:
        """Task, name, number of labels and seed."""
        labels = "" if self.labels is None else f", {counted(self.labels, 'label')},"
        return f"{self.task} {self.name}{labels} seed {self.seed}".strip()

    def options(self) -> Options:
        """Return the checked options of the training."""
        weights = None if self.weights is None else str(self.weights)
        paths = {"experiments_root": str(self.folder), "pretrain_network_g": weights}
        return load(self.file, [*self.overrides, *(f"path.{key}={json.dumps(value)}" for key, value in paths.items())])


def study_run(
    name: str,
    task: str,
    seed: int,
    file: Path,
    overrides: Sequence[str],
    root: Path,
    contents: str = "",
    weights: Path | None = None,
    labels: int | None = None,
) -> StudyRun:
    """Return a training with its fingerprint; ``contents`` is a digest of the weights and images that it reads.

    The fingerprint covers the options, the image lists that they name, ``contents``, the versions of mcir and torch,
    and the type of the device.
    """
    options = load(file, overrides)
    lists = [file for part in data_sections(options) for file in listed(part.get("meta_info_file")) if file]
    facts = [mcir.__version__, torch.__version__, device_kind(options.num_gpu), contents, str(labels == 0)]
    facts += [_digest(Path(name)) for name in lists]
    return StudyRun(name, task, seed, file, overrides, fingerprint(options, facts), root, weights, labels)


def _digest(file: Path) -> str:
    if problem := file_problem(file):
        raise ValueError(f"meta_info_file {file}: {problem}.")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def fingerprint(options: Options, facts: Sequence[str]) -> str:
    """Return a digest of options and of other facts that a result depends on."""
    return hashlib.sha256("\n".join([options.dump(), *facts]).encode()).hexdigest()[:16]


def data_sections(options: Options) -> list[Section]:
    """Return the sections of the training set and of the validation sets."""
    assert options.datasets.train is not None
    return [options.datasets.train.section, *(part.section for part in options.datasets.val.values())]


@dataclass(frozen=True)
class Trained:
    """The weight file, the last evaluation and the logged values of a finished training."""

    weights: Path
    evaluation: Evaluation
    history: Run


def train(options: Options) -> Trained:
    """Start or resume a training and run it to the end. Its output is appended to ``log.txt`` next to its folder.

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
        # a training that was complete before has weights, but no evaluation
        evaluations = trainer.last_evaluations or [part.evaluate(trainer.model.restore) for part in trainer.sets]
    weights = trainer.checkpoints.models / f"net_g_{trainer.total}.pth"
    return Trained(weights, evaluations[0], read_run(trainer.folder))


def evaluate(options: Options) -> Evaluation:
    """Evaluate the initial weights without training.

    Raises:
        ValueError: weights or data cannot be read, or do not fit.
    """
    with init_distributed(options.num_gpu, options.dist_params) as dist:
        (held_out,) = evaluation_sets(options, "val", dist)
        model = MODELS.build({"type": "RestorationModel", "network_g": options.network_g}).to(dist.device)
        load_into(model, Path(options.path.pretrain_network_g or ""), options.path.param_key_g)
        return held_out.evaluate(model.restore)
