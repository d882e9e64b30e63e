"""The paradigm's claim at a size that two processor cores carry: small networks, many seeds, and an honest answer.

Three tasks (super-resolution, denoising, dehazing of photographs), each without and with negatives of several kinds,
everything else equal: the same initial weights, batches, optimizer, schedule and moving average for the same seed. The
differences are therefore paired, and the report tests them as pairs.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from mcir.config import Options, load
from mcir.data.codec import write_atomically
from mcir.data.storage import open_storage
from mcir.engine.distributed import joined
from mcir.engine.evaluation import evaluation_sets
from mcir.engine.loggers import as_json
from mcir.engine.stages import StagedBatches
from mcir.registry import MODELS
from mcir.tables.mini_report import METHODS, TASKS, Conditions, Record, tell
from mcir.tables.records import end_last_line, read_records

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
    """One training: what it is, and all that is laid over its option file."""

    task: str
    method: str
    seed: int
    overrides: tuple[str, ...]

    def options(self) -> Options:
        """Return the checked options."""
        return load(HOME / f"{self.task}.yml", self.overrides)

    def fingerprint(self) -> str:
        """Return what two trainings of equal options have in common."""
        return hashlib.sha256(self.options().dump().encode()).hexdigest()[:16]


def reproduce_mini(settings: MiniSettings, say: Say = print) -> int:
    """Make all trainings that are not yet in ``runs.jsonl``, and write the report; return 0.

    Raises:
        ValueError: an unknown task or method, or data that cannot be read.
    """
    runs = planned(settings)
    file = settings.results / "runs.jsonl"
    settings.results.mkdir(parents=True, exist_ok=True)
    known = read_runs(file)
    prints = {run: run.fingerprint() for run in runs}
    waiting = [run for run in runs if prints[run] not in known]
    say(f"mini: {len(runs)} trainings, {len(runs) - len(waiting)} of them are in {file}")
    begin = time.perf_counter()
    end_last_line(file)
    with file.open("a", encoding="utf-8") as lines:
        for count, record in enumerate(_made(waiting, _jobs(settings)), 1):
            lines.write(as_json(record) + "\n")
            lines.flush()
            known[record["fingerprint"]] = record
            left = (time.perf_counter() - begin) / count * (len(waiting) - count)
            say(
                f"{count}/{len(waiting)}  {record['task']} {record['method']} seed {record['seed']}: "
                f"{float(record['psnr']):.3f} dB in {record['seconds']:.1f} s, about {left / 60:.0f} min left"
            )
    records = [known[prints[run]] for run in runs]
    images = "the bundled photographs" if settings.data is None else f"the images of {settings.data}"
    report, data = tell(records, Conditions(images, settings.vgg, settings.quick))
    target = settings.results / "mini.json"
    write_atomically(target, (as_json(data, indent=2) + "\n").encode())
    for path in [target, *report.write(settings.results, "mini")]:
        say(f"results: {path}")
    return 0


def planned(settings: MiniSettings) -> list[MiniRun]:
    """Return the trainings in order: all methods of a seed before the next seed.

    Raises:
        ValueError: an unknown task or method, no seed, or data that cannot be read.
    """
    for kind, asked, known in (("task", settings.tasks, TASKS), ("method", settings.methods, METHODS)):
        odd = [name for name in asked if name not in known]
        if odd or not asked:
            raise ValueError(f"mini has no {kind} '{', '.join(odd)}'. Known are {', '.join(known)}.")
    if settings.seeds < 1:
        raise ValueError(f"mini needs at least one seed, not {settings.seeds}.")
    methods = [name for name in METHODS if name in settings.methods or name == "plain"]
    common = {task: _common(task, settings) for task in settings.tasks}
    return [
        MiniRun(task, method, seed, (f"sweep={method}", f"manual_seed={seed}", *_vgg(method, settings), *common[task]))
        for seed in range(2 if settings.quick else settings.seeds)
        for task in settings.tasks
        for method in methods
    ]


def _vgg(method: str, settings: MiniSettings) -> list[str]:
    return [] if method == "plain" else [f"train.contrastive_opt.weights={json.dumps(settings.vgg)}"]


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
    names = sorted(open_storage(str(folder)).keys())
    if len(names) < 2:
        raise ValueError(f"{folder}: the mini reproduction needs images to train on and others to test on.")
    held_out = set(names[::5])
    lists = {"train": [name for name in names if name not in held_out], "val": sorted(held_out)}
    assert options.datasets.train is not None
    parts = {"train": options.datasets.train, **options.datasets.val}
    sizes = [f"{name} {(folder / name).stat().st_size if (folder / name).is_file() else ''}" for name in names]
    digest = hashlib.sha256("\n".join(sizes).encode()).hexdigest()[:8]  # of other images, runs are other runs
    overrides = []
    results.mkdir(parents=True, exist_ok=True)
    for key, part in parts.items():
        file = results / f"images_{key}_{digest}.txt"
        file.write_text("\n".join(lists[key]) + "\n", encoding="utf-8")
        section = {name: value for name, value in part.section.items() if name not in ("type", "split")}
        section.setdefault("degradation", {"type": "BicubicDown"})
        section |= {"type": "PairedImageDataset", "dataroot_gt": str(folder), "meta_info_file": str(file)}
        section["name"] = part.name
        if key == "train":
            section["batch_size_per_gpu"] = part.batch_size_per_gpu
        overrides.append(f"datasets.{key}={json.dumps(section)}")
    return overrides


# -- training ---------------------------------------------------------------------------------------------------------


def _jobs(settings: MiniSettings) -> int:
    if settings.jobs is not None:
        if settings.jobs < 1:
            raise ValueError(f"--jobs is at least 1, not {settings.jobs}.")
        return settings.jobs
    return 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))


def _made(runs: Sequence[MiniRun], jobs: int) -> Iterator[Record]:
    """Yield the results of trainings as they end."""
    if jobs == 1 or len(runs) < 2:
        yield from map(train_one, runs)
        return
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawning, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pending = {pool.submit(train_one, run) for run in runs}
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            pool.shutdown(cancel_futures=True)


def train_one(run: MiniRun) -> Record:
    """Make one training from its first weights to its last evaluation; it leaves nothing on the disk."""
    options = run.options()
    assert options.train is not None and options.datasets.train is not None
    begin = time.perf_counter()
    with joined(options.num_gpu, options.dist_params) as process:
        torch.manual_seed(options.manual_seed)
        batches = StagedBatches(options.datasets.train, options.manual_seed, process)
        (held_out,) = evaluation_sets(options, "val", process)
        model = MODELS.build(options.model_section()).to(process.device)
        batches.begin(0, model.channels_last)
        curve, ratios, training = [], [], 0.0
        for iteration in range(1, options.train.total_iter + 1):
            due = iteration % options.val.val_freq == 0 or iteration == options.train.total_iter
            start = time.perf_counter()
            model.watch_gradients = due
            scalars = model.training_step(next(batches), iteration)
            training += time.perf_counter() - start
            if due:
                ratios += [float(scalars[name]) for name in ("ratio_l_neg",) if name in scalars]
                evaluation = held_out.evaluate(model.restore)
                curve.append([iteration, evaluation.scores["psnr"].mean])
    return {
        "task": run.task,
        "method": run.method,
        "seed": run.seed,
        "fingerprint": run.fingerprint(),
        "psnr": evaluation.scores["psnr"].mean,
        "ssim": evaluation.scores["ssim"].mean,
        "psnr_of_input": evaluation.scores["psnr"].of_input,
        "images": evaluation.scores["psnr"].images,
        "curve": curve,
        "ratio": fmean(ratios) if ratios else None,
        "training_seconds": training,
        "seconds": time.perf_counter() - begin,
        "device": str(process.device),
        "torch": torch.__version__,
    }


def read_runs(file: Path) -> dict[str, Record]:
    """Return the finished trainings in a file by fingerprint; a line that a killed process left half is passed over."""
    found: dict[str, Record] = {}
    for record in read_records(file):
        found[record["fingerprint"]] = record
    return found
