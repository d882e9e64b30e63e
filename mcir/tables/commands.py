"""The arguments of ``mcir reproduce`` and ``mcir proxy``. Slow imports are local."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from mcir.arguments import LaunchArguments, option, positional
from mcir.paths import UserPath

_RESNET = "weights of the consistency loss: imagenet, random or a file"
_OVERRIDE = "A.B=C"
_JOBS = "trainings at a time (default: one per core, or one on a GPU)"
_OPTION_FILES = "folder of the option files (default: options/ here, or those that come with mcir)"
_DATA = "folder or LMDB of clean images (default: the bundled photographs)"


def reproduce_commands() -> dict[str, type]:
    """Return the commands of ``mcir reproduce`` by name."""
    commands: dict[str, type] = {}
    for file in sorted(Path(__file__).parent.glob("*table*.yml")):
        paper, base = ("the MCIR paper", PaperTable) if file.stem[0] == "t" else ("the RCL paper", RclTable)
        text = f"Table {file.stem.partition('table')[2]} of {paper}: {_title(file)}"
        commands[file.stem] = type(file.stem, (base,), {"__doc__": text, "table": file.stem})
    commands["fig2"] = GainsFigure
    for file in sorted(Path(__file__).parent.glob("fig*.yml")):
        text = f"Figure {file.stem.removeprefix('fig')} of the MCIR paper: {_title(file)}"
        commands[file.stem] = type(file.stem, (VisualFigure,), {"__doc__": text, "figure": file.stem})
    return {**commands, "rcl-fig2": RclFigure2, "mini": Mini, "rcl-mini": RclMini, "rcl-scale": RclScale}


def _title(file: Path) -> str:
    """Return the title in the file of a table or a figure."""
    return str(re.findall('^title: "(.*)"$', file.read_text(encoding="utf-8"), re.MULTILINE)[0])


@dataclass(kw_only=True)
class TableCommand(LaunchArguments):
    """The arguments of all tables."""

    table: ClassVar[str]

    launcher: Literal["torchrun", "slurm"] = option(
        "torchrun: one training after another on this machine; slurm: each training as a job", default="torchrun"
    )
    row: list[str] = option("only the rows that match a glob pattern like '*SPN'", default=[])
    train: bool = option("start or resume the trainings that have no checkpoint", default=False)
    options: Path | None = option(_OPTION_FILES)
    results: Path = option("folder of the results", default=Path("results"))
    set: list[str] = option("overrides of every option file", default=[], metavar=_OVERRIDE)

    def run(self) -> int:
        """Reproduce the table."""
        from mcir.engine.loggers import log_to_console
        from mcir.tables.reproduce import reproduce

        log_to_console()
        return reproduce(self.table, self)


@dataclass(kw_only=True)
class PaperTable(TableCommand):
    """A table of the MCIR paper."""

    checkpoint: Literal["last", "best"] | None = option("checkpoint to evaluate (default: that of the table)")
    again: bool = option("ignore cached evaluations", default=False)


@dataclass(kw_only=True)
class FigureCommand:
    """The arguments of the figures of the MCIR paper."""

    options: Path | None = option(_OPTION_FILES)
    results: Path = option("folder of the results", default=Path("results"))
    checkpoint: Literal["last", "best"] | None = option("checkpoint to evaluate (default: that of the table)")
    set: list[str] = option("overrides of every option file", default=[], metavar=_OVERRIDE)

    def table_command(self, rows: Sequence[str]) -> PaperTable:
        """Return the command for rows of a table with the settings of the figure."""
        return PaperTable(row=list(rows), **vars(self))


@dataclass(kw_only=True)
class GainsFigure(FigureCommand):
    """Figure 2 of the MCIR paper: gains over tasks, the paper's and ours."""

    again: bool = option("ignore cached evaluations", default=False)

    def run(self) -> int:
        """Reproduce the figure."""
        from mcir.engine.loggers import log_to_console
        from mcir.tables.gains_figure import reproduce_gains

        log_to_console()
        return reproduce_gains(self)


@dataclass(kw_only=True)
class VisualFigure(FigureCommand):
    """A visual comparison of the MCIR paper."""

    figure: ClassVar[str]

    def run(self) -> int:
        """Reproduce the figure."""
        from mcir.engine.loggers import log_to_console
        from mcir.tables.visual_figures import read_visual, reproduce_visual

        log_to_console()
        return reproduce_visual(read_visual(self.figure), self)


