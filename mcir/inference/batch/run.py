"""Restore folders of pictures: what ``mcir restore`` does.

All that can be known of the pictures before anything is computed is known then: what they are, where the results go,
what their headers say, and whether they have ground truths. A picture that fails is told of at the end, and the others
are done. Results are written whole or not at all, so that a run which was killed can go on.

While one batch is computed, threads read the next ones and write the last ones, as long as what is held of them all is
little; a huge picture is alone in memory.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mcir.atomic import write_atomically
from mcir.config import network_section
from mcir.data.codec import EXTENSIONS, encode_png
from mcir.data.errors import DataError
from mcir.inference.batch.ground_truths import GroundTruths
from mcir.inference.batch.jobs import Job, place, remove_leftovers
from mcir.inference.batch.measured import Scores, before_after, plain, score, scores_table, write_scores
from mcir.inference.batch.pipeline import pipelined
from mcir.inference.batch.progress import Pace
from mcir.inference.batch.search import find_pictures
from mcir.inference.batch.tasks import Task, batches, look_at
from mcir.inference.images import QUALITY, Picture, PictureError, read_picture, with_bits, write_picture
from mcir.inference.images.encoders import ENCODERS, TO_8_BITS
from mcir.inference.restorer import Restorer
from mcir.weights import load_network

ROOM = 256 * 2**20
"""Bytes of pictures that are held at a time, read ahead or waiting to be written; one picture may be larger."""

P = ParamSpec("P")
R = TypeVar("R")

_WIDTH = 160  # of tables, where no terminal says how wide it is
_LOSSY = frozenset({".jpg", ".jpeg", ".webp"})
_HOPELESS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


@dataclass(frozen=True)
class FolderSettings:
    """What is restored, by which network, and how.

    Attributes:
        inputs: files, folders and patterns.
        weights: the checkpoint.
        out: folder of the results, or for one file the result itself.
        opt: an option file, whose network is built rather than that of the checkpoint.
        key: which of the checkpoint's weights, like ``params``.
        tile: side of the tiles, ``auto``, or None for whole pictures.
        overlap: of tiles, in pixels; without it the restorer's own.
        ensemble: mean over the eight turned and mirrored pictures.
        precision: of the arithmetic.
        device: like ``cuda:1``; without it a GPU if there is one.
        batch: pictures of one size that are restored together.
        format: of the results, like ``png``; without it that of the picture.
        bits: of a sample of the results, 8 or 16; without it as the picture has.
        quality: of JPEG and WebP, 1 … 100; without it ``mcir.inference.images.QUALITY``.
        suffix: put at the end of the names.
        skip_existing: leave results that are there as they are.
        compare: make pictures of before and after.
        gt: folder of ground truths.
        crop_border: pixels that are not measured on each side; without it the scale.
    """

    inputs: Sequence[str]
    weights: Path
    out: Path = Path("restored")
    opt: Path | None = None
    key: str | None = None
    tile: int | Literal["auto"] | None = "auto"
    overlap: int | None = None
    ensemble: bool = False
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    device: str | None = None
    batch: int = 1
    format: str | None = None
    bits: Literal[8, 16] | None = None
    quality: int | None = None
    suffix: str = ""
    skip_existing: bool = False
    compare: bool = False
    gt: Path | None = None
    crop_border: int | None = None


def restore_folder(settings: FolderSettings) -> int:
    """Restore pictures and tell about it; return 0 if all were done, 1 if some were not.

    Raises:
        ValueError: something is wrong with all of it, before anything was computed; or the disk is full.
        OSError: the results cannot be written.
    """
    _require_sense(settings)
    return _Run(settings).run()


class _Run:
    """One call of the command: what is known before, the three steps of each batch, and the report."""

    def __init__(self, settings: FolderSettings) -> None:
        self.settings = settings
        self.console = Console(highlight=False, soft_wrap=True)
        self.faults: defaultdict[str, list[str]] = defaultdict(list)
        self.written: set[Job] = set()
        self.scores: dict[str, Scores] = {}
        self.stop = threading.Event()
        truths = GroundTruths(settings.gt) if settings.gt is not None else None
        read = [path for path in (settings.weights, settings.opt) if path is not None]
        apart = [path for path in (settings.out, settings.gt) if path is not None]
        found = find_pictures(settings.inputs, apart, self.tell)
        ending = f".{settings.format}" if settings.format else None
        read += truths.files if truths else []
        self.out, self.jobs = place(found, settings.out, ending, settings.suffix, settings.compare, read)
        if settings.quality is not None and not any(job.target.suffix.lower() in _LOSSY for job in self.jobs):
            raise ValueError("--quality is of JPEG and WebP, and no result is written as either")
        self.truths = truths.of(self.jobs, self.tell) if truths else {}
        section = None if settings.opt is None else network_section(settings.opt)
        overlap: dict[str, Any] = {} if settings.overlap is None else {"overlap": settings.overlap}
        self.restorer = Restorer(
            load_network(settings.weights, settings.key, section=section),
            device=settings.device,
            tile=settings.tile,
            ensemble=settings.ensemble,
            precision=settings.precision,
            **overlap,
        )
        self.scale = self.restorer.scale
        self.border = (self.scale if self.scale > 1 else 0) if settings.crop_border is None else settings.crop_border

    def run(self) -> int:
        """Restore, measure and report.

        Raises:
            DataError: nothing can be written to the folder of the results, or no more.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        if not os.access(self.out, os.W_OK | os.X_OK):
            raise DataError(f"{self.out}: nothing may be written into this folder; name another with -o")
        remove_leftovers(path for job in self.jobs for path in (job.target, job.comparison) if path is not None)
        kept = self.settings.skip_existing
        tasks = look_at(self.jobs, self.truths, self.scale, self.border, kept, self.tell)
        there = sum(task.is_there for task in tasks)
        network = f"{self.restorer.architecture}, ×{self.scale}, on {self.restorer.device}"
        self.console.print(f"{network}: {len(tasks) - there} to restore, {there} there already", markup=False)
        todo = [task for task in tasks if task.is_shown or not task.is_there]
        together = batches(todo, self.settings.batch, self.bytes_of, ROOM)
        with Pace(self.console, len(todo), sum(task.megapixels for task in todo)) as pace:
            steps = (self.read, partial(self.restore, pace), self.write)
            try:
                for batch in pipelined(together, lambda batch: sum(map(self.bytes_of, batch)), *steps, ROOM, self.stop):
                    pace.done(len(batch), sum(task.megapixels for task in batch))
            except (ValueError, OSError) as error:
                if not _is_hopeless(error):
                    raise
                raise DataError(
                    f"{self.out}: {_reason(error)}, after {len(self.written)} pictures, which are whole; when that is "
                    "mended, go on with --skip-existing"
                ) from error
            speed = f", {pace.speed()}" if self.written else ""
        failed = len(self.jobs) - len(self.written) - there
        counted = [f"{number} {what}" for number, what in ((there, "there already"), (failed, "failed")) if number]
        return self.report(", ".join([f"{len(self.written)} restored", *counted]) + speed)

    def tell(self, name: str, reason: str) -> None:
        """Keep what is wrong with a picture for the end."""
        self.faults[name].append(reason.removeprefix(f"{name}: "))

    def bytes_of(self, task: Task) -> int:
        """Return how much memory a picture takes."""
        return task.bytes(self.scale, (self.settings.bits or 8) // 8)

    # -- the three steps ----------------------------------------------------------------------------------------------

    def read(self, batch: list[Task]) -> list[Picture | None]:
        """Read the pictures that are to be restored; None for one that cannot be read, or its result not written."""
        return [None if task.is_there else self.attempt(task, self.read_one, task.job) for task in batch]

    def read_one(self, job: Job) -> Picture:
        """Read a picture, and see that there is a file format for what becomes of it.

        Raises:
            PictureError: it cannot be read, or the result's format cannot hold it.
        """
        picture = read_picture(job.source)
        if self.settings.bits == 16:
            picture = with_bits(picture, 16)
        dtype = "uint8" if self.settings.bits == 8 else picture.pixels.dtype
        nothing = np.broadcast_to(np.zeros((), dtype), (picture.height * self.scale, picture.width * self.scale, 3))
        alpha = None if picture.alpha is None else nothing[:, :, 0]
        becomes = replace(picture, pixels=nothing[:, :, : picture.channels], alpha=alpha)
        refusal = ENCODERS[job.target.suffix.lower()].refusal(becomes)
        if refusal is not None:
            raise PictureError(f"{refusal.reason}{', or give --bits 8' if refusal.ways_out == (TO_8_BITS,) else ''}")
        return picture

    def restore(self, pace: Pace, batch: list[Task], pictures: Sequence[Picture | None]) -> list[Picture | None]:
        """Restore those that were read, together; if that fails, each alone."""
        megapixels = sum(task.megapixels for task in batch)

        def restored_of(read: Sequence[Picture]) -> list[Picture]:
            return self.restorer.pictures(read, lambda share: pace.doing(share * megapixels * len(read) / len(batch)))

        read = [picture for picture in pictures if picture is not None]
        if len(read) > 1:
            try:
                restored = iter(restored_of(read))
                return [picture and next(restored) for picture in pictures]
            except (ValueError, RuntimeError, MemoryError):
                pass
        return [
            picture and self.attempt(task, lambda picture: restored_of([picture])[0], picture)
            for task, picture in zip(batch, pictures, strict=True)
        ]

    def write(self, batch: list[Task], restored: Sequence[Picture | None]) -> None:
        """Write what was restored; measure and show what the files hold."""
        for task, picture in zip(batch, restored, strict=True):
            if picture is not None:
                self.attempt(task, self.save, task.job, picture)
            if (task.job in self.written or task.is_there) and task.is_shown and not self.stop.is_set():
                self.attempt(task, self.show, task)

    def save(self, job: Job, picture: Picture) -> None:
        """Write one result."""
        if self.settings.bits == 8:
            picture = with_bits(picture, 8)
        write_picture(job.target, picture, QUALITY if self.settings.quality is None else self.settings.quality)
        self.written.add(job)

    def show(self, task: Task) -> None:
        """Compare a result with its ground truth and its input."""
        job = task.job
        source, output = read_picture(job.source).pixels, read_picture(job.target).pixels
        gt = None if task.gt is None else read_picture(task.gt).pixels
        scores = None if gt is None else score(source, output, gt, self.scale, self.border)
        if scores is not None:
            self.scores[job.name] = scores
        if job.comparison is not None:
            write_atomically(job.comparison, encode_png(before_after(source, output, gt, self.scale, scores)))

    def attempt(self, task: Task, work: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R | None:
        """Do something with a picture, or keep for the end why it failed.

        Raises:
            OSError: nothing can be written any more.
        """
        try:
            return work(*arguments, **named)
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            if _is_hopeless(error):
                raise
            self.tell(str(task.job.source), _reason(error))
            return None

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def report(self, summary: str) -> int:
        """Show and write what was measured and what failed; return the exit status."""
        scores = {job.name: self.scores[job.name] for job in self.jobs if job.name in self.scores}
        faults = {plain(name): "; ".join(map(plain, reasons)) for name, reasons in sorted(self.faults.items())}
        width = None if self.console.is_terminal else _WIDTH
        if scores:
            facts = {
                "weights": str(self.settings.weights),
                "architecture": self.restorer.architecture,
                "scale": self.scale,
                "ground_truth": str(self.settings.gt),
                "crop_border": self.border,
                "faults": faults,
            }
            write_scores(self.out, scores, facts)
            Console(width=width, highlight=False).print(scores_table(scores, self.scale))
        self.console.print(f"{plain(str(self.settings.out))}: {summary}", markup=False)
        if faults:
            table = Table("picture", "what is wrong")
            for name, reasons in faults.items():
                table.add_row(Text(name, overflow="fold"), Text(reasons, overflow="fold"))
            Console(width=width, highlight=False, stderr=True).print(table)
        return 1 if faults else 0


# -- parts ------------------------------------------------------------------------------------------------------------


def _require_sense(settings: FolderSettings) -> None:
    """See that the settings go together.

    Raises:
        ValueError: they do not.
    """
    if settings.batch < 1:
        raise ValueError(f"--batch is a number of pictures from 1 on, not {settings.batch}")
    if settings.quality is not None and not 1 <= settings.quality <= 100:
        raise ValueError(f"--quality is from 1 to 100, not {settings.quality}")
    if settings.format is not None and f".{settings.format}" not in EXTENSIONS:
        known = ", ".join(sorted(ending[1:] for ending in EXTENSIONS))
        raise ValueError(f"--format {settings.format}: pictures can be written as {known}")
    if settings.crop_border is not None and settings.gt is None:
        raise ValueError("--crop-border says what is measured, and nothing is without --gt")
    if settings.crop_border is not None and settings.crop_border < 0:
        raise ValueError(f"--crop-border is a number of pixels from 0 on, not {settings.crop_border}")


def _is_hopeless(error: BaseException) -> bool:
    """Tell whether no other picture can be written either."""
    while not (isinstance(error, OSError) and error.errno in _HOPELESS):
        if error.__cause__ is None:
            return False
        error = error.__cause__
    return True


def _reason(error: BaseException) -> str:
    """Return what an error says, in one line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()) or type(error).__name__
