"""The report of a small study: every method compared with the reference for the same seeds, in every task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeAlias

import mcir
from mcir.report.figures import Figure, bars, curves
from mcir.report.page import Report, Section
from mcir.tables.cache import Record
from mcir.tables.commands import StudyCommand
from mcir.tables.formatting import MISSING, counted, mean_of, signed
from mcir.tables.method_order import best_first, order_sentences
from mcir.tables.paired_stats import ALPHA, PairedDifference, compare
from mcir.tables.residuals import residuals_sections
from mcir.tables.study import Study

MIN_RATIO = 1e-3
"""Gradient ratio below which a contrastive loss is too weak to have an effect."""
_TOO_WEAK = "too weak to have an effect"

_Groups: TypeAlias = dict[tuple[str, str], list[Record]]
"""Results by task and method, sorted by seed."""


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
    """Return the comparisons in the order of tasks and methods; their p values are adjusted together."""
    groups, sign = _grouped(records), -1 if study.reference_first else 1
    keys = [key for key in groups if key[1] != study.reference]
    pairs = [(groups[task, method], groups[task, study.reference]) for task, method in keys]
    gains = [[sign * (own - other) for own, other in zip(*map(_psnr, pair), strict=True)] for pair in pairs]
    found = []
    for (task, method), pair, difference in zip(keys, pairs, compare(gains), strict=True):
        seconds = [[record["training_seconds"] for record in group if "training_seconds" in record] for group in pair]
        slowdown = fmean(seconds[0]) / fmean(seconds[1]) if all(seconds) else None
        ratios = [float(record["ratio"]) for record in pair[0] if record.get("ratio") is not None]
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

    ``numbers`` contains steps, sizes and rates by name, for the introduction.
    """
    groups, comparisons = _grouped(records), compare_methods(study, records)
    tasks = list(dict.fromkeys(task for task, _ in groups))
    images = "the bundled photographs" if command.data is None else f"the images of {command.data}"
    introduction = _introduction(study, command, records, pretrained, {"images": images, **(numbers or {})})
    sections = [_task(study, task, groups, comparisons) for task in tasks]
    if pretrained:
        titles = {method: study.title_of(method) for method in study.methods}
        sections += [*residuals_sections(pretrained, titles), _pretrainings(study, pretrained)]
    sections.append(_tests(study, comparisons))
    sections.append(Section("What the results mean", [*introduction, *_findings(study, comparisons)]))
    data = {
        "mcir": mcir.__version__,
        "quick": command.quick,
        study.flag.removeprefix("--"): command.features,
        "images": images,
        **(numbers or {}),
        "orders": {task: best_first(_means(groups, task)) for task in tasks},
        **({"paper": {task: study.paper[task] for task in tasks}} if study.paper else {}),
        "comparisons": [
            _comparison_data(study, part, groups[part.task, part.method], len(comparisons)) for part in comparisons
        ],
        **({"pretrainings": list(pretrained)} if pretrained else {}),
        "runs": list(records),
    }
    return Report(study.title, sections), data


def _comparison_data(study: Study, part: Comparison, group: Sequence[Record], tests: int) -> dict[str, Any]:
    finite = [value for value in _psnr(group) if math.isfinite(value)]
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


def _introduction(
    study: Study,
    command: StudyCommand,
    records: Sequence[Record],
    pretrained: Sequence[Record],
    numbers: Mapping[str, Any],
) -> list[str]:
    fields = {
        "trainings": counted(len(records), "training"),
        "pretrainings": counted(len(pretrained), "pre-training"),
        "seeds": counted(len({record["seed"] for record in records}), "seed"),
        "features": command.features,
        "minutes": f"{sum(record['seconds'] for record in (*records, *pretrained)) / 60:.1f}",
        "torch": (*pretrained, *records)[0]["torch"],
        "half_batch": int(numbers.get("batch", 0)) // 2,
    }
    paragraphs = [study.introduction.format(**fields, **numbers)]
    if study.random_features and command.features == "random":
        paragraphs.append(study.random_features)
    if command.quick:
        paragraphs.append("This was a quick run that only checks that everything works: its numbers mean nothing.")
    return paragraphs


