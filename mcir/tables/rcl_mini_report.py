"""What the runs of the small RCL reproduction say: the order that was found, the paper's, and what is significant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from statistics import fmean
from typing import Any

import mcir
from mcir.report.figures import bars
from mcir.report.page import Report, Section
from mcir.tables.config_diff import LIMIT, Difference, compared
from mcir.tables.formatting import counted, signed
from mcir.tables.proxy_report import deviation_of, spread
from mcir.tables.run_cache import Record

TASKS = {"denoise": "Denoising", "sr": "Super-resolution ×2"}
METHODS = ("RCL-EMD", "N2N", "N2S", "DenseCL+", "random", "oracle")
"""What is compared unless others are asked for."""
AGAINST = "RCL-EMD"

_RCL = ("RCL-EMD", "RCL-BD", "RCL-MMD")
PAPER = {
    "denoise": (
        (
            _RCL,
            ("N2N",),
            ("N2S",),
            ("consistency",),
            ("VADeR+", "DenseCL+", "PixContrast+"),
            ("VADeR", "DenseCL", "PixContrast"),
        ),
    ),
    "sr": ((_RCL, ("N2N",)), (("RCL-EMD",), ("oracle",))),
}
"""What the paper's Tables 1 and 2 (arXiv:2106.10070v2) have in which order, as far as it is known here: chains of
methods, the better ones first; between methods of a link, and of different chains, nothing is said."""


@dataclass(frozen=True)
class Conditions:
    """Under which all trainings were made.

    Attributes:
        images: what was trained on and tested, in words.
        resnet: weights of the consistency loss's network.
        quick: whether it was only to see that everything works.
        steps: of a pre-training.
        batch: crops of a step.
        patch: side of a crop.
        proxy_steps: steps of a proxy training.
        proxy_rate: its learning rate.
    """

    images: str
    resnet: str
    quick: bool
    steps: int
    batch: int
    patch: int
    proxy_steps: int
    proxy_rate: float


@dataclass(frozen=True, kw_only=True)
class Comparison(Difference):
    """RCL-EMD against another method in a task: ``gains`` are its PSNR minus that of the other, seed by seed."""

    task: str
    method: str


def compare(found: Sequence[Record]) -> list[Comparison]:
    """Return RCL-EMD against every other method, in the order of tasks and methods."""
    psnr = {(record["task"], record["method"], record["seed"]): float(record["psnr"]) for record in found}
    pairs = [(task, method) for task, method in dict.fromkeys(key[:2] for key in psnr) if method != AGAINST]
    seeds = sorted({seed for _, _, seed in psnr})
    gains = [[psnr[task, AGAINST, seed] - psnr[task, method, seed] for seed in seeds] for task, method in pairs]
    return [
        Comparison(**vars(difference), task=task, method=method)
        for (task, method), difference in zip(pairs, compared(gains), strict=True)
    ]


def tell(
    pretrained: Sequence[Record], found: Sequence[Record], conditions: Conditions
) -> tuple[Report, dict[str, Any]]:
    """Return the report, and the same as data.

    Args:
        pretrained: the pre-trainings.
        found: the proxy trainings.
        conditions: of all.
    """
    comparisons = compare(found)
    sections = [_summary(pretrained, found, comparisons, conditions)]
    tasks = list(dict.fromkeys(record["task"] for record in found))
    sections += [_of_task(task, found, [part for part in comparisons if part.task == task]) for task in tasks]
    sections.append(_of_pretraining(pretrained))
    data = {
        "mcir": mcir.__version__,
        **vars(conditions),
        "orders": {task: _order(_means(task, found)) for task in tasks},
        "paper": {task: PAPER[task] for task in tasks},
        "comparisons": [{"task": part.task, "against": part.method, **part.as_data()} for part in comparisons],
        "pretrainings": list(pretrained),
        "runs": list(found),
    }
    return Report("Is the noise of images worth learning from? A small reproduction of RCL", sections), data


def _summary(
    pretrained: Sequence[Record], found: Sequence[Record], comparisons: Sequence[Comparison], conditions: Conditions
) -> Section:
    seeds = len({record["seed"] for record in found})
    minutes = sum(record["seconds"] for record in (*pretrained, *found)) / 60
    told = [
        f"{counted(len(pretrained), 'pre-training')} and {counted(len(found), 'proxy training')} of a small U-Net on "
        f"{conditions.images}, {counted(seeds, 'seed')} each; {minutes:.1f} minutes of computing with torch "
        f"{pretrained[0]['torch']}. Every pre-training has {counted(conditions.steps, 'step')} from the first weights "
        f"of its seed, on crops of {conditions.patch} pixels: {conditions.batch // 2} images a step with two crops or "
        "two noisy versions each (how many of them pass through the network is the method's matter), and "
        f"{conditions.batch} crops for the oracle, which is supervised and for the task itself. Then a new last layer "
        f"is trained on the frozen rest by L1: {counted(conditions.proxy_steps, 'step')} at a rate of "
        f"{conditions.proxy_rate:g}, {conditions.batch} labelled crops each, the same for every method of a seed. "
        "“random” is an untrained network with such a layer.",
        f"Compared is the PSNR on held-out images, {AGAINST} minus another method of the same seed. p is Student's "
        f"paired test, adjusted by Holm for all {len(comparisons)} comparisons of this page; below {LIMIT} a "
        "difference is called significant. The interval is about seeds, not about images: the held-out images are "
        "always the same.",
    ]
    if conditions.resnet == "random":
        told.append(
            "The consistency loss of RCL and of the “+” variants looks through a ResNet50 with random weights. The "
            "paper has ImageNet's, so a part of what it measured is missing here; `--resnet imagenet` takes them."
        )
    if conditions.quick:
        told.append("This was a quick run, to see that everything works: its numbers mean nothing.")
    told += [f"{TASKS[part.task]}: {AGAINST} against {part.method}: {part.sentence()}." for part in comparisons]
    if comparisons and not any(part.is_significant for part in comparisons):
        told.append(
            "Nothing here is significant: at this size no difference to RCL-EMD has been shown, in no direction."
        )
    return Section("What this says", told)


def _of_task(task: str, found: Sequence[Record], comparisons: Sequence[Comparison]) -> Section:
    means = _means(task, found)
    order = _order(means)
    by_method = {part.method: part for part in comparisons}
    rows = [["method", "PSNR", "SSIM", f"{AGAINST} minus it", "95 % interval", f"seeds {AGAINST} better", "p"]]
    rows[0] += ["p, adjusted", "verdict on RCL-EMD"]
    for method in order:
        own = [record for record in found if (record["task"], record["method"]) == (task, method)]
        numbers = [
            _spread([float(record[key]) for record in own], digits) for key, digits in (("psnr", 3), ("ssim", 4))
        ]
        part = by_method.get(method)
        rows.append([method, *numbers, *(part.cells() if part else ["–"] * 5), part.verdict() if part else "–"])
    given = float(next(record["psnr_of_input"] for record in found if record["task"] == task))
    name = "Bicubic enlargement has" if task == "sr" else "The noisy images themselves have"
    worse = [method for method in order if not means[method] > given]
    told = [
        f"{name} {given:.2f} dB; " + (f"no better: {', '.join(worse)}." if worse else "every method is above that."),
        f"Found: {' > '.join(f'{method} {means[method]:.2f}' for method in order)}.",
        *_against_paper(task, means),
    ]
    values = {part.method: part.interval.mean for part in comparisons if part.interval}
    limits = {part.method: (part.interval.low, part.interval.high) for part in comparisons if part.interval}
    caption = f"PSNR of {AGAINST} minus that of the method, mean of the seeds, and its 95 % interval"
    return Section(TASKS[task], told, rows, [bars(values, caption, "dB", limits)] if values else [])


def _against_paper(task: str, means: dict[str, float]) -> list[str]:
    """Return the paper's order of the methods that are here, and where they stand otherwise."""
    chains = [[[name for name in link if name in means] for link in chain] for chain in PAPER[task]]
    chains = [[link for link in chain if link] for chain in chains]
    known = [" > ".join(", ".join(link) for link in chain) for chain in chains if len(chain) > 1]
    pairs = [pair for chain in chains for ahead, after in combinations(chain, 2) for pair in product(ahead, after)]
    if not pairs:
        return ["Of the paper's order of these methods nothing is known here."]
    other = [(worse, better) for better, worse in pairs if not means[better] > means[worse]]
    held = f"{len(pairs) - len(other)} of {counted(len(pairs), 'pair')} stand in that order here"
    if other:
        gaps = [f"{a} is {signed(means[a] - means[b], 3)} dB from {b}" for a, b in other]
        held += f"; otherwise {', '.join(gaps)}"
    rest = [name for name in means if name not in {part for pair in pairs for part in pair}]
    missing = f" Where the paper has {', '.join(rest)} is not known here." if rest else ""
    return [f"Paper: {'; '.join(known)}. By the means, {held}.{missing}"]


