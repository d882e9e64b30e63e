"""What a proxy evaluation found: its results, and their table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from mcir.report.page import Report, Section
from mcir.tables.formatting import counted
from mcir.tables.proxy_plan import TASKS, ProxySettings, rows_without


@dataclass(frozen=True)
class Result:
    """What one training came to, on the test images: means over them, ``psnr`` in dB.

    ``labels`` is None for all images. ``psnr_of_input`` and ``ssim_of_input`` are of the degraded images themselves,
    enlarged bicubically where the task enlarges; ``images`` are the PSNR of each image.
    """

    fingerprint: str
    weights: str
    task: str
    finetune: bool
    labels: int | None
    trial: int
    psnr: float
    ssim: float
    psnr_of_input: float
    ssim_of_input: float
    images: dict[str, float]
    seconds: float


def summary(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return for each row and number of labels the means over the trials, and the standard deviations of several."""
    groups: dict[tuple[str, int | None], list[Result]] = {}
    for result in results:
        groups.setdefault((result.weights, result.labels), []).append(result)
    rows = []
    for (weights, labels), group in groups.items():
        row: dict[str, Any] = {"weights": weights, "labels": labels, "trials": len(group)}
        for metric in ("psnr", "ssim"):
            values = [float(getattr(result, metric)) for result in group]
            row[metric] = fmean(values)
            row[f"{metric}_std"] = deviation_of(values)
        rows.append(row)
    return rows


def tell(results: Sequence[Result], settings: ProxySettings) -> Report:
    """Return the table of the results."""
    table = [["weights", "labelled images", "PSNR in dB", "SSIM", "trials"]]
    for first in results[:1]:
        given = "bicubic enlargement" if TASKS[settings.task].scale > 1 else "the input itself"
        table.append([given, "", f"{float(first.psnr_of_input):.2f}", f"{first.ssim_of_input:.4f}", ""])
    for row in summary(results):
        numbers = [spread(row[metric], row[f"{metric}_std"], digits) for metric, digits in (("psnr", 2), ("ssim", 4))]
        labels = "all" if row["labels"] is None else f"{row['labels']:,}"
        table.append([row["weights"], labels, *numbers, str(row["trials"])])
    how = "all weights are fine-tuned" if settings.finetune else "a new last layer is trained, all else is frozen"
    told = [
        f"From each row's weights, {how}: {counted(settings.steps, 'step')} on batches of {settings.batch} crops of "
        f"{settings.patch} pixels, the same images, order and seeds for every row. Mean ± standard deviation over the "
        "trials; RGB, no border left out."
    ]
    if missing := rows_without(settings):
        told.append(f"With 0 labels these rows have no weights for the task, and so no result: {', '.join(missing)}.")
    return Report(f"Proxy evaluation: {TASKS[settings.task].title}", [Section("Results", told, table)])


def deviation_of(values: Sequence[float]) -> float | None:
    """Return the standard deviation, if values are several and finite."""
    return stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


def spread(mean: float, deviation: float | None, digits: int) -> str:
    """Write a mean, with its standard deviation if there is one."""
    return f"{mean:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")
