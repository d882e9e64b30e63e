"""Write results as JSON, Markdown and an HTML page. The tables use :mod:`mcir.report` through this module alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mcir.atomic import write_atomically
from mcir.engine.loggers import as_json
from mcir.report.comparison import error_map, picture
from mcir.report.figures import Figure, bars, curves, picture_figure
from mcir.report.page import Report, Section
from mcir.tables.cache import Log

__all__ = [
    "Figure",
    "Report",
    "Section",
    "bars",
    "curves",
    "difference_figure",
    "image_figure",
    "page",
    "write_results",
]


def page(title: str, sections: Sequence[Section]) -> Report:
    """Return a report of the sections that have any content."""
    return Report(title, [part for part in sections if part.paragraphs or part.table or part.figures or part.code])


def write_results(folder: Path, name: str, data: Mapping[str, Any], report: Report, log: Log) -> None:
    """Write ``name.json``, ``name.md`` and ``name.html`` to a folder, and log their paths.

    Raises:
        OSError: the files cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.json"
    write_atomically(target, (as_json(data, indent=2) + "\n").encode())
    for file in [target, *report.write(folder, name)]:
        log(f"results: {file}")


def image_figure(image: Tensor, caption: str) -> Figure:
    """Return a figure of an image (3, H, W) in [0, 1]."""
    return picture_figure(picture(image), caption)


def difference_figure(first: Tensor, second: Tensor, limit: float, caption: str) -> Figure:
    """Return a figure of the absolute difference of two images (3, H, W) in [0, 1].

    Args:
        first: first image.
        second: second image.
        limit: the difference, of 255, that is drawn brightest.
        caption: what the figure shows.
    """
    return picture_figure(error_map(first, second.clamp(0, 1), limit), caption)
