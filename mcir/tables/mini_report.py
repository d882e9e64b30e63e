"""What the runs of the mini reproduction say: pairs of equal seeds, tested, and told whatever the sign."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import mcir
from mcir.tables.report import Report, Section, bars, curves, signed
from mcir.tables.statistics import Interval, holm, mean_interval, paired_test

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
LIMIT = 0.05
"""Of the adjusted p, below which a gain is called significant."""

Record = dict[str, Any]
"""A finished training, as ``train_one`` gives it."""


@dataclass(frozen=True)
class Comparison:
    """A method against the plain training of the same task, over the seeds that ended with a finite PSNR in both.

    ``slowdown`` is the time of a step over that of a plain one, ``ratio`` the gradient of the contrastive loss over
    that of the pixel loss, both at the output.
    """

    task: str
    method: str
    mean_psnr: float
    gains: list[float]
    diverged: int
    interval: Interval | None
    p: float | None
    adjusted: float | None
    slowdown: float
    ratio: float | None

    @property
    def is_significant(self) -> bool:
        """Whether the gain or loss is more than chance explains, all comparisons considered."""
        return self.adjusted is not None and self.adjusted < LIMIT and not self.diverged

    def verdict(self) -> str:
        """Return in words what the seeds say."""
        if self.interval is None or self.p is None or self.adjusted is None:
            return "no seed ended with finite numbers"
        if self.diverged:
            return f"no verdict: of {len(self.gains) + self.diverged} pairs, {self.diverged} have no finite numbers"
        if self.is_significant:
            return "significantly better" if self.interval.mean > 0 else "significantly worse"
        if self.p < LIMIT:
            return "not significant once all comparisons are counted"
        return "not significant"


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
    kept = [[gain for gain in gains if math.isfinite(gain)] for _, _, gains, _, _ in found]
    p = [paired_test(gains) for gains in kept if gains]
    adjusted, tested = iter(holm(p)), iter(p)
    comparisons = []
    for (task, method, gains, own, plain), finite in zip(found, kept, strict=True):
        values = [float(record["psnr"]) for record in own if math.isfinite(float(record["psnr"]))]
        spent = [fmean(record["training_seconds"] for record in rows) for rows in (own, plain)]
        comparisons.append(
            Comparison(
                task,
                method,
                mean_psnr=fmean(values) if values else math.nan,
                gains=finite,
                diverged=len(gains) - len(finite),
                interval=mean_interval(finite) if finite else None,
                p=next(tested) if finite else None,
                adjusted=next(adjusted) if finite else None,
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
                "gains": found.gains,
                "mean_gain": None if found.interval is None else found.interval.mean,
                "interval_95": None if found.interval is None else [found.interval.low, found.interval.high],
                "p": found.p,
                "p_holm": found.adjusted,
                "diverged": found.diverged,
                "time_of_a_step": found.slowdown,
                "gradient_ratio": found.ratio,
                "verdict": found.verdict(),
            }
            for found in comparisons
        ],
        "runs": list(records),
    }
    return Report("Does contrast with one's own past help? A small reproduction", sections), data


def _summary(comparisons: Sequence[Comparison], records: Sequence[Record], conditions: Conditions) -> Section:
    seeds = len({record["seed"] for record in records})
    told = [
        f"{len(records)} trainings on {conditions.images}, {seeds} seeds each, features of a VGG16 with "
        f"{conditions.vgg} weights; {sum(record['seconds'] for record in records) / 60:.1f} minutes of computing on "
        f"{records[0]['device']} with torch {records[0]['torch']}. For the same seed all methods of a task have the "
        "same initial weights, batches, optimizer, schedule, moving average and number of iterations.",
        "A gain is the PSNR on held-out images minus that of the plain training of the same seed. p is Student's "
        f"paired test, adjusted by Holm for all {len(comparisons)} comparisons of this page; below {LIMIT} a gain is "
        "called significant. The interval is about seeds, not about images: the held-out images are always the same.",
    ]
    if conditions.quick:
        told.append("This was a quick run, to see that everything works: its numbers mean nothing.")
    for found in comparisons:
        told.append(f"{TASKS[found.task]}: {METHODS[found.method]}: {_sentence(found)}.")
    significant = [found for found in comparisons if found.is_significant]
    if comparisons and not significant:
        told.append("Nothing here is significant: at this size neither a gain nor a loss has been shown.")
    return Section("What this says", told)


def _sentence(found: Comparison) -> str:
    lost = f"; {found.diverged} seeds diverged" if found.diverged else ""
    if found.interval is None or found.adjusted is None:
        return found.verdict() + lost
    return (
        f"{signed(found.interval.mean, 3)} dB (95 %: {_ends(found.interval)}), p = {found.adjusted:.2g}: "
        f"{found.verdict()}{lost}"
    )


def _ends(interval: Interval) -> str:
    return f"{signed(interval.low, 3)} … {signed(interval.high, 3)}"


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
        cells = ["–"] * 5
        if found.interval is not None and found.p is not None and found.adjusted is not None:
            better = f"{sum(gain > 0 for gain in found.gains)} of {len(found.gains)}"
            tests = [f"{found.p:.2g}", f"{found.adjusted:.2g}"]
            cells = [signed(found.interval.mean, 3), _ends(found.interval), better, *tests]
        last = [f"{found.slowdown:.2f}", "–" if found.ratio is None else f"{found.ratio:.2g}", found.verdict()]
        rows.append([METHODS[found.method], f"{found.mean_psnr:.3f}", *cells, *last])
    given = (
        f"The degraded images themselves have {plain[0]['psnr_of_input']:.2f} dB. “Gradient” is the length of the "
        "contrastive loss's gradient at the output over that of the pixel loss; a step of the plain training takes 1."
    )
    known = [found for found in comparisons if found.interval is not None]
    gains = {found.method: found.interval.mean for found in known if found.interval is not None}
    limits = {found.method: (found.interval.low, found.interval.high) for found in known if found.interval is not None}
    figures = [bars(gains, "Mean gain over the plain training, and its 95 % interval", "dB", limits)] if gains else []
    figures.append(curves(_mean_curves(task, records), "PSNR on held-out images, mean of the seeds", "iteration", "dB"))
    return Section(TASKS[task], [given], rows, figures)


def _mean_curves(task: str, records: Sequence[Record]) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for method in METHODS:
        lines = [r["curve"] for r in records if (r["task"], r["method"]) == (task, method)]
        means = [(points[0][0], fmean(float(psnr) for _, psnr in points)) for points in zip(*lines, strict=True)]
        if means and all(math.isfinite(mean) for _, mean in means):
            found[method] = means
    return found
