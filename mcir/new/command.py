"""Write an option file for a user's own images: ``mcir new``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from mcir.atomic import atomic_file, check_writable, write_atomically
from mcir.config import Options, load
from mcir.console import Console
from mcir.data.errors import MAX_LISTED
from mcir.data.listing import describe_others
from mcir.engine.dry_run import dry_run
from mcir.new.choose import choose
from mcir.new.duration import format_duration
from mcir.new.folders import Inspected, Usable, counted, inspect_folder, usable_images, usable_pairs
from mcir.new.plan import Contrastive, Data, Plan, name_lines, relative, split
from mcir.new.tasks import TASKS, TaskName
from mcir.paths import name_problem
from mcir.terminal import show

_SCALES = (2, 3, 4, 8)


@dataclass(frozen=True)
class Request:
    """What the user wants.

    Attributes:
        task: name of the task.
        gt: folder or database of the good images.
        lq: folder or database of the degraded images.
        scale: size of the results / size of the input.
        output: option file to write.
        budget: time for the training in seconds; None: the published recipe.
        contrastive: contrastive method.
        force: whether to replace existing files.
    """

    task: TaskName
    gt: str | None
    lq: str | None
    scale: int | None
    output: Path
    budget: float | None
    contrastive: Contrastive
    force: bool = False

    def command(self) -> str:
        """Return the command that repeats the request."""
        words = ["mcir", "new", self.task]
        for flag, value in (("--gt", self.gt), ("--lq", self.lq), ("--scale", self.scale), ("-o", self.output)):
            words += [] if value is None else [flag, str(value)]
        budget = "paper" if self.budget is None else format_duration(self.budget, units=4).replace(" ", "")
        return shlex.join([*words, "--budget", budget, "--contrastive", self.contrastive])

    @property
    def lists(self) -> list[Path]:
        """Paths of the lists of training and validation images, next to the option file."""
        return [self.output.with_name(f"{self.output.stem}_{kind}.txt") for kind in ("train", "val")]


def new(request: Request) -> int:
    """Inspect the images, time a few steps, write the option file and print what to expect.

    Raises:
        ValueError: the arguments contradict each other, or no image can be used.
        OSError: a file cannot be written.
    """
    _check(request)
    assert request.gt is not None
    folder = request.output.parent
    gt, lq = relative(request.gt, folder), None if request.lq is None else relative(request.lq, folder)
    data = _data(request)
    check_writable(request.output)
    with atomic_file(request.output) as temporary:
        show("Timing a few steps on this machine …", flush=True)
        plan = choose(TASKS[request.task], data, request.budget, request.contrastive)
        text = plan.text(str(request.output), request.command(), gt, lq, *[path.name for path in request.lists])
        for path, names in zip(request.lists, (data.train, plan.data.val), strict=True):
            write_atomically(path, name_lines(names))
        temporary.write_bytes(text.encode())
    options = load(request.output)
    dry_run(options)
    _expect(request, plan, options)
    return 0


def _check(request: Request) -> None:
    """Check everything that can be checked without reading an image."""
    task = TASKS[request.task]
    if request.gt is None:
        needed = f"--gt DIR, a folder of good images, from which {task.degraded} ones are made"
        if request.lq is not None:
            needed = f"--gt DIR, the good versions of the {task.degraded} images; without them use --gt alone"
        if request.task == "denoise":
            needed += (
                ". (RCL pre-trains a network on noisy images only, but a denoiser needs good images; see docs/rcl.md)"
            )
        raise ValueError(f"expected {needed}.")
    expected = _SCALES if request.task == "sr" else (1,)
    if request.scale is not None and request.scale not in expected:
        only = ", because only 'sr' changes the size of images" if request.task != "sr" else ""
        values = ", ".join(map(str, expected))
        raise ValueError(f"--scale: expected {'one of ' * (len(expected) > 1)}{values}{only}, got {request.scale}.")
    if problem := name_problem(request.output.stem):
        raise ValueError(f"{request.output}: the name, which is also that of the run, {problem}.")
    relative(request.output.name, Path())
    if request.output.suffix != ".yml":
        raise ValueError(f"{request.output}: expected a name that ends in .yml.")
    for path in (request.output, *request.lists):
        if path.exists() and not request.force:
            raise ValueError(f"{path}: the file exists. Choose another name with -o, or add --force to replace it.")


def _data(request: Request) -> Data:
    """Inspect the folders, print what is in them, and divide the images."""
    assert request.gt is not None
    gt = inspect_folder(request.gt)
    _describe(gt)
    if request.lq is None:
        scale = (request.scale or 2) if request.task == "sr" else 1
        usable = usable_images(gt, scale)
    else:
        lq = inspect_folder(request.lq)
        _describe(lq)
        usable, scale = usable_pairs(gt, lq, request.scale if request.task == "sr" else 1)
    _describe_unused(usable, "pair" if request.lq else "image")
    return split(request.gt, request.lq, usable, scale)


def _describe(found: Inspected) -> None:
    show(f"{found.root}: {found.describe()}")
    if found.others:
        show(f"  other files, which are not used: {describe_others(found.others)}")
    _list(found.problems, "not readable")


def _describe_unused(usable: Usable, noun: str) -> None:
    if usable.problems:
        show(f"{counted(len(usable.names), noun)} can be used.")
    _list(usable.problems, "not used")


def _list(problems: Sequence[str], title: str) -> None:
    for problem in problems[:MAX_LISTED]:
        show(f"  {title}: {problem}")
    if len(problems) > MAX_LISTED:
        show(f"  {title}: {len(problems) - MAX_LISTED:,} more")


def _expect(request: Request, plan: Plan, options: Options) -> None:
    """Print what the training does, how long it takes, and the next commands."""
    data, schedule, timing = plan.data, plan.schedule, plan.timing
    assert options.train is not None
    file = shlex.quote(str(request.output))
    validated = "whole images" if plan.val_size is None else f"a part of {plan.val_size} pixels of each"
    epochs = round(schedule.total_iter * plan.network.batch / len(data.train))
    expected = "the time was not measured"
    if timing is not None:
        speed = f"{timing.step:.{3 if timing.step >= 10 else 2}g} s per iteration on {plan.device}"
        limit = "" if plan.budget is None else f" of the budget of {format_duration(plan.budget)}"
        expected = f"about {format_duration(schedule.seconds)}{limit}, {speed}"
    images = counted(len(data.train), "image")
    rows = {
        "network": f"{plan.network.title}, {plan.parameters:,} parameters",
        "training": f"{images}, crops of {plan.gt_size} pixels, {plan.network.batch} per iteration",
        "validation": f"{counted(len(data.val), 'image')}, {validated}, every {schedule.val_freq:,} iterations",
        "iterations": f"{schedule.total_iter:,} (about {epochs:,} passes over the training images)",
        "time": expected,
        "memory": f"about {plan.memory / 2**20:,.0f} MiB",
        "results": str(Path(options.path.experiments_root) / options.name),
    }
    table = Table.grid(padding=(0, 2))
    for name, text in rows.items():
        table.add_row(name, text)
    console = Console()
    console.print("", table)
    for warning in plan.warnings(request.lq is None):
        console.print(f"\nNote: {warning}")
    show(f"\nWritten: {request.output}, {request.lists[0].name}, {request.lists[1].name}")
    show(f"Check:   mcir check {file}\nTrain:   mcir train {file}")
    inputs = shlex.quote(request.lq or request.gt or "") if request.lq or request.task == "sr" else "FOLDER"
    show(f"Restore: mcir restore {inputs} -w {shlex.quote(plan.best(options.name))} -o restored")
