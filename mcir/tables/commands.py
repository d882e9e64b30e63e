"""The commands ``mcir reproduce`` and ``mcir proxy``: their arguments as dataclasses. Slow imports are local."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from mcir.arguments import LaunchArguments, option, positional

_JOBS = "trainings at a time (default: one per core, or one on a GPU)"
_DATA = "folder of clean images (default: the bundled photographs)"
_OVERRIDE = "A.B=C"


def reproduce_commands() -> dict[str, type]:
    """Return the commands of ``mcir reproduce`` by name."""
    commands: dict[str, type] = {}
    for file in sorted(Path(__file__).parent.glob("*table*.yml")):
        paper, base = ("the MCIR paper", PaperTable) if file.stem[0] == "t" else ("the RCL paper", RclTable)
        title = re.findall('^title: "(.*)"$', file.read_text(encoding="utf-8"), re.MULTILINE)[0]
        text = f"Table {file.stem.partition('table')[2]} of {paper}: {title}"
        commands[file.stem] = type(file.stem, (base,), {"__doc__": text, "table": file.stem})
    return {**commands, "rcl-fig2": RclFigure2, "mini": Mini, "rcl-mini": RclMini}


@dataclass(kw_only=True)
class TableArguments(LaunchArguments):
    """The arguments of all tables."""

    table: ClassVar[str]

    launcher: Literal["torchrun", "slurm"] = option(
        "torchrun: one training after another on this machine; slurm: each training as a job", default="torchrun"
    )
    row: list[str] = option("only the rows that match a glob pattern like '*SPN'")
    train: bool = option("train what has no checkpoint, or resume it")
    options: Path = option("folder of the option files", default=Path("options"))
    results: Path = option("folder of the results", default=Path("results"))
    set: list[str] = option("overrides of every option file", metavar=_OVERRIDE)

    def settings(self, **more: Any) -> Any:
        """Return the settings of the table."""
        from mcir.tables.plan import Settings
        from mcir.tables.slurm import read_parameters

        return Settings(
            options=self.options,
            results=self.results,
            rows=self.row or ("*",),
            overrides=self.set,
            train=self.train,
            processes=self.nproc,
            launcher=self.launcher,
            slurm=read_parameters(self.slurm),
            wait=not self.no_wait,
            **more,
        )


@dataclass(kw_only=True)
class PaperTable(TableArguments):
    """A table of the MCIR paper."""

    checkpoint: Literal["last", "best"] | None = option("checkpoint to evaluate (default: as the table says)")
    again: bool = option("repeat evaluations that have results")

    def run(self) -> int:
        """Reproduce the table."""
        from mcir.engine.loggers import log_to_console
        from mcir.tables.reproduce import reproduce

        log_to_console()
        return reproduce(self.table, self.settings(checkpoint=self.checkpoint, again=self.again))


@dataclass(kw_only=True)
class RclTable(TableArguments):
    """A table of the RCL paper."""

    labels: list[int] = option("numbers of labelled images, instead of those of the table")
    trials: int = option("trainings of each row on labelled images", default=5)
    steps: int | None = option("steps of each of them (default: as the table says)")
    jobs: int | None = option(_JOBS)
    resnet: str = option("weights of the consistency loss: imagenet, random or a file", default="imagenet")
    proxy_set: list[str] = option("overrides of the trainings on labelled images", metavar=_OVERRIDE)

    def run(self) -> int:
        """Reproduce the table."""
        from mcir.tables.rcl import RclSettings, reproduce_rcl

        settings = RclSettings(
            tables=self.settings(),
            labels=self.labels,
            trials=self.trials,
            steps=self.steps,
            jobs=self.jobs,
            classifier=self.resnet,
            overrides=self.proxy_set,
        )
        return reproduce_rcl(self.table, settings)


@dataclass(kw_only=True)
class RclFigure2:
    """Figure 2 of the RCL paper, for trained weights."""

    weights: Path = option("checkpoint of a network with scale 1", required=True)
    data: Path | None = option(_DATA)
    patch: int = option("side of a patch", default=128)
    batch: int = option("images that are compared with each other", default=64)
    batches: int = option("number of batches", default=4)
    seed: int = option("seed of images, patches, noise and the untrained network", default=0)
    results: Path = option("folder of the page", default=Path("results"))

    def run(self) -> int:
        """Reproduce the figure."""
        from mcir.tables.rcl_fig2 import Fig2Settings, reproduce_fig2

        return reproduce_fig2(Fig2Settings(**vars(self)))


@dataclass(kw_only=True)
class Mini:
    """Small networks and many seeds: half an hour on two cores."""

    task: list[Literal["sr", "denoise", "dehaze"]] = option("only this task; may be repeated")
    method: list[str] = option("only this method, and plain; may be repeated")
    seeds: int = option("trainings of each method", default=5)
    data: Path | None = option(_DATA)
    vgg: str = option("weights of the feature network: random, imagenet or a file", default="random")
    jobs: int | None = option(_JOBS)
    quick: bool = option("test run: two seeds, a few iterations")
    results: Path = option("folder of the results", default=Path("results/mini"))
    set: list[str] = option("overrides of every training", metavar=_OVERRIDE)

    def run(self) -> int:
        """Make the study."""
        from mcir.tables.mini import MiniSettings, reproduce_mini
        from mcir.tables.mini_report import METHODS, TASKS

        settings = MiniSettings(
            results=self.results,
            seeds=self.seeds,
            tasks=self.task or tuple(TASKS),
            methods=self.method or tuple(METHODS),
            data=self.data,
            vgg=self.vgg,
            jobs=self.jobs,
            quick=self.quick,
            overrides=self.set,
        )
        return reproduce_mini(settings)


@dataclass(kw_only=True)
class RclMini:
    """Residual contrastive learning with small networks: half an hour on two cores."""

    task: list[Literal["denoise", "sr"]] = option("only this task; may be repeated")
    method: list[str] = option("only this method, and RCL-EMD; may be repeated")
    seeds: int = option("trainings of each method", default=3)
    data: Path | None = option(_DATA)
    resnet: str = option("weights of the consistency loss: random, imagenet or a file", default="random")
    jobs: int | None = option(_JOBS)
    quick: bool = option("test run: two seeds, a few steps")
    results: Path = option("folder of the results", default=Path("results/rcl-mini"))
    set: list[str] = option("overrides of every pre-training", metavar=_OVERRIDE)

    def run(self) -> int:
        """Make the study."""
        from mcir.tables.rcl_mini import RclMiniSettings, reproduce_rcl_mini
        from mcir.tables.rcl_mini_report import METHODS, TASKS

        settings = RclMiniSettings(
            results=self.results,
            seeds=self.seeds,
            tasks=self.task or tuple(TASKS),
            methods=self.method or METHODS,
            data=self.data,
            resnet=self.resnet,
            jobs=self.jobs,
            quick=self.quick,
            overrides=self.set,
        )
        return reproduce_rcl_mini(settings)


@dataclass(kw_only=True)
class Proxy:
    """Evaluate pre-trained weights: train a new last layer on few labelled images."""

    weights: list[str] = positional(
        "weight files (NAME=FILE to set the name), random, oracle (supervised for the task), sl-den (for denoising)",
        metavar="CHECKPOINT",
    )
    task: str = option("denoise, sr, jdensr or demosaic", default="denoise")
    labels: list[int] = option("numbers of labelled images, nested (default: all)")
    trials: int = option("trainings of each row", default=5)
    steps: int = option("steps of each training", default=2000)
    patch: int = option("side of a crop of the degraded image", default=128)
    batch: int = option("images of a step", default=64)
    finetune: bool = option("train all weights; with 0 labels use them as they are")
    pretrain_steps: int = option("steps of the pre-training for oracle and sl-den", default=10_000)
    data: Path | None = option("folder of clean training images (default: the bundled photographs)")
    test: Path | None = option("folder of clean test images")
    jobs: int | None = option(_JOBS)
    results: Path = option("folder of the results", default=Path("results/proxy"))
    set: list[str] = option("overrides of every training", metavar=_OVERRIDE)

    def run(self) -> int:
        """Evaluate the weights."""
        from mcir.tables.proxy import proxy
        from mcir.tables.proxy_plan import ProxySettings

        settings = dict(vars(self))
        return proxy(ProxySettings(overrides=settings.pop("set"), **settings))