@dataclass(kw_only=True)
class RclTable(TableCommand):
    """A table of the RCL paper."""

    labels: list[int] = option("numbers of labelled images, instead of those of the table", default=[])
    trials: int = option("trainings per row on labelled images, with seeds 0, 1, …", default=5)
    steps: int | None = option("steps per training on labelled images (default: those of the table)")
    jobs: int | None = option(_JOBS)
    resnet: UserPath = option(_RESNET, default="imagenet")
    proxy_set: list[str] = option("overrides of the trainings on labelled images", default=[], metavar=_OVERRIDE)


@dataclass(kw_only=True)
class RclFigure2:
    """Figure 2 of the RCL paper, for trained weights."""

    weights: Path = option("checkpoint of a network with scale 1", required=True)
    data: Path | None = option(_DATA)
    patch: int = option("side of a patch", default=128)
    batch: int = option("number of images that are compared with each other", default=64)
    batches: int = option("number of batches", default=4)
    seed: int = option("seed for images, patches, noise and the untrained network", default=0)
    results: Path = option("folder of the page", default=Path("results"))

    def run(self) -> int:
        """Reproduce the figure."""
        from mcir.tables.rcl_fig2 import reproduce_fig2

        return reproduce_fig2(self)


@dataclass(kw_only=True)
class StudyCommand:
    """The arguments of both small studies."""

    study: ClassVar[str]
    features: str

    task: list[str] = option("only these tasks", default=[])
    method: list[str] = option("only these methods, and the one that all are compared with", default=[])
    seeds: int | None = option("trainings per method (default: 5 for mini, 3 for rcl-mini, 2 for rcl-scale)")
    data: Path | None = option(_DATA + "; every fifth image is held out")
    jobs: int | None = option(_JOBS)
    quick: bool = option("test run: two seeds, a few iterations", default=False)
    results: Path | None = option("folder of the results (default: results/<study>)")
    set: list[str] = option(
        "overrides of every training (rcl-mini, rcl-scale: of every pre-training)", default=[], metavar=_OVERRIDE
    )

    @property
    def folder(self) -> Path:
        """Folder of the results."""
        return self.results or Path("results", self.study)

    def run(self) -> int:
        """Run the study."""
        from mcir.tables.mini import reproduce_mini

        return reproduce_mini(self)


@dataclass(kw_only=True)
class Mini(StudyCommand):
    """Study of negatives with small networks: half an hour on two cores."""

    study = "mini"
    features: UserPath = option("weights of the feature network: random, imagenet or a file", "--vgg", default="random")


@dataclass(kw_only=True)
class RclMini(StudyCommand):
    """Study of residual contrastive learning with small networks: half an hour on two cores."""

    study = "rcl-mini"
    features: UserPath = option(_RESNET, "--resnet", default="random")


@dataclass(kw_only=True)
class RclScale(RclMini):
    """Study of the scale, τ and α of RCL's contrastive loss with small networks."""

    study = "rcl-scale"


@dataclass(kw_only=True)
class Proxy:
    """Evaluate pre-trained weights: train a new last layer on few labelled images."""

    weights: list[str] = positional(
        "weight files (NAME=FILE to set the name), random, oracle (supervised for the task), sl-den (for denoising)",
        metavar="CHECKPOINT",
    )
    task: str = option("denoise, sr, jdensr or demosaic", default="denoise")
    labels: list[int] = option("numbers of labelled images, nested (default: all)", default=[])
    trials: int = option("trainings per row, with seeds 0, 1, …", default=5)
    steps: int = option("steps per training", default=2000)
    patch: int = option("side of the crops of the degraded image", default=128)
    batch: int = option("images per step", default=64)
    finetune: bool = option("train all weights; with 0 labels, evaluate without training", default=False)
    pretrain_steps: int = option("steps of the pre-training for oracle and sl-den", default=10_000)
    data: Path | None = option("folder or LMDB of clean training images (default: the bundled photographs)")
    test: Path | None = option("folder or LMDB of clean test images")
    jobs: int | None = option(_JOBS)
    results: Path = option("folder of the results", default=Path("results/proxy"))
    set: list[str] = option("overrides of every training", default=[], metavar=_OVERRIDE)
    network: Mapping[str, Any] | None = None
    """Network section for rows without a file; None: the network of the first file, or ``UNet`` without files."""
    pretrain_seed: int = 0

    def run(self) -> int:
        """Evaluate the weights."""
        from mcir.tables.proxy import proxy

        return proxy(self)
