"""What the runs of the mini reproduction say: pairs of equal seeds, tested, and told whatever the sign."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import mcir
from mcir.tables.differences import LIMIT, Difference, compared
from mcir.tables.report import Report, Section, bars, curves
from mcir.tables.words import counted

TASKS = {
    "sr": "super-resolution ×2, EDSR",
    "denoise": "denoising, NAFNet",
    "dehaze": "dehazing (synthetic haze), FFANet",
}
METHODS = {
    "plain": "plain",
    "spn": "+ SPN, the paper's λ = 1e-4",
    "spn_balanced_0.1": "+ SPN, gradient ratio 0.1",
    "spn_balanced_0.5": "+ SPN, gradient ratio 0.5",
    "cr": "+ CR (the degraded input as negative)",
    "random": "+ random frozen networks as negatives",
}
_SHORT = {
    "plain": "plain",
    "spn": "SPN, λ = 1e-4",
    "spn_balanced_0.1": "SPN, ratio 0.1",
    "spn_balanced_0.5": "SPN, ratio 0.5",
    "cr": "CR",
    "random": "random networks",
}  # as the drawings have room for
Record = dict[str, Any]
"""A finished training, as ``train_one`` gives it."""


@dataclass(frozen=True, kw_only=True)
class Comparison(Difference):
    """A method against the plain training of the same task.

    ``slowdown`` is the time of a step over that of a plain one, ``ratio`` the gradient of the contrastive loss over
    that of the pixel loss, both at the output.
    """

    task: str
    method: str
    mean_psnr: float
    slowdown: float
    ratio: float | None


def compare(records: Sequence[Record]) -> list[Comparison]:
    """Return every method against ``plain``, in the order of tasks and methods."""
    by_key = {(r["task"], r["method"], r["seed"]): r for r in records}
    found: list[tuple[str, str, list[float], list[Record], list[Record]]] = []
    for task in dict.fromkeys(r["task"] for r in records):
        for method in dict.fromkeys(r["method"] for r in records if r["method"] != "plain"):
            seeds = sorted({r["seed"] for r in records if r["task"] == task})
            own = [by_key[task, method, seed] for seed in seeds]
            plain = [by_key[task, "plain", seed] for seed in seeds]
            gains = [float(a["psnr"]) - float(b["psnr"]) for a, b in zip(own, plain, strict=True)]
            found.append((task, method, gains, own, plain))
    comparisons = []
    differences = compared([gains for _, _, gains, _, _ in found])
    for (task, method, _, own, plain), difference in zip(found, differences, strict=True):
        values = [float(record["psnr"]) for record in own if math.isfinite(float(record["psnr"]))]
        spent = [fmean(record["training_seconds"] for record in rows) for rows in (own, plain)]
        comparisons.append(
            Comparison(
                **vars(difference),
                task=task,
                method=method,
                mean_psnr=fmean(values) if values else math.nan,
                slowdown=spent[0] / spent[1],
                ratio=fmean(ratios) if (ratios := [float(r["ratio"]) for r in own if r["ratio"] is not None]) else None,
            )
        )
    return comparisons


@dataclass(frozen=True)
class Conditions:
    """Under which all runs were made.

    Attributes:
        images: what was trained on and tested, in words.
        vgg: weights of the feature network.
        quick: whether it was only to see that everything works.
    """

    images: str = "the bundled photographs"
    vgg: str = "random"
    quick: bool = False


def tell(records: Sequence[Record], conditions: Conditions) -> tuple[Report, dict[str, Any]]:
    """Return the report, and the same as data."""
    comparisons = compare(records)
    sections = [_summary(comparisons, records, conditions)]
    for task in dict.fromkeys(record["task"] for record in records):
        sections.append(_of_task(task, records, [found for found in comparisons if found.task == task]))
    data = {
        "mcir": mcir.__version__,
        "quick": conditions.quick,
        "vgg": conditions.vgg,
        "images": conditions.images,
        "comparisons": [
            {
                "task": found.task,
                "method": found.method,
                "mean_psnr": found.mean_psnr,
                "time_of_a_step": found.slowdown,
                "gradient_ratio": found.ratio,
                **found.as_data(),
            }
            for found in comparisons
        ],
        "runs": list(records),
    }
    return Report("Does contrast with one's own past help? A small reproduction", sections), data


def _summary(comparisons: Sequence[Comparison], records: Sequence[Record], conditions: Conditions) -> Section:
    seeds = len({record["seed"] for record in records})
    trainings, each = counted(len(records), "training"), counted(seeds, "seed")
    minutes = sum(record["seconds"] for record in records) / 60
    told = [
        f"{trainings} on {conditions.images}, {each} each, features of a VGG16 with {conditions.vgg} weights; "
        f"{minutes:.1f} minutes of computing on {records[0]['device']} with torch {records[0]['torch']}. For the same "
        "seed all methods of a task have the same initial weights, batches, optimizer, schedule, moving average and "
        "number of iterations."
    ]
    if comparisons:
        all_of_them = "the one comparison" if len(comparisons) == 1 else f"all {len(comparisons)} comparisons"
        told.append(
            "A gain is the PSNR on held-out images minus that of the plain training of the same seed. p is Student's "
            f"paired test, adjusted by Holm for {all_of_them} of this page; below {LIMIT} a gain is called "
            "significant. The interval is about seeds, not about images: the held-out images are always the same."
        )
    if conditions.quick:
        told.append("This was a quick run, to see that everything works: its numbers mean nothing.")
    for found in comparisons:
        told.append(f"{TASKS[found.task]}: {METHODS[found.method]}: {found.sentence()}.")
    significant = [found for found in comparisons if found.is_significant]
    if comparisons and not significant:
        told.append("Nothing here is significant: at this size neither a gain nor a loss has been shown.")
    return Section("What this says", told)


def _of_task(task: str, records: Sequence[Record], comparisons: Sequence[Comparison]) -> Section:
    plain = [record for record in records if (record["task"], record["method"]) == (task, "plain")]
    head = [
        "method",
        "PSNR",
        "gain",
        "95 % interval",
        "seeds better",
        "p",
        "p, adjusted",
        "time of a step",
        "gradient",
        "verdict",
    ]
    rows = [head, [METHODS["plain"], f"{fmean(float(r['psnr']) for r in plain):.3f}", *["–"] * 5, "1.00", "–", "–"]]
    for found in comparisons:
        last = [f"{found.slowdown:.2f}", "–" if found.ratio is None else f"{found.ratio:.2g}", found.verdict()]
        rows.append([METHODS[found.method], f"{found.mean_psnr:.3f}", *found.cells(), *last])
    given = (
        f"The degraded images themselves have {plain[0]['psnr_of_input']:.2f} dB. “Gradient” is the length of the "
        "contrastive loss's gradient at the output over that of the pixel loss; a step of the plain training takes 1."
    )
    known = [found for found in comparisons if found.interval is not None]
    gains = {_SHORT[found.method]: found.interval.mean for found in known if found.interval is not None}
    limits = {
        _SHORT[found.method]: (found.interval.low, found.interval.high) for found in known if found.interval is not None
    }
    figures = [bars(gains, "Mean gain over the plain training, and its 95 % interval", "dB", limits)] if gains else []
    figures.append(curves(_mean_curves(task, records), "PSNR on held-out images, mean of the seeds", "iteration", "dB"))
    return Section(TASKS[task], [given], rows, figures)


def _mean_curves(task: str, records: Sequence[Record]) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for method in METHODS:
        lines = [r["curve"] for r in records if (r["task"], r["method"]) == (task, method)]
        means = [(points[0][0], fmean(float(psnr) for _, psnr in points)) for points in zip(*lines, strict=True)]
        if means and all(math.isfinite(mean) for _, mean in means):
            found[_SHORT[method]] = means
    return found