def _findings(study: Study, comparisons: Sequence[Comparison]) -> list[str]:
    """Return what the comparisons show, and what they cannot show."""
    if not comparisons:
        return []
    paragraphs = [
        f"{study.difference} p is the p value of Student's paired t-test, adjusted by Holm's method for the "
        f"{counted(len(comparisons), 'comparison')} on this page. A difference with an adjusted p below {ALPHA} is "
        "called significant. The interval covers the variation between seeds, not between images: the held-out images "
        "are always the same.",
        *(_sentence(study, part) for part in comparisons),
    ]
    weak = [part for part in comparisons if part.is_too_weak]
    if weak:
        names = " and ".join(f"“{study.title_of(method)}”" for method in dict.fromkeys(part.method for part in weak))
        paragraphs.append(
            f"A contrastive loss with a gradient ratio below {MIN_RATIO:g} is {_TOO_WEAK}: whatever the verdict, its "
            f"row shows the plain training with a small disturbance. These are {counted(len(weak), 'row')}, of {names}."
        )
    if any(part.difference.smallest_detectable() is not None for part in comparisons):
        paragraphs.append(
            "“Detectable” is the smallest mean difference in dB that would have been significant, given the spread of "
            f"the seeds: at the level {ALPHA} for a row alone, and at {ALPHA} / {len(comparisons)}, the level of the "
            "smallest p in Holm's method. This study cannot show smaller effects."
        )
    if not any(part.difference.is_significant for part in comparisons):
        paragraphs.append("No difference is significant: a study of this size shows none in either direction.")
    return paragraphs


def _sentence(study: Study, part: Comparison) -> str:
    names = [study.title_of(part.method), study.title_of(study.reference)]
    first, second = reversed(names) if study.reference_first else names
    weak = f", {_TOO_WEAK}" if part.is_too_weak else ""
    ratio = "" if part.ratio is None else f", at a gradient ratio of {part.ratio:.2g}{weak}"
    return f"{study.tasks[part.task]}: {first} against {second}: {part.difference.sentence()}{ratio}."


# -- one task ---------------------------------------------------------------------------------------------------------


def _task(study: Study, task: str, groups: _Groups, comparisons: Sequence[Comparison]) -> Section:
    means = _means(groups, task)
    own = {part.method: part for part in comparisons if part.task == task}
    with_times = any(part.slowdown is not None for part in own.values())
    gain = f"{study.title_of(study.reference)} minus this method" if study.reference_first else "gain"
    head = ["method", "PSNR", "SSIM", gain, "95 % interval", "adjusted p"]
    rows = [[*head, *(["time per step", "gradient ratio"] if with_times else []), "verdict"]]
    for method in best_first(means) if study.paper else means:
        psnr, ssim = ([float(record[key]) for record in groups[task, method]] for key in ("psnr", "ssim"))
        cells = [study.title_of(method), mean_of(psnr, 3), mean_of(ssim, 4)]
        cells += _comparison_cells(own[method], with_times) if method in own else [MISSING] * (len(rows[0]) - 3)
        rows.append(cells)
    values = [record.get("psnr_of_input") for method in means for record in groups[task, method]]
    paragraphs = [_input_sentence(study, task, float(next(filter(None, values), math.nan)), means)]
    if with_times:
        paragraphs.append(
            "The gradient ratio is the norm of the contrastive loss's gradient at the output, relative to that of the "
            "pixel loss. Times are relative to a step of the plain training."
        )
    weak_gains = [gain for part in own.values() if part.is_too_weak for gain in part.difference.gains]
    if weak_gains:
        paragraphs.append(
            f"In the rows whose loss is {_TOO_WEAK}, the disturbance alone changed single seeds by "
            f"{signed(min(weak_gains), 3)} … {signed(max(weak_gains), 3)} dB. Differences of that size between two "
            "trainings of this task are chance."
        )
    paragraphs += order_sentences(study, task, means)
    figures = _figures(study, task, groups, list(own.values()))
    return Section(study.tasks[task], table=rows, figures=figures, notes=paragraphs)


