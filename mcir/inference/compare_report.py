"""The page, the JSON file and the table of a comparison of two networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table
from rich.text import Text

from mcir.atomic import write_atomically
from mcir.checked_json import as_json
from mcir.console import Console
from mcir.inference.batch.problems import Problems
from mcir.inference.batch.scores import TABLE_ROWS, Scores, mean
from mcir.inference.restorer import Restorer
from mcir.report.figures import Figure
from mcir.report.page import Report, Section
from mcir.text import printable
from mcir.version import __version__


@dataclass(frozen=True)
class Side:
    """One of the two networks: its name, its weight file, and its restorer."""

    name: str
    file: Path
    restorer: Restorer


@dataclass(frozen=True)
class Compared:
    """The comparison of two results for an image.

    Attributes:
        name: name of the image.
        difference: absolute difference of the results in 8-bit units, averaged over pixels and channels.
        scores: scores of both results; empty without a ground truth.
    """

    name: str
    difference: float
    scores: Sequence[Scores]


@dataclass
class Comparison:
    """The comparison of two networks on images.

    Attributes:
        first: first network.
        second: second network.
        gt: folder of the ground truths, or the ground truth of a single image; None: there is none.
        border: pixels on each side that are not measured.
        pictures: largest number of images with a figure.
        problems: problems with images.
        images: results, in the order of the images.
        figures: results and figures of the images that differ most.
    """

    first: Side
    second: Side
    gt: Path | None
    border: int
    pictures: int
    problems: Problems
    images: list[Compared] = field(default_factory=list)
    figures: list[tuple[Compared, Figure]] = field(default_factory=list)

    @property
    def scale(self) -> int:
        """Factor by which the results are larger."""
        return self.first.restorer.scale

    def add(self, image: Compared, figure: Figure) -> None:
        """Add a result and its figure; of too many figures, that of the smallest difference is dropped."""
        self.images.append(image)
        self.figures.append((image, figure))
        if len(self.figures) > self.pictures:
            self.figures.remove(min(self.figures, key=lambda pair: pair[0].difference))

    def rows(self) -> list[list[str]]:
        """Return a table: headings, one row per image, and the means."""
        first, second = self.first.name, self.second.name
        head = ["image"]
        for metric in ("PSNR", "SSIM") if self._scores(self.images) else ():
            head += [f"{metric} of {first}", f"{metric} of {second}", "difference"]
        rows = [[printable(image.name), *self._cells([image])] for image in self.images]
        return [[*head, f"|{first} − {second}|"], *rows, [f"mean of {len(rows)}", *self._cells(self.images)]]

    def _scores(self, images: Sequence[Compared]) -> list[Scores]:
        """Return the mean scores of both results over the images that have a ground truth; empty if there are none."""
        scored = [image.scores for image in images if image.scores]
        return [
            mean({str(number): scores[side] for number, scores in enumerate(scored)})
            for side in range(2 * bool(scored))
        ]

    def _cells(self, images: Sequence[Compared]) -> list[str]:
        cells, scores = [], self._scores(images)
        for metric, digits in (("psnr", 2), ("ssim", 4)) if self._scores(self.images) else ():
            if scores:
                first, second = (getattr(side, metric) for side in scores)
                gain = 0.0 if first == second else second - first  # both may be infinite
                cells += [f"{first:.{digits}f}", f"{second:.{digits}f}", f"{gain:+.{digits}f}"]
            else:
                cells += ["–"] * 3
        return [*cells, f"{fmean(image.difference for image in images):.2f}"]

    def sentences(self) -> list[str]:
        """Return the results as text."""
        first, second = self.first.name, self.second.name
        sentences = [
            f"|{first} − {second}|: absolute difference of the results in units of 1/255, averaged over pixels and "
            "channels."
        ]
        if scores := self._scores(self.images):
            scored = [image.scores for image in self.images if image.scores]
            better = sum(pair[1].psnr > pair[0].psnr for pair in scored)
            border = f" without a border of {self.border} pixels" if self.border else ""
            given = "the bicubic enlargement" if self.scale > 1 else "the input"
            sentences[:0] = [
                f"{second} has the higher PSNR for {better} of {len(scored)} images with a ground truth.",
                f"PSNR (in dB) and SSIM are computed on 8-bit RGB{border}, as by mcir restore --gt. Their means for "
                f"{given} are {scores[0].psnr_of_input:.2f} and {scores[0].ssim_of_input:.4f}.",
            ]
        return sentences

    def report(self) -> Report:
        """Return the page."""
        networks = [["network", "weights", "architecture"]]
        for side in (self.first, self.second):
            parameters = sum(parameter.numel() for parameter in side.restorer.network.parameters())
            architecture = f"{side.restorer.architecture}, {parameters:,} parameters"
            networks.append([side.name, printable(str(side.file)), architecture])
        shown = Section("Images", figures=[figure for _, figure in self.figures])
        shown.paragraphs.append("Each crop is the part of an image in which the results differ most.")
        if self._scores(self.images):
            shown.paragraphs.append(
                "PSNR and SSIM are those of the whole image. Errors are absolute differences from the ground truth, "
                "averaged over channels; the colours of both errors of an image mean the same."
            )
        if len(self.figures) < len(self.images):
            shown.paragraphs.append(f"Of {len(self.images)} images, those that differ most are shown.")
        problems = [f"{name}: {reason}" for name, reason in self.problems.texts().items()]
        sections = [
            Section("Networks", table=networks, is_text_table=True),
            Section("Results", self.sentences(), self.rows()),
            *([shown] if self.figures else []),
            *([Section("Problems", problems)] if problems else []),
        ]
        return Report(f"{self.first.name} and {self.second.name}", sections)

    def data(self) -> dict[str, Any]:
        """Return the comparison as JSON data."""

        def values(images: Sequence[Compared]) -> dict[str, Any]:
            scores = self._scores(images)
            found: dict[str, Any] = {
                key: {"psnr": side.psnr, "ssim": side.ssim}
                for key, side in zip(("first", "second"), scores, strict=bool(scores))
            }
            if scores:
                found["input"] = {"psnr": scores[0].psnr_of_input, "ssim": scores[0].ssim_of_input}
            return {**found, "difference": fmean(image.difference for image in images)}

        sides = {
            key: {"name": side.name, "weights": str(side.file), "architecture": side.restorer.architecture}
            for key, side in (("first", self.first), ("second", self.second))
        }
        return {
            "mcir": __version__,
            **sides,
            "scale": self.scale,
            "ground_truth": None if self.gt is None else str(self.gt),
            "crop_border": self.border,
            "problems": self.problems.texts(),
            "mean": values(self.images),
            "images": {printable(image.name): values([image]) for image in self.images},
        }


def write_comparison(comparison: Comparison, out: Path, console: Console) -> None:
    """Write the page and the JSON file, and print the table.

    Args:
        comparison: comparison of at least one image.
        out: path of the page; the JSON file has the same name with another extension.
        console: console for the table and the paths.
    """
    head, *rows, means = comparison.rows()
    table = Table()
    for heading in head:
        is_name = heading == head[0]
        table.add_column(Text(heading), overflow="fold", justify="left" if is_name else "right")
    for cells in rows[:TABLE_ROWS]:
        table.add_row(*map(Text, cells))
    if len(rows) > TABLE_ROWS:
        table.add_row(f"… and {len(rows) - TABLE_ROWS} more")
    table.add_section()
    table.add_row(*map(Text, means))
    console.print(table)
    files = {
        out: comparison.report().as_html(),
        out.with_suffix(".json"): as_json(comparison.data(), indent=2) + "\n",
    }
    for file, text in files.items():
        write_atomically(file, text.encode("utf-8", errors="replace"))
        console.print(str(file), soft_wrap=True)
