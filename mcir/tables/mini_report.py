"""The report of a small study: its methods compared with the reference, seed by seed, in every task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from statistics import fmean
from typing import Any

import mcir
from mcir.tables.cache import Record
from mcir.tables.commands import StudyCommand
from mcir.tables.formatting import MISSING, counted, mean_of, signed
from mcir.tables.paired_stats import ALPHA, PairedDifference, compare
from mcir.tables.render import Figure, Report, Section, bars, curves, page
from mcir.tables.study import Study

MIN_RATIO = 1e-3
"""Gradient ratio below which a contrastive loss is too weak to have an effect."""
_TOO_WEAK = "too weak to have an effect"


@dataclass(frozen=True)
class Comparison:
    """A method and the reference in one task.

    Attributes:
        slowdown: time of a step relative to a step of the reference; None: not measured.
        ratio: gradient of the contrastive loss at the output relative to that of the pixel loss; None: not measured.
    """

    task: str
    method: str
    difference: PairedDifference
    slowdown: float | None
    ratio: float | None

    @property
    def is_too_weak(self) -> bool:
        """Whether the contrastive loss is too weak to have an effect."""
        return self.ratio is not None and self.ratio < MIN_RATIO


def compare_methods(study: Study, records: Sequence[Record]) -> list[Comparison]:
    """Return the comparisons in the order of tasks and methods, adjusted for their number."""
    sign = -1 if study.reference_first else 1
    methods = [name for name in dict.fromkeys(record["method"] for record in records) if name != study.reference]
    pairs = [(task, method) for task in _tasks(records) for method in methods if _select(records, task, method)]
    gains = [
        [
            sign * (own - other)
            for own, other in zip(*(_psnr(records, task, m) for m in (method, study.reference)), strict=True)
        ]
        for task, method in pairs
    ]
    found = []
    for (task, method), difference in zip(pairs, compare(gains), strict=True):
        own, reference = _select(records, task, method), _select(records, task, study.reference)
        seconds = [[r["training_seconds"] for r in rows if "training_seconds" in r] for rows in (own, reference)]
        slowdown = fmean(seconds[0]) / fmean(seconds[1]) if all(seconds) else None
        ratios = [float(record["ratio"]) for record in own if record.get("ratio") is not None]
        found.append(Comparison(task, method, difference, slowdown, fmean(ratios) if ratios else None))
    return found


def mini_report(
    study: Study,
    command: StudyCommand,
    records: Sequence[Record],
    pretrained: Sequence[Record] = (),
    numbers: Mapping[str, float] | None = None,
) -> tuple[Report, dict[str, Any]]:
    """Return the report of a study and its JSON data.

    Args:
        study: study.
        command: settings of the study.
        records: results of the trainings that are compared.
        pretrained: results of the pre-trainings.
        numbers: numbers of steps, sizes and rates by name, for the introduction.
    """
    numbers = numbers or {}
    comparisons, tasks = compare_methods(study, records), _tasks(records)
    sections = [Section("What the results mean", _summary(study, command, records, pretrained, numbers, comparisons))]
    sections += [_task(study, task, records, comparisons) for task in tasks]
    sections += [_pretrainings(study, pretrained)] if pretrained else []
    conditions = {study.flag.removeprefix("--"): command.features, "images": _images(command)}
    data = {
        "mcir": mcir.__version__,
        "quick": command.quick,
        **conditions,
        **numbers,
        "orders": {task: best_first(_means(task, records)) for task in tasks},
        **({"paper": {task: study.paper[task] for task in tasks}} if study.paper else {}),
        "comparisons": [_comparison_data(study, part, records, len(comparisons)) for part in comparisons],
        **({"pretrainings": list(pretrained)} if pretrained else {}),
        "runs": list(records),
    }
    return page(study.title, sections), data


def _comparison_data(study: Study, part: Comparison, records: Sequence[Record], tests: int) -> dict[str, Any]:
    finite = [value for value in _psnr(records, part.task, part.method) if math.isfinite(value)]
    return {
        "task": part.task,
        "against" if study.reference_first else "method": part.method,
        "mean_psnr": fmean(finite) if finite else math.nan,
        "time_of_a_step": part.slowdown,
        "gradient_ratio": part.ratio,
        "tests_nothing": part.is_too_weak,
        "smallest_difference": part.difference.smallest_detectable(),
        "smallest_difference_holm": part.difference.smallest_detectable(tests),
        **part.difference.data(),
    }


# -- what the results mean --------------------------------------------------------------------------------------------


def _summary(
    study: Study,
    command: StudyCommand,
    records: Sequence[Record],
    pretrained: Sequence[Record],
    numbers: Mapping[str, float],
    comparisons: Sequence[Comparison],
) -> list[str]:
    fields = {
        "trainings": counted(len(records), "training"),
        "pretrainings": counted(len(pretrained), "pre-training"),
        "seeds": counted(len({record["seed"] for record in records}), "seed"),
        "images": _images(command),
        "features": command.features,
        "minutes": f"{sum(record['seconds'] for record in (*records, *pretrained)) / 60:.1f}",
        "torch": (*pretrained, *records)[0]["torch"],
        "half_batch": int(numbers.get("batch", 0)) // 2,
    }
    paragraphs = [study.introduction.format(**fields, **numbers)]
    if comparisons:
        tests = f"all {len(comparisons)} comparisons" if len(comparisons) > 1 else "the one comparison"
        paragraphs.append(
            f"{study.difference} p is that of Student's paired test, adjusted by Holm's method for {tests} of this "
            f"page; a difference with an adjusted p below {ALPHA} is called significant. The interval covers the "
            "variation of seeds, not that of images: the held-out images are always the same."
        )
    if study.random_features and command.features == "random":
        paragraphs.append(study.random_features)
    if command.quick:
        paragraphs.append("This was a quick run that only checks that everything works: its numbers mean nothing.")
    paragraphs += [_sentence(study, part) for part in comparisons]
    paragraphs += _limitations(study, comparisons)
    if comparisons and not any(part.difference.is_significant for part in comparisons):
        paragraphs.append("Nothing here is significant: at this size, no difference is shown in either direction.")
    return paragraphs


def _sentence(study: Study, part: Comparison) -> str:
    names = [study.title_of(part.method), study.title_of(study.reference)]
    first, second = reversed(names) if study.reference_first else names
    weak = f", {_TOO_WEAK}" if part.is_too_weak else ""
    ratio = "" if part.ratio is None else f", at a gradient ratio of {part.ratio:.2g}{weak}"
    return f"{study.tasks[part.task]}: {first} against {second}: {part.difference.sentence()}{ratio}."


def _limitations(study: Study, comparisons: Sequence[Comparison]) -> list[str]:
    """Return what the study cannot show, whatever is true."""
    paragraphs = []
    weak = [part for part in comparisons if part.is_too_weak]
    if weak:
        names = " and ".join(f"“{study.title_of(method)}”" for method in dict.fromkeys(part.method for part in weak))
        paragraphs.append(
            f"A contrastive loss with a gradient ratio below {MIN_RATIO:g} is {_TOO_WEAK}: such a row is the plain "
            f"training with a small disturbance, whatever its verdict: {counted(len(weak), 'row')}, of {names}."
        )
    if any(part.difference.smallest_detectable() is not None for part in comparisons):
        paragraphs.append(
            "“Detectable” is the smallest mean difference in dB that the test of a row could have found, given the "
            f"spread of its seeds: first at the level {ALPHA} for the row alone, then at {ALPHA} / {len(comparisons)}, "
            "the level of the strongest row in Holm's method. A smaller effect would not have been noticed."
        )
    return paragraphs


def _images(command: StudyCommand) -> str:
    return "the bundled photographs" if command.data is None else f"the images of {command.data}"


# -- one task ---------------------------------------------------------------------------------------------------------


def _task(study: Study, task: str, records: Sequence[Record], comparisons: Sequence[Comparison]) -> Section:
    means, tests = _means(task, records), len(comparisons)
    own = {part.method: part for part in comparisons if part.task == task}
    with_times = any(part.slowdown is not None for part in own.values())
    head = [
        "method",
        "PSNR",
        "SSIM",
        f"{study.title_of(study.reference)} minus it" if study.reference_first else "gain",
    ]
    head += ["95 % interval", "seeds better", "p", "adjusted p", "detectable"]
    rows = [[*head, *(["time per step", "gradient ratio"] if with_times else []), "verdict"]]
    for method in best_first(means) if study.paper else means:
        scores = [[float(record[key]) for record in _select(records, task, method)] for key in ("psnr", "ssim")]
        cells = [study.title_of(method), mean_of(scores[0], 3), mean_of(scores[1], 4)]
        cells += _comparison_cells(own[method], tests, with_times) if method in own else [MISSING] * (len(rows[0]) - 3)
        rows.append(cells)
    first = next(record for record in records if record["task"] == task)
    paragraphs = [_input_sentence(study, task, float(first["psnr_of_input"]), means)]
    if with_times:
        paragraphs.append(
            "The gradient ratio is the norm of the contrastive loss's gradient at the output, relative to that of the "
            "pixel loss. Times are relative to a step of the plain training."
        )
    paragraphs += [*_disturbance(list(own.values())), *_paper_order(study, task, means)]
    return Section(study.tasks[task], paragraphs, rows, _figures(study, task, records, list(own.values())))


def _comparison_cells(part: Comparison, tests: int, with_times: bool) -> list[str]:
    detectable = [part.difference.smallest_detectable(), part.difference.smallest_detectable(tests)]
    cells = [*part.difference.cells(), " / ".join(f"{v:.3f}" for v in detectable if v is not None) or MISSING]
    if with_times:
        cells += [
            MISSING if part.slowdown is None else f"{part.slowdown:.2f}",
            MISSING if part.ratio is None else f"{part.ratio:.2g}",
        ]
    return [*cells, part.difference.verdict() + (f"; {_TOO_WEAK}" if part.is_too_weak else "")]


def _input_sentence(study: Study, task: str, value: float, means: Mapping[str, float]) -> str:
    subject = "Bicubic enlargement of the input has" if task == "sr" else "The degraded images themselves have"
    worse = [study.short_title_of(method) for method in best_first(means) if not means[method] > value]
    rest = f"these methods are not better: {', '.join(worse)}" if worse else "every method is better"
    return f"{subject} {value:.2f} dB; {rest}."


def _disturbance(comparisons: Sequence[Comparison]) -> list[str]:
    """Return how far single seeds moved in the rows whose loss is too weak to have an effect."""
    gains = [gain for part in comparisons if part.is_too_weak for gain in part.difference.gains]
    if not gains:
        return []
    return [
        f"In the rows whose loss is {_TOO_WEAK}, the disturbance alone moved single seeds by {signed(min(gains), 3)} … "
        f"{signed(max(gains), 3)} dB: differences of that size between two trainings of this task are chance."
    ]


def _paper_order(study: Study, task: str, means: Mapping[str, float]) -> list[str]:
    """Return the order of the methods here and in the paper, and where they differ."""
    if not study.paper:
        return []
    here = f"Order here: {' > '.join(f'{method} {means[method]:.2f}' for method in best_first(means))}."
    chains = [[[name for name in group if name in means] for group in chain] for chain in study.paper[task]]
    chains = [[group for group in chain if group] for chain in chains]
    known = [" > ".join(", ".join(group) for group in chain) for chain in chains if len(chain) > 1]
    pairs = [pair for chain in chains for first, second in combinations(chain, 2) for pair in product(first, second)]
    if not pairs:
        return [here, "The paper's order of these methods is not known here."]
    swapped = [(worse, better) for better, worse in pairs if not means[better] > means[worse]]
    text = f"Order in the paper: {'; '.join(known)}. {len(pairs) - len(swapped)} of {counted(len(pairs), 'pair')} have "
    text += "the same order here"
    if swapped:
        gaps = [f"{a} is {signed(means[a] - means[b], 3)} dB from {b}" for a, b in swapped]
        text += f"; the others: {', '.join(gaps)}"
    unknown = [name for name in means if name not in {method for pair in pairs for method in pair}]
    rest = f" The paper's rank of {', '.join(unknown)} is not known here." if unknown else ""
    return [here, f"{text}.{rest}"]


def _figures(study: Study, task: str, records: Sequence[Record], comparisons: Sequence[Comparison]) -> list[Figure]:
    found = {study.short_title_of(part.method): part.difference.interval for part in comparisons}
    intervals = {name: interval for name, interval in found.items() if interval}
    figures = []
    if intervals:
        limits = {name: (interval.low, interval.high) for name, interval in intervals.items()}
        means = {name: interval.mean for name, interval in intervals.items()}
        figures.append(bars(means, "Mean difference in PSNR, with its 95 % interval", "dB", limits))
    series = {}
    for method in study.methods:
        lines = [record["curve"] for record in _select(records, task, method) if "curve" in record]
        points = [(group[0][0], fmean(float(psnr) for _, psnr in group)) for group in zip(*lines, strict=True)]
        if points and all(math.isfinite(mean) for _, mean in points):
            series[study.short_title_of(method)] = points
    if series:
        figures.append(curves(series, "PSNR on held-out images, mean of the seeds", "iteration", "dB"))
    return figures


def _pretrainings(study: Study, pretrained: Sequence[Record]) -> Section:
    rows = [["pre-training", "PSNR without a new layer", "seconds"]]
    for method, task in dict.fromkeys((record["method"], record["task"]) for record in pretrained):
        name = f"{method}, {study.tasks[task].lower()}" if task else method
        seconds = fmean(record["seconds"] for record in _select(pretrained, task, method))
        rows.append([name, mean_of(_psnr(pretrained, task, method), 3), f"{seconds:.0f}"])
    paragraph = (
        "PSNR of the networks on held-out images right after the pre-training, with their own last layer and without "
        "labels (except for the oracle). RCL is not trained to denoise, and the dense methods not even to make images."
    )
    return Section("The pre-trainings", [paragraph], rows)


# -- selecting results ------------------------------------------------------------------------------------------------


def _tasks(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record["task"] for record in records))


def _select(records: Sequence[Record], task: str, method: str) -> list[Record]:
    """Return the results of a method in a task, by seed."""
    found = [record for record in records if (record["task"], record["method"]) == (task, method)]
    return sorted(found, key=lambda record: record["seed"])


def _psnr(records: Sequence[Record], task: str, method: str) -> list[float]:
    return [float(record["psnr"]) for record in _select(records, task, method)]


def _means(task: str, records: Sequence[Record]) -> dict[str, float]:
    methods = dict.fromkeys(record["method"] for record in records if record["task"] == task)
    return {method: fmean(_psnr(records, task, method)) for method in methods}


def best_first(means: Mapping[str, float]) -> list[str]:
    """Return the methods by their mean, the best first; one that diverged comes last."""
    return sorted(means, key=lambda method: -math.inf if math.isnan(means[method]) else means[method], reverse=True)
