"""What a proxy evaluation needs: its settings, and the trainings that they ask for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import mcir
from mcir.config import Options, load
from mcir.network_spec import NetworkSpec, spec_of
from mcir.registry import ARCHS, DATASETS, Section, suggestion
from mcir.tables.inputs import facts_of
from mcir.weights import detect_network, read_weights

HOME = Path(__file__).with_name("proxy.yml")
RANDOM = "random"
PRETRAINED_HERE = {"oracle": "", "sl-den": "denoise"}
"""Rows whose supervised pre-training is made here, and its task; empty: the task that is evaluated."""


@dataclass(frozen=True)
class Task:
    """What labelled images are made of: ``scale``, and the degradation of the clean ones."""

    title: str
    scale: int
    degradation: Section


_NOISE: Section = {"type": "HeteroscedasticNoise"}
_SMALL: Section = {"type": "BicubicDown"}
TASKS = {
    "denoise": Task("denoising", 1, _NOISE),
    "sr": Task("super-resolution ×2", 2, _SMALL),
    "jdensr": Task("denoising and super-resolution ×2", 2, {"type": "Chain", "degradations": [_SMALL, _NOISE]}),
    "demosaic": Task("demosaicing", 1, {"type": "BayerMosaic"}),
}


@dataclass(frozen=True)
class ProxySettings:
    """How weights are evaluated.

    Attributes:
        weights: the rows: weight files, ``NAME=FILE`` to call one otherwise than by its file, ``random``, ``oracle``
            (supervised pre-training for the task) or ``sl-den`` (supervised pre-training for denoising).
        task: one of ``TASKS``.
        labels: numbers of labelled images, nested subsets; none: all images. 0, with ``finetune``, takes weights as
            they are.
        trials: trainings of each row, with the seeds 0, 1, … of initialisation, order, crops and noise.
        steps: of each training.
        patch: side of a crop of the degraded images.
        batch: images of a step.
        finetune: train all weights, from the last layer of the pre-training where it fits the task.
        pretrain_steps: of the supervised pre-trainings, on all labelled images.
        pretrain_seed: of the supervised pre-trainings.
        subset_seed: decides which images are labelled.
        network: of the rows that have no file; that of the first file without, or else ``UNet``.
        data: folder or data base of clean images to train on, instead of the bundled photographs.
        test: the same of clean images to test on.
        results: where ``runs.jsonl`` and the report go.
        jobs: trainings at a time, each on one core; None: as many as cores, one on a GPU.
        overrides: ``a.b=c``, laid over every training.
    """

    weights: Sequence[str] = (RANDOM,)
    task: str = "denoise"
    labels: Sequence[int] = ()
    trials: int = 5
    steps: int = 2000
    patch: int = 128
    batch: int = 64
    finetune: bool = False
    pretrain_steps: int = 10_000
    pretrain_seed: int = 0
    subset_seed: int = 0
    network: Section | None = None
    data: Path | None = None
    test: Path | None = None
    results: Path = Path("results/proxy")
    jobs: int | None = None
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class Trial:
    """A training to be made, and all that decides its result.

    Attributes:
        name: of its row.
        task: one of ``TASKS``.
        finetune: whether all weights are trained.
        labels: how many labelled images; None: all.
        seed: of the trial.
        root: where it has a folder of its own.
        weights: what it starts from.
        contents: a digest of the weights and of the images.
        overrides: laid over ``home``.
        home: the option file.
    """

    name: str
    task: str
    finetune: bool
    labels: int | None
    seed: int
    root: Path
    weights: Path | None
    contents: str
    overrides: tuple[str, ...]
    home: Path = HOME

    @property
    def folder(self) -> Path:
        """Its own folder."""
        return self.root / self.fingerprint()

    def options(self) -> Options:
        """Return the checked options."""
        start = "" if self.weights is None else str(self.weights)
        places = {"path.experiments_root": str(self.folder), "path.pretrain_network_g": start or None}
        return load(self.home, [*self.overrides, *(f"{key}={json.dumps(value)}" for key, value in places.items())])

    def fingerprint(self) -> str:
        """Return what two trainings have in common whose results are the same."""
        options = load(self.home, self.overrides)
        device = "cuda" if options.num_gpu != 0 and torch.cuda.is_available() else "cpu"
        facts = [options.dump(), mcir.__version__, torch.__version__, device, self.contents, str(self.labels == 0)]
        lists = [part["meta_info_file"] for part in _sections(options) if part.get("meta_info_file") is not None]
        facts += [hashlib.sha256(Path(file).expanduser().read_bytes()).hexdigest() for file in lists]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def check(settings: ProxySettings) -> None:
    """Check settings, data and labels, before anything is trained.

    Raises:
        ValueError: something makes no sense or cannot be read.
    """
    if settings.task not in TASKS:
        raise ValueError(f"There is no task '{settings.task}'.{suggestion(settings.task, TASKS)}")
    names = [name for name, _ in map(_named, settings.weights)]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"Rows need names of their own, like NAME=FILE; these are {', '.join(names) or 'none'}.")
    for name in ("trials", "steps", "patch", "batch", "pretrain_steps"):
        if (number := getattr(settings, name)) < 1:
            raise ValueError(f"{name} is at least 1, not {number}.")
    if any(count < 0 for count in settings.labels):
        raise ValueError(f"labels are numbers of images from 0 on, not {list(settings.labels)}.")
    if len(set(settings.labels)) < len(settings.labels):
        raise ValueError(f"labels are numbers that differ, not {list(settings.labels)}.")
    if 0 in settings.labels and not settings.finetune:
        raise ValueError("Without labels no last layer can be trained: 0 labels go with finetune.")
    if (settings.data is None) != (settings.test is None):
        raise ValueError("Give both images to train on and images to test on (--data and --test), or neither.")
    overrides = [*overrides_for(settings.task, _default_network(settings), settings), *settings.overrides]
    parts = _sections(load(HOME, [*overrides, *_labelled(max(settings.labels, default=0), settings)]))
    roots = [Path(part["dataroot_gt"]).resolve() if "dataroot_gt" in part else None for part in parts]
    lists = [part.get("meta_info_file") for part in parts]
    if roots[0] is not None and roots[0] == roots[1] and (None in lists or lists[0] == lists[1]):
        raise ValueError(
            f"{settings.test}: would be tested on images that are trained on. Name another folder, or disjoint lists "
            "(mcir prepare split makes them): --set datasets.train.meta_info_file=… datasets.val.meta_info_file=…"
        )
    for part in parts:
        DATASETS.build(part)


def pretrainings(settings: ProxySettings) -> dict[str, Trial]:
    """Return the supervised pre-trainings that rows need, by the names of the rows.

    Raises:
        ValueError: weights that cannot be read, or a network that does not fit the task.
    """
    network, found = _default_network(settings), {}
    for name in (name for name, _ in map(_named, settings.weights) if name in PRETRAINED_HERE):
        task, seed = PRETRAINED_HERE[name] or settings.task, settings.pretrain_seed
        overrides = (
            *overrides_for(task, network, settings),
            "name=pretrained",
            "model_type=RestorationModel",
            f"train.total_iter={settings.pretrain_steps}",
            f"val.val_freq={settings.pretrain_steps}",
            f"manual_seed={seed}",
            *settings.overrides,
        )
        root = settings.results / "pretrained"
        found[name] = Trial(name, task, False, None, seed, root, None, _images(settings), overrides)
    return found


def planned(settings: ProxySettings, pretrained: dict[str, Path]) -> list[Trial]:
    """Return the trainings in order: row by row, from few labels to many as asked, trial by trial.

    Args:
        settings: of the evaluation.
        pretrained: the weights of supervised pre-trainings, by the names of their rows.

    Raises:
        ValueError: weights that cannot be read, or a network that does not fit the task.
    """
    trials, images = [], _images(settings)
    counts: Sequence[int | None] = settings.labels or [None]
    for name, given in map(_named, settings.weights):
        file = pretrained.get(name, given)
        network = _default_network(settings) if file is None else section_of(file)
        contents = images if file is None else images + hashlib.sha256(file.read_bytes()).hexdigest()
        fits = file is None or _scale_of(network) == TASKS[settings.task].scale
        common = [
            *overrides_for(settings.task, network, settings),
            f"model_type={'RestorationModel' if settings.finetune else 'ProxyModel'}",
            f"train.total_iter={settings.steps}",
            f"val.val_freq={settings.steps}",
            f"path.strict_load_g={json.dumps(fits or not settings.finetune)}",
        ]
        for labels in counts:
            if labels == 0 and (file is None or not fits):
                continue  # there is nothing that could restore
            own = [*common, *_labelled(labels, settings)]
            for seed in range(1 if labels == 0 else settings.trials):
                over = (*own, f"manual_seed={seed}", *settings.overrides)
                root = settings.results / "runs"
                trials.append(Trial(name, settings.task, settings.finetune, labels, seed, root, file, contents, over))
    return trials


def rows_without(settings: ProxySettings) -> list[str]:
    """Return the rows that 0 labels are asked for and that have no weights for the task: no result can be had.

    Raises:
        ValueError: weights that cannot be read.
    """
    scale, found = TASKS[settings.task].scale, []
    for name, file in map(_named, settings.weights) if 0 in settings.labels else ():
        if file is not None:
            fits = _scale_of(section_of(file)) == scale
        else:
            fits = name != RANDOM and TASKS[PRETRAINED_HERE[name] or settings.task].scale == scale
        if not fits:
            found.append(name)
    return found


def overrides_for(task: str, network: Section, settings: ProxySettings) -> list[str]:
    """Return what is laid over ``proxy.yml`` for a task: the data of it, and the network with the task's head.

    Raises:
        ValueError: the network cannot enlarge as the task asks.
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