def _tests(study: Study, comparisons: Sequence[Comparison]) -> Section:
    """Return the section with the statistics of all comparisons."""
    rows = [["method", "task", "seeds better", "p", "adjusted p", "detectable"]]
    for part in comparisons:
        _, _, better, p, adjusted = part.difference.cells()
        limits = [part.difference.smallest_detectable(tests) for tests in (1, len(comparisons))]
        detectable = " / ".join(f"{limit:.3f}" for limit in limits if limit is not None) or MISSING
        rows.append([study.title_of(part.method), study.tasks[part.task], better, p, adjusted, detectable])
    return Section("Tests of all comparisons", table=rows if comparisons else [])


def _comparison_cells(part: Comparison, with_times: bool) -> list[str]:
    mean, interval, _, _, adjusted = part.difference.cells()
    cells = [mean, interval, adjusted]
    if with_times:
        cells.append(MISSING if part.slowdown is None else f"{part.slowdown:.2f}")
        cells.append(MISSING if part.ratio is None else f"{part.ratio:.2g}")
    return [*cells, part.difference.verdict() + (f"; {_TOO_WEAK}" if part.is_too_weak else "")]


def _input_sentence(study: Study, task: str, value: float, means: Mapping[str, float]) -> str:
    subject = "Bicubic enlargement of the input has" if task == "sr" else "The degraded images themselves have"
    worse = [study.short_title_of(method) for method in best_first(means) if not means[method] > value]
    rest = f"these methods are not better: {', '.join(worse)}" if worse else "every method is better"
    return f"{subject} {value:.2f} dB; {rest}."


def _figures(study: Study, task: str, groups: _Groups, comparisons: Sequence[Comparison]) -> list[Figure]:
    found = {study.short_title_of(part.method): part.difference.interval for part in comparisons}
    intervals = {name: interval for name, interval in found.items() if interval}
    figures = []
    if intervals:
        limits = {name: (interval.low, interval.high) for name, interval in intervals.items()}
        means = {name: interval.mean for name, interval in intervals.items()}
        figures.append(bars(means, "Mean difference in PSNR and its 95 % interval", "dB", limits))
    series = {}
    for method in study.methods:
        lines = [record["curve"] for record in groups.get((task, method), ()) if "curve" in record]
        points = [(group[0][0], fmean(float(psnr) for _, psnr in group)) for group in zip(*lines, strict=True)]
        if points and all(math.isfinite(mean) for _, mean in points):
            series[study.short_title_of(method)] = points
    if series:
        figures.append(curves(series, "PSNR on held-out images, mean of the seeds", "iteration", "dB"))
    return figures


def _pretrainings(study: Study, pretrained: Sequence[Record]) -> Section:
    rows = [["pre-training", "PSNR without a new layer", "seconds"]]
    for (task, method), group in _grouped(pretrained).items():
        name = study.title_of(method) + (f", {study.tasks[task].lower()}" if task else "")
        rows.append([name, mean_of(_psnr(group), 3), f"{fmean(record['seconds'] for record in group):.0f}"])
    paragraph = (
        "PSNR of the networks on held-out images right after the pre-training, with their own last layer and, except "
        "for the oracle, without labels. RCL is not trained to denoise, and the dense contrastive methods are not even "
        "trained to output images."
    )
    return Section("The pre-trainings", [paragraph], rows)


def _grouped(records: Sequence[Record]) -> _Groups:
    groups: _Groups = {}
    for record in sorted(records, key=lambda record: record["seed"]):
        groups.setdefault((record["task"], record["method"]), []).append(record)
    return groups


def _psnr(group: Sequence[Record]) -> list[float]:
    return [float(record["psnr"]) for record in group]


def _means(groups: _Groups, task: str) -> dict[str, float]:
    return {method: fmean(_psnr(group)) for (name, method), group in groups.items() if name == task}