def _of_pretraining(pretrained: Sequence[Record]) -> Section:
    rows = [["pre-training", "PSNR as it is", "seconds"]]
    for method, task in dict.fromkeys((record["method"], record["task"]) for record in pretrained):
        own = [record for record in pretrained if (record["method"], record["task"]) == (method, task)]
        name = f"{method}, {TASKS[task].lower()}" if method == "oracle" else method
        psnr = _spread([float(record["psnr"]) for record in own], 3)
        rows.append([name, psnr, f"{fmean(record['seconds'] for record in own):.0f}"])
    told = (
        "What the networks make of held-out images straight after the pre-training, with its own last layer and no "
        "label (but the oracle's). RCL is not trained to denoise, and the dense methods not even to make images."
    )
    return Section("The pre-trainings", [told], rows)


def _means(task: str, found: Sequence[Record]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for record in found:
        if record["task"] == task:
            values.setdefault(record["method"], []).append(float(record["psnr"]))
    return {method: fmean(numbers) for method, numbers in values.items()}


def _order(means: dict[str, float]) -> list[str]:
    """Return the methods by their means, the best first; one that diverged comes last."""
    return sorted(means, key=lambda method: -math.inf if math.isnan(means[method]) else means[method], reverse=True)


def _spread(values: Sequence[float], digits: int) -> str:
    return spread(fmean(values), deviation_of(values), digits)
