"""The trainings of a proxy evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcir.config import load
from mcir.data.folders import listed
from mcir.errors import suggestion
from mcir.paths import expand_path, file_problem
from mcir.registry import ARCHS, DATASETS, Section
from mcir.tables.commands import Proxy
from mcir.tables.inputs import image_facts
from mcir.tables.training import StudyRun, data_sections, study_run
from mcir.weights import DetectedNetwork, detect_network, read_weights

PROXY = Path(__file__).with_name("proxy.yml")
RANDOM = "random"
ORACLES = {"oracle": "", "sl-den": "denoise"}
"""Rows with a supervised pre-training, and the task of that; empty: the task of the evaluation."""


@dataclass(frozen=True)
class Task:
    """A task: title, scale, and degradation of the clean images."""

    title: str
    scale: int
    degradation: Section


_NOISE: Section = {"type": "HeteroscedasticNoise"}
_DOWNSCALING: Section = {"type": "BicubicDown"}
TASKS = {
    "denoise": Task("denoising", 1, _NOISE),
    "sr": Task("super-resolution ×2", 2, _DOWNSCALING),
    "jdensr": Task("denoising and super-resolution ×2", 2, {"type": "Chain", "degradations": [_DOWNSCALING, _NOISE]}),
    "demosaic": Task("demosaicing", 1, {"type": "BayerMosaic"}),
}


def check(settings: Proxy) -> None:
    """Check the settings, and that there are data and enough labels.

    Raises:
        ValueError: a setting is not valid, or data cannot be read.
    """
    if settings.task not in TASKS:
        near = suggestion(settings.task, TASKS)
        raise ValueError(f"task: expected {', '.join(TASKS)}, got '{settings.task}'.{near}")
    names = [name for name, _ in map(row_of, settings.weights)]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"Expected rows with distinct names (set one by NAME=FILE), got {', '.join(names) or 'none'}.")
    for name in ("trials", "steps", "patch", "batch", "pretrain_steps"):
        if (number := getattr(settings, name)) < 1:
            raise ValueError(f"{name}: expected at least 1, got {number}.")
    labels = list(settings.labels)
    if any(count < 0 for count in labels) or len(set(labels)) < len(labels):
        raise ValueError(f"labels: expected distinct numbers of images, 0 or more, got {labels}.")
    if 0 in labels and not settings.finetune:
        raise ValueError("0 labels need --finetune: a new last layer cannot be trained without labels.")
    if (settings.data is None) != (settings.test is None):
        raise ValueError("Expected both --data and --test or neither, got one of them.")
    _check_data(settings)


def _check_data(settings: Proxy) -> None:
    overrides = [*overrides_for(settings.task, _default_network(settings), settings), *settings.set]
    sections = data_sections(load(PROXY, [*overrides, *_labelled(max(settings.labels, default=0))]))
    roots = [{Path(root).resolve() for root in listed(part.get("dataroot_gt"))} for part in sections]
    lists = [part.get("meta_info_file") for part in sections]
    if roots[0] & roots[1] and (None in lists or lists[0] == lists[1]):
        raise ValueError(
            f"{settings.test}: contains the training images. Choose another folder, or disjoint lists of images "
            "(`mcir prepare split` writes them): --set datasets.train.meta_info_file=… datasets.val.meta_info_file=…"
        )
    for section in sections:
        DATASETS.build(section)


def pretrainings(settings: Proxy) -> dict[str, StudyRun]:
    """Return the supervised pre-trainings by the names of their rows."""
    network, found = _default_network(settings), {}
    for name in (name for name, _ in map(row_of, settings.weights) if name in ORACLES):
        task, seed = ORACLES[name] or settings.task, settings.pretrain_seed
        overrides = (
            *overrides_for(task, network, settings),
            "name=pretrained",
            "model_type=RestorationModel",
            f"train.total_iter={settings.pretrain_steps}",
            f"val.val_freq={settings.pretrain_steps}",
            f"manual_seed={seed}",
            *settings.set,
        )
        root = settings.results / "pretrained"
        found[name] = study_run(name, task, seed, PROXY, overrides, root, _image_digest(settings))
    return found


def pretrained_folder(run: StudyRun) -> Path:
    """Return the folder of a supervised pre-training."""
    return run.folder / "pretrained"


def pretrained_file(run: StudyRun, settings: Proxy) -> Path:
    """Return the weight file of a supervised pre-training."""
    return pretrained_folder(run) / "models" / f"net_g_{settings.pretrain_steps}.pth"


def plan(settings: Proxy, pretrained: Mapping[str, Path]) -> list[StudyRun]:
    """Return the trainings, ordered by row, number of labels and trial.

    ``pretrained`` contains the weight files of the supervised pre-trainings by row.

    Raises:
        ValueError: weights cannot be read, or a network does not fit the task.
    """
    runs: list[StudyRun] = []
    images = _image_digest(settings)
    counts: Sequence[int | None] = settings.labels or [None]
    for name, file in map(row_of, settings.weights):
        file = pretrained.get(name, file)
        if file is None:
            network, contents, fits = _default_network(settings), images, True
        else:
            detected = detect_file(file)
            network, fits = detected.section, detected.scale == TASKS[settings.task].scale
            contents = images + hashlib.sha256(file.read_bytes()).hexdigest()
        common = (
            *overrides_for(settings.task, network, settings),
            f"model_type={'RestorationModel' if settings.finetune else 'ProxyModel'}",
            f"train.total_iter={settings.steps}",
            f"val.val_freq={settings.steps}",
            f"path.strict_load_g={json.dumps(fits or not settings.finetune)}",
        )
        for labels in counts:
            if labels == 0 and (file is None or not fits):
                continue  # without labels, only weights for this task can be evaluated
            for seed in range(1 if labels == 0 else settings.trials):
                overrides = (*common, *_labelled(labels), f"manual_seed={seed}", *settings.set)
                root = settings.results / "runs"
                runs.append(study_run(name, settings.task, seed, PROXY, overrides, root, contents, file, labels))
    return runs


def overrides_for(task: str, network: Section, settings: Proxy) -> list[str]:
    """Return the overrides of ``proxy.yml`` that set the data and the network of a task.

    Raises:
        ValueError: the network has no argument for the scale, and the task needs one.
    """
    scale = TASKS[task].scale
    common = {"scale": scale, "degradation": TASKS[task].degradation}
    train: dict[str, Any] = {**common, "gt_size": settings.patch * scale, "batch_size_per_gpu": settings.batch}
    test: dict[str, Any] = {**common, "name": "test"}
    if settings.data is None:
        train |= {"type": "BundledPhotos", "split": "train", "tile_size": 256}
        test |= {"type": "BundledPhotos", "split": "val"}
    else:
        train |= {"type": "PairedImageDataset", "dataroot_gt": str(settings.data)}
        test |= {"type": "PairedImageDataset", "dataroot_gt": str(settings.test)}
    tree = {"scale": scale, "network_g": _with_scale(network, scale), "datasets": {"train": train, "val": test}}
    return [f"{key}={json.dumps(value)}" for key, value in tree.items()]


def detect_file(file: Path) -> DetectedNetwork:
    """Detect the network of a weight file.

    Raises:
        ValueError: the file cannot be read, or its architecture is unknown.
    """
    network = detect_network(read_weights(file))
    if network is None:
        raise ValueError(f"{file}: the weights match no known architecture ({', '.join(ARCHS.names())}).")
    return network


def row_of(text: str) -> tuple[str, Path | None]:
    """Return the name of a row, and its file if it has one."""
    named = (RANDOM, *ORACLES)
    if text in named:
        return text, None
    name, equals, path = text.partition("=")
    file = expand_path(path if equals else text)
    if file_problem(file):
        near = suggestion(text, named)
        raise ValueError(f"{text}: expected {', '.join(named)} or a weight file; there is no such file.{near}")
    name = name if equals else file.stem
    if name in named:
        raise ValueError(f"{text}: the name '{name}' is reserved. Choose another one with NAME={file}.")
    return name, file


def _default_network(settings: Proxy) -> Section:
    if settings.network is not None:
        return settings.network
    files = [file for _, file in map(row_of, settings.weights) if file is not None]
    return detect_file(files[0]).section if files else {"type": "UNet"}


def _with_scale(network: Section, scale: int) -> Section:
    """Return the section of a network, changed to a scale."""
    key = next((key for key in ("scale", "upscale") if key in ARCHS.parameters(network["type"])), None)
    if key is None and scale != 1:
        raise ValueError(f"{network['type']} has no argument for the scale, but the task has scale {scale}.")
    return {**network, key: scale} if key else network


def _labelled(labels: int | None) -> list[str]:
    """Return the overrides that select the labelled images."""
    return [f"datasets.train.max_images={labels}", "datasets.train.subset_seed=0"] if labels else []


def _image_digest(settings: Proxy) -> str:
    """Return a digest of the images in ``--data`` and ``--test``."""
    roots = [root for root in (settings.data, settings.test) if root is not None]
    return hashlib.sha256("\n".join(line for root in roots for line in image_facts(root)).encode()).hexdigest()
