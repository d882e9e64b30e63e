"""Restore folders of images.

Names, headers, targets and ground truths are checked before anything is computed. Images that fail are reported at the
end. Results are written atomically, so a run that was killed can be continued.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import partial

from mcir.atomic import check_writable, write_atomically
from mcir.config import network_section
from mcir.console import Console
from mcir.data.codec import encode_png
from mcir.data.errors import DataError
from mcir.data.listing import describe_others
from mcir.inference.batch.pipeline import pipelined
from mcir.inference.batch.plan import (
    Task,
    batches,
    find_ground_truths,
    match_ground_truths,
    plan_outputs,
    probe_inputs,
)
from mcir.inference.batch.problems import Problems, is_fatal, reason_of, table_width
from mcir.inference.batch.progress import BatchProgress
from mcir.inference.batch.scores import Scores, draw_comparison, score, scores_table, write_scores
from mcir.inference.batch.search import find_images, skipped_files
from mcir.inference.batch.settings import FolderSettings
from mcir.inference.images import QUALITY, Picture, PictureError, read_picture, with_bits, write_picture
from mcir.inference.images.writing import FORMATS
from mcir.inference.restorer import OVERLAP, Restorer
from mcir.weights import load_network

MEMORY_LIMIT = 256 * 2**20
"""Bytes of the images that are read ahead or wait to be written; a larger image is processed alone."""

_LOSSY = frozenset({".jpg", ".jpeg", ".webp"})


def restore_folder(settings: FolderSettings) -> int:
    """Restore images and print a report; return 0 if all images were restored, otherwise 1.

    Raises:
        ValueError: a setting is invalid, which is found before anything is computed; or the disk is full.
        OSError: the results cannot be written.
    """
    return _Run(settings).run()


class _Run:
    """A call of ``mcir restore``: the plan, the three steps of each batch, and the report."""

    def __init__(self, settings: FolderSettings) -> None:
        self.settings = settings
        self.console = Console(soft_wrap=True)
        self.problems = Problems()
        self.written: set[Task] = set()
        self.scores: dict[str, Scores] = {}
        self.stop = threading.Event()
        gt = settings.gt
        truths = find_ground_truths(gt) if gt else []
        excluded = [settings.out, *([gt] if gt else [])]
        found = find_images(settings.inputs, excluded, self.problems.report)
        self.skipped = describe_others(map(str, skipped_files(settings.inputs, excluded)))
        self.out, self.jobs = plan_outputs(
            found,
            settings.out,
            f".{settings.format}" if settings.format else None,
            settings.suffix,
            settings.compare,
            protected=[settings.weights, *([settings.opt] if settings.opt else []), *truths],
        )
        if settings.quality is not None and not any(job.target.suffix.lower() in _LOSSY for job in self.jobs):
            raise ValueError("--quality applies to JPEG and WebP, and no result is written in these formats")
        self.truths = match_ground_truths(self.jobs, gt, truths, self.problems.report) if gt else {}
        check_writable(self.out)
        section = None if settings.opt is None else network_section(settings.opt)
        self.restorer = Restorer(
            load_network(settings.weights, settings.key, section=section),
            device=settings.device,
            tile=settings.tile,
            overlap=OVERLAP if settings.overlap is None else settings.overlap,
            ensemble=settings.ensemble,
            precision=settings.precision,
        )
        self.scale = self.restorer.scale
        self.border = (self.scale if self.scale > 1 else 0) if settings.crop_border is None else settings.crop_border

    def run(self) -> int:
        """Restore, measure and report; return the exit status."""
        self.out.mkdir(parents=True, exist_ok=True)
        if not os.access(self.out, os.W_OK | os.X_OK):
            raise DataError(f"{self.out}: no permission to write to this folder; name another with -o")
        tasks = probe_inputs(
            self.jobs, self.truths, self.scale, self.border, self.settings.skip_existing, self.problems.report
        )
        existing = sum(task.exists for task in tasks)
        network = f"{self.restorer.architecture}, ×{self.scale}, on {self.restorer.device}"
        self.console.print(f"{network}: {len(tasks) - existing} to restore, {existing} exist already")
        if self.skipped:
            self.console.print(f"Skipped: {self.skipped}.")
        todo = [task for task in tasks if task.is_evaluated or not task.exists]
        groups = batches(todo, self.settings.batch, self.bytes_of, MEMORY_LIMIT)
        with BatchProgress(self.console, len(todo), sum(task.megapixels for task in todo)) as progress:
            steps = (self.read, partial(self.restore, progress), self.write, MEMORY_LIMIT, self.stop)
            try:
                for batch in pipelined(groups, lambda batch: sum(map(self.bytes_of, batch)), *steps):
                    progress.finish(len(batch), sum(task.megapixels for task in batch))
            except (ValueError, OSError) as error:
                if not is_fatal(error):
                    raise
                raise DataError(
                    f"{self.out}: {reason_of(error)}, after {len(self.written)} complete results; remove the cause and "
                    "continue with --skip-existing"
                ) from error
            speed = f", {progress.speed()}" if self.written else ""
        failed = len(self.jobs) - len(self.written) - existing
        counts = [f"{count} {text}" for count, text in ((existing, "existed already"), (failed, "failed")) if count]
        return self.summarize(", ".join([f"{len(self.written)} restored", *counts]) + speed)

    def bytes_of(self, task: Task) -> int:
        return task.bytes(self.scale, (self.settings.bits or 8) // 8)

    def read(self, batch: list[Task]) -> list[Picture | None]:
        """Read the images of a batch; None for one that cannot be read, or whose result cannot be written."""
        return [None if task.exists else self.problems.attempt(task.source, self.read_one, task) for task in batch]

    def read_one(self, task: Task) -> Picture:
        """Read an image, and check that the format of the result can hold it."""
        picture = read_picture(task.source)
        if self.settings.bits == 16:
            picture = with_bits(picture, 16)
        target_format = FORMATS[task.target.suffix.lower()]
        if problem := target_format.incompatibility(picture, self.settings.bits, self.scale):
            raise PictureError(task.source, problem)
        return picture

    def restore(
        self, progress: BatchProgress, batch: list[Task], pictures: Sequence[Picture | None]
    ) -> list[Picture | None]:
        """Restore the images of a batch together, or one by one if that fails."""
        megapixels = sum(task.megapixels for task in batch)

        def restored(images: Sequence[Picture]) -> list[Picture]:
            done = megapixels * len(images) / len(batch)
            return self.restorer.pictures(images, lambda fraction: progress.update(fraction * done))

        images = [picture for picture in pictures if picture is not None]
        if len(images) > 1:
            try:
                results = iter(restored(images))
                return [picture and next(results) for picture in pictures]
            except (ValueError, RuntimeError, MemoryError):
                pass
        return [
            picture and self.problems.attempt(task.source, lambda picture: restored([picture])[0], picture)
            for task, picture in zip(batch, pictures, strict=True)
        ]

    def write(self, batch: list[Task], restored: Sequence[Picture | None]) -> None:
        """Write the results of a batch, and evaluate them as they were written."""
        for task, picture in zip(batch, restored, strict=True):
            if picture is not None:
                self.problems.attempt(task.source, self.save, task, picture)
            if (task in self.written or task.exists) and task.is_evaluated and not self.stop.is_set():
                self.problems.attempt(task.source, self.evaluate, task)

    def save(self, task: Task, picture: Picture) -> None:
        if self.settings.bits == 8:
            picture = with_bits(picture, 8)
        write_picture(task.target, picture, QUALITY if self.settings.quality is None else self.settings.quality)
        self.written.add(task)

    def evaluate(self, task: Task) -> None:
        """Measure a result, and draw a comparison."""
        source, output = read_picture(task.source).pixels, read_picture(task.target).pixels
        gt = None if task.gt is None else read_picture(task.gt).pixels
        scores = None if gt is None else score(source, output, gt, self.scale, self.border)
        if scores is not None:
            self.scores[task.name] = scores
        if task.comparison is not None:
            write_atomically(task.comparison, encode_png(draw_comparison(source, output, gt, self.scale, scores)))

    def summarize(self, summary: str) -> int:
        """Print and write scores and problems; return the exit status."""
        scores = {job.name: self.scores[job.name] for job in self.jobs if job.name in self.scores}
        problems = self.problems.texts()
        if scores:
            facts = {
                "weights": str(self.settings.weights),
                "architecture": self.restorer.architecture,
                "scale": self.scale,
                "ground_truth": str(self.settings.gt),
                "crop_border": self.border,
                "faults": problems,
            }
            write_scores(self.out, scores, facts)
            Console(width=table_width(self.console)).print(scores_table(scores, self.scale))
        self.console.print(f"{self.settings.out}: {summary}")
        self.problems.print(self.console)
        return 1 if problems else 0
