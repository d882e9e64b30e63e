"""What the runs of the mini reproduction say: pairs of equal seeds, tested, and told whatever the sign."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import mcir
from mcir.report.figures import bars, curves
from mcir.report.page import Report, Section
from mcir.tables.config_diff import LIMIT, Difference, compared
from mcir.tables.formatting import counted, signed
from mcir.tables.paired_stats import mean_interval

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
    "random": "+ a random frozen network as negative, λ = 1e-4",
}
_SHORT = {
    "plain": "plain",
    "spn": "SPN, λ = 1e-4",
    "spn_balanced_0.1": "SPN, ratio 0.1",
    "spn_balanced_0.5": "SPN, ratio 0.5",
    "cr": "CR",
    "random": "random network",
}  # as the drawings have room for
IDLE = 1e-3
"""Gradient ratio below which a contrastive term is too weak to test anything: a thousandth of the pixel loss's."""
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

    @property
    def is_idle(self) -> bool:
        """Whether the contrastive term was so weak that the row tests nothing."""
        return self.ratio is not None and self.ratio < IDLE

    def told(self) -> str:
        """Return mean, interval, adjusted p, verdict and the gradient ratio in a line."""
        if self.ratio is None:
            return self.sentence()
        return f"{self.sentence()}, at a gradient ratio of {self.ratio:.2g}{', which tests nothing' * self.is_idle}"

    def smallest(self, tests: int = 1) -> float | None:
        """Return the smallest mean difference in dB that the paired test calls significant at this spread of the seeds.

        Args:
            tests: for how many comparisons the limit is divided.
        """
        if len(self.gains) < 2:
            return None
        interval = mean_interval(self.gains, 1 - LIMIT / tests)
        return (interval.high - interval.low) / 2


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
        of_task = [found for found in comparisons if found.task == task]
        sections.append(_of_task(task, records, of_task, len(comparisons)))
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
                "tests_nothing": found.is_idle,
                "smallest_difference": found.smallest(),
                "smallest_difference_holm": found.smallest(len(comparisons)),
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
        told.append(f"{TASKS[found.task]}: {METHODS[found.method]}: {found.told()}.")
    told += _limits(comparisons)
    significant = [found for found in comparisons if found.is_significant]
    if comparisons and not significant:
        told.append("Nothing here is significant: at this size neither a gain nor a loss has been shown.")
    return Section("What this says", told)


def _limits(comparisons: Sequence[Comparison]) -> list[str]:
    """Return what the runs could not have shown, whatever is true."""
    told = []
    idle = [found for found in comparisons if found.is_idle]
    if idle:
        methods = " and ".join(f"“{METHODS[name]}”" for name in dict.fromkeys(found.method for found in idle))
        told.append(
            f"Where the gradient of the contrastive loss is less than {IDLE:g} of the pixel loss's, the row tests "
            "nothing: it is the plain training but for a disturbance, whatever its verdict. Here these are "
            f"{counted(len(idle), 'row')}, of {methods}."
        )
    if any(found.method == "random" and found.is_idle for found in comparisons) and any(
        found.method.startswith("spn_balanced") and not found.is_idle for found in comparisons
    ):
        told.append(
            "So no row tells whether the network's own past is a better negative than any other network: for that, a "
            "random network at the same gradient ratio would have to be set beside SPN at 0.1 and 0.5. None was."
        )
    seen = [smallest for found in comparisons if (smallest := found.smallest()) is not None]
    if seen:
        told.append(
            "“Could show” is the smallest mean difference in dB that the test of a row could have found, with the "
            f"spread that its seeds have: the first number at {LIMIT} for the row alone; the second at {LIMIT} divided "
            f"by {len(comparisons)}, as Holm asks of the strongest row. An effect below it would have stayed unseen."
        )
    return told


def _of_task(task: str, records: Sequence[Record], comparisons: Sequence[Comparison], tests: int) -> Section:
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
        "could show",
        "verdict",
    ]
    rows = [head, [METHODS["plain"], f"{fmean(float(r['psnr']) for r in plain):.3f}", *["–"] * 5, "1.00", *["–"] * 3]]
    for found in comparisons:
        gradient = "–" if found.ratio is None else f"{found.ratio:.2g}"
        verdict = found.verdict() + "; tests nothing" * found.is_idle
        last = [f"{found.slowdown:.2f}", gradient, _could_show(found, tests), verdict]
        rows.append([METHODS[found.method], f"{found.mean_psnr:.3f}", *found.cells(), *last])
    given = (
        f"The degraded images themselves have {plain[0]['psnr_of_input']:.2f} dB. “Gradient” is the length of the "
        "contrastive loss's gradient at the output over that of the pixel loss; a step of the plain training takes 1."
    )
    told = [given, *_disturbance(comparisons)]
    known = [found for found in comparisons if found.interval is not None]
    gains = {_SHORT[found.method]: found.interval.mean for found in known if found.interval is not None}
    limits = {
        _SHORT[found.method]: (found.interval.low, found.interval.high) for found in known if found.interval is not None
    }
    figures = [bars(gains, "Mean gain over the plain training, and its 95 % interval", "dB", limits)] if gains else []
    figures.append(curves(_mean_curves(task, records), "PSNR on held-out images, mean of the seeds", "iteration", "dB"))
    return Section(TASKS[task], told, rows, figures)


def _could_show(found: Comparison, tests: int) -> str:
    smallest = [value for value in (found.smallest(), found.smallest(tests)) if value is not None]
    return " / ".join(f"{value:.3f}" for value in smallest) or "–"


def _disturbance(comparisons: Sequence[Comparison]) -> list[str]:
    """Return how far single seeds moved in the rows that test nothing."""
    moved = [gain for found in comparisons if found.is_idle for gain in found.gains]
    if not moved:
        return []
    return [
        f"A disturbance alone, in the rows that test nothing, moved single seeds by {signed(min(moved), 3)} … "
        f"{signed(max(moved), 3)} dB: so much of any difference between two trainings of this task is chance."
    ]


def _mean_curves(task: str, records: Sequence[Record]) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for method in METHODS:
        lines = [r["curve"] for r in records if (r["task"], r["method"]) == (task, method)]
        means = [(points[0][0], fmean(float(psnr) for _, psnr in points)) for points in zip(*lines, strict=True)]
        if means and all(math.isfinite(mean) for _, mean in means):
            found[_SHORT[method]] = means
    return found
