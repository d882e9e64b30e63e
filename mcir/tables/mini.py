"""The paradigm's claim at a size that two processor cores carry: small networks, many seeds, and an honest answer.

Three tasks (super-resolution, denoising, dehazing of photographs), each without and with negatives of several kinds,
everything else equal: the same initial weights, batches, optimizer, schedule and moving average for the same seed. The
differences are therefore paired, and the report tests them as pairs.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

import mcir
from mcir.atomic import write_atomically
from mcir.config import Options, load
from mcir.engine.batches import TrainBatches
from mcir.engine.distributed import init_distributed
from mcir.engine.evaluation import Evaluation, evaluation_sets
from mcir.engine.loggers import as_json
from mcir.engine.run_lock import lock_run_dir
from mcir.engine.trainer import fit
from mcir.registry import MODELS
from mcir.tables.formatting import counted
from mcir.tables.inputs import digest_of, held_out_lists
from mcir.tables.mini_report import METHODS, TASKS, Conditions, Record, tell
from mcir.tables.pool import worker_count
from mcir.tables.run_cache import read_runs, run_cached

HOME = Path(__file__).with_name("mini")
Say = Callable[[str], None]


@dataclass(frozen=True)
class MiniSettings:
    """How the mini reproduction is made.

    Attributes:
        results: where ``runs.jsonl`` and the report go.
        seeds: trainings of each method, with the seeds 0, 1, …
        tasks: which of ``TASKS``.
        methods: which of ``METHODS``; ``plain`` always comes along.
        data: folder of clean images instead of the bundled photographs; every fifth is held out.
        vgg: weights of the feature network: ``random``, ``imagenet`` or a file.
        jobs: trainings at a time, each on one core; None: as many as cores, one on a GPU.
        quick: two seeds and a few iterations, to see that everything works; its numbers mean nothing.
        overrides: ``a.b=c``, laid over every run.
    """

    results: Path = Path("results/mini")
    seeds: int = 5
    tasks: Sequence[str] = tuple(TASKS)
    methods: Sequence[str] = tuple(METHODS)
    data: Path | None = None
    vgg: str = "random"
    jobs: int | None = None
    quick: bool = False
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class MiniRun:
    """One training: what it is, all that is laid over its option file, and a digest of the file of its features."""

    task: str
    method: str
    seed: int
    overrides: tuple[str, ...]
    features: str = ""

    def options(self) -> Options:
        """Return the checked options."""
        return load(HOME / f"{self.task}.yml", self.overrides)

    def conditions(self) -> list[str]:
        """Return what else its result may depend on."""
        device = "cuda" if self.options().num_gpu != 0 and torch.cuda.is_available() else "cpu"
        features = [f"features {self.features}"] if self.features else []
        return [f"mcir {mcir.__version__}", f"torch {torch.__version__}", f"device {device}", *features]

    def fingerprint(self) -> str:
        """Return what two trainings have in common whose results may stand in one report."""
        return hashlib.sha256("\n".join([self.options().dump(), *self.conditions()]).encode()).hexdigest()[:16]


def reproduce_mini(settings: MiniSettings, say: Say = print) -> int:
    """Make all trainings that are not yet in ``runs.jsonl``, and write the report; return 0.

    Raises:
        ValueError: an unknown task or method, data or weights that cannot be read, or the same is made elsewhere now.
    """
    with lock_run_dir(settings.results):
        return _reproduce(planned(settings), settings, say)


def _reproduce(runs: Sequence[MiniRun], settings: MiniSettings, say: Say) -> int:
    file = settings.results / "runs.jsonl"
    known = read_runs(file)
    waiting = [run for run in runs if run.fingerprint() not in known]
    for line in _measured_otherwise(waiting, list(known.values())):
        say(line)
    records = run_cached("mini", train_one, runs, file, worker_count(settings.jobs), say, _told)
    images = "the bundled photographs" if settings.data is None else f"the images of {settings.data}"
    report, data = tell(records, Conditions(images, settings.vgg, settings.quick))
    target = settings.results / "mini.json"
    write_atomically(target, (as_json(data, indent=2) + "\n").encode())
    for path in [target, *report.write(settings.results, "mini")]:
        say(f"results: {path}")
    return 0


def _told(record: Record) -> str:
    return f"{record['task']} {record['method']} seed {record['seed']}: {float(record['psnr']):.3f} dB"


def planned(settings: MiniSettings) -> list[MiniRun]:
    """Return the trainings in order: all methods of a seed before the next seed.

    Raises:
        ValueError: an unknown task or method, no seed, or data or weights that cannot be read.
    """
    for kind, asked, known in (("task", settings.tasks, TASKS), ("method", settings.methods, METHODS)):
        odd = [name for name in asked if name not in known]
        if odd or not asked:
            raise ValueError(f"mini has no {kind} '{', '.join(odd)}'. Known are {', '.join(known)}.")
    if settings.seeds < 1:
        raise ValueError(f"mini needs at least one seed, not {settings.seeds}.")
    methods = [name for name in METHODS if name in settings.methods or name == "plain"]
    features = digest_of(settings.vgg, "--vgg")
    common = {task: _common(task, settings) for task in settings.tasks}
    return [
        _planned(task, method, seed, settings.vgg, features, common[task])
        for seed in range(2 if settings.quick else settings.seeds)
        for task in settings.tasks
        for method in methods
    ]


def _planned(task: str, method: str, seed: int, vgg: str, features: str, common: Sequence[str]) -> MiniRun:
    overrides = [f"sweep={method}", f"manual_seed={seed}"]
    if method == "plain":
        return MiniRun(task, method, seed, (*overrides, *common))
    return MiniRun(
        task, method, seed, (*overrides, f"train.contrastive_opt.weights={json.dumps(vgg)}", *common), features
    )


def _measured_otherwise(waiting: Sequence[MiniRun], known: Sequence[Record]) -> Iterator[str]:
    """Yield what to tell of results that are there, but were measured otherwise than is asked now."""
    conditions = {(run.task, run.method, run.seed): run.conditions() for run in waiting}
    count, before = 0, dict[str, None]()
    for record in known:
        now = conditions.get((record["task"], record["method"], record["seed"]))
        if now is not None:
            count += 1
            other = [text for text in record.get("conditions", ["nobody wrote down how"]) if text not in now]
            before[", ".join(other) or "other options"] = None
    if count:
        yield (
            f"mini: {counted(count, 'result')} in the file, measured otherwise ({'; '.join(before)}), "
            "will not be used: these trainings are made again"
        )


def _common(task: str, settings: MiniSettings) -> list[str]:
    """Return what is laid over every training of a task."""
    overrides = []
    if settings.quick:
        overrides += ["train.total_iter=4", "val.val_freq=2", "datasets.train.gt_size=16"]
    if settings.data is not None:
        overrides += _own_data(load(HOME / f"{task}.yml", ["sweep=plain", *overrides]), settings.data, settings.results)
    return [*overrides, *settings.overrides]


def _own_data(options: Options, folder: Path, results: Path) -> list[str]:
    """Return what puts the images of a folder in the place of the bundled photographs, every fifth held out."""
    files = held_out_lists(folder, results)
    assert options.datasets.train is not None
    parts = {"train": options.datasets.train, **options.datasets.val}
    overrides = []
    for key, part in parts.items():
        section = {name: value for name, value in part.section.items() if name not in ("type", "split")}
        section.setdefault("degradation", {"type": "BicubicDown"})
        section |= {"type": "PairedImageDataset", "dataroot_gt": str(folder), "meta_info_file": str(files[key])}
        section["name"] = part.name
        if key == "train":
            section["batch_size_per_gpu"] = part.batch_size_per_gpu
        overrides.append(f"datasets.{key}={json.dumps(section)}")
    return overrides


# -- training ---------------------------------------------------------------------------------------------------------


def train_one(run: MiniRun) -> Record:
    """Make one training from its first weights to its last evaluation; it leaves nothing on the disk."""
    options = run.options()
    assert options.train is not None and options.datasets.train is not None
    begin = time.perf_counter()
    with init_distributed(options.num_gpu, options.dist_params) as dist:
        batches = TrainBatches(options.datasets.train, options.manual_seed, dist, options.where("datasets", "train"))
        (held_out,) = evaluation_sets(options, "val", dist)
        model = MODELS.build(options.model_section(), where=options.where_in_model).to(dist.device)
        evaluations: list[tuple[int, Evaluation]] = []
        ratios: list[float] = []
        evaluating = 0.0

        def log(iteration: int, scalars: dict[str, torch.Tensor]) -> None:
            if "ratio_l_neg" in scalars:
                ratios.append(float(scalars["ratio_l_neg"]))

        def validate(iteration: int) -> None:
            nonlocal evaluating
            start = time.perf_counter()
            evaluations.append((iteration, held_out.evaluate(model.restore)))
            evaluating += time.perf_counter() - start

        start = time.perf_counter()
        fit(
            model,
            batches.iterate(channels_last=model.channels_last),
            total=options.train.total_iter,
            seed=options.manual_seed,
            log_every=options.val.val_freq,
            validate_every=options.val.val_freq,
            on_log=log,
            on_validation=validate,
        )
        training = time.perf_counter() - start - evaluating
    scores = evaluations[-1][1].scores
    return {
        "task": run.task,
        "method": run.method,
        "seed": run.seed,
        "fingerprint": run.fingerprint(),
        "conditions": run.conditions(),
        "psnr": scores["psnr"].mean,
        "ssim": scores["ssim"].mean,
        "psnr_of_input": scores["psnr"].of_input,
        "images": scores["psnr"].images,
        "curve": [[iteration, evaluation.scores["psnr"].mean] for iteration, evaluation in evaluations],
        "ratio": fmean(ratios) if ratios else None,
        "training_seconds": training,
        "seconds": time.perf_counter() - begin,
        "device": str(dist.device),
        "torch": torch.__version__,
    }