def section_of(file: Path) -> Section:
    """Return the section of the network that a weight file is of.

    Raises:
        ValueError: the file cannot be read, or is of no architecture that is known.
    """
    found = detect_network(read_weights(file))
    if found is None:
        raise ValueError(f"{file}: its weights are of no architecture that is known here ({', '.join(ARCHS.names())}).")
    return found.section


def _named(row: str) -> tuple[str, Path | None]:
    """Return the name of a row and its file, if it has one."""
    known = (RANDOM, *PRETRAINED_HERE)
    if row in known:
        return row, None
    name, equals, file = row.partition("=")
    place = Path(file if equals else row)
    if not place.is_file():
        raise ValueError(
            f"{row}: there is no such weight file, and the other rows are {', '.join(known)}.{suggestion(row, known)}"
        )
    name = name if equals else place.stem
    if name in known:
        raise ValueError(f"{row}: '{name}' is a row that has no file. Call it otherwise, like NAME={place}.")
    return name, place


def _default_network(settings: ProxySettings) -> Section:
    if settings.network is not None:
        return settings.network
    files = [file for _, file in map(_named, settings.weights) if file is not None]
    return section_of(files[0]) if files else {"type": "UNet"}


def _with_scale(network: Section, scale: int) -> Section:
    """Return the section of a network with the head of a task."""
    key = next((key for key in ("scale", "upscale") if key in ARCHS.parameters(network["type"])), None)
    if key is not None:
        return {**network, key: scale}
    if scale != 1:
        raise ValueError(f"{network['type']} does not enlarge, and the task asks for ×{scale}.")
    return network


def _scale_of(network: Section) -> int:
    with torch.device("meta"):
        return (spec_of(ARCHS.build(network)) or NetworkSpec()).scale


def _labelled(labels: int | None, settings: ProxySettings) -> list[str]:
    """Return what chooses the labelled images."""
    chosen = {"max_images": labels, "subset_seed": settings.subset_seed} if labels else {}
    return [f"datasets.train.{key}={value}" for key, value in chosen.items()]


def _sections(options: Options) -> list[Section]:
    """Return what the images to train on are, and those to test on."""
    assert options.datasets.train is not None
    return [options.datasets.train.section, *(part.section for part in options.datasets.val.values())]


def _images(settings: ProxySettings) -> str:
    """Return a digest of one's own images: of other images, trainings are other ones."""
    roots = [root for root in (settings.data, settings.test) if root is not None]
    lines = [line for root in roots for line in facts_of(root)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
