"""What a table of the paper tells: its numbers as data and as pages, beside our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

import mcir
from mcir.data import to_device
from mcir.engine.checkpoint import load_into
from mcir.engine.distributed import DistContext, init_distributed
from mcir.engine.tester import Tester
from mcir.registry import DATASETS
from mcir.report.comparison import error_map, picture
from mcir.report.figures import Figure, bars, curves, picture_figure
from mcir.report.page import Report, Section
from mcir.report.records import read_records
from mcir.tables.evaluated import Evaluated, column_of
from mcir.tables.formatting import digits_of, signed
from mcir.tables.paper import NOT_ENTERED, Row, Table
from mcir.tables.plan import Job, evaluation_parts

_LARGEST = 320  # pixels at each side of a picture in the page
_MARKS = {"paper": "", "release": " ‡", "authors": " †"}
_PUBLISHED, _OTHERWISE = " §", " ¶"


class Found:
    """What was found for a table.

    Args:
        table: the table.
        jobs: the trainings that were asked for.
        results: of those that could be evaluated.
        overrides: what the person laid over every option file.
    """

    def __init__(
        self, table: Table, jobs: Sequence[Job], results: Sequence[Evaluated], overrides: Sequence[str]
    ) -> None:
        self.table = table
        self.jobs = jobs
        self.results = results
        self.overrides = list(overrides)

    def of(self, row: Row, data_set: str) -> Evaluated | None:
        """Return the results of a row that a column is from."""
        of_row = (result for result in self.results if result.job.row is row)
        return next((result for result in of_row if data_set in result.sets), None)

    def ours(self, row: Row, data_set: str, metric: str) -> float | None:
        """Return our number, or None."""
        result = self.of(row, data_set)
        return None if result is None else result.score(data_set, metric)

    def pairs(self) -> list[tuple[Row, Row]]:
        """Return the rows that are compared with another one, each behind that."""
        return [(self.table.row(row.against), row) for row in self.table.rows if row.against]

    def gains(self, row: Row, metric: str) -> dict[str, float]:
        """Return by data set how much better a row is than the one that it is compared with, where both are alike."""
        if row.against is None:
            return {}
        other, gains = self.table.row(row.against), {}
        for name in self.table.sets:
            value, reference = self.ours(row, name, metric), self.ours(other, name, metric)
            if value is not None and reference is not None and not self.unlike(row, name):
                gains[name] = value - reference
        return gains

    def published_gains(self, row: Row, metric: str) -> dict[str, float]:
        """Return the same of the published numbers."""
        if row.against is None:
            return {}
        numbers = {n: (row.number(n, metric), self.table.row(row.against).number(n, metric)) for n in self.table.sets}
        return {
            name: own.value - other.value
            for name, (own, other) in numbers.items()
            if own and other and own.value is not None and other.value is not None
        }

    def unlike(self, row: Row, data_set: str) -> str:
        """Return why two rows differ in more than their names say, so that their difference is no gain; or nothing."""
        other = self.table.row(row.against) if row.against else row
        own, reference = self.of(row, data_set), self.of(other, data_set)
        if own is None or reference is None:
            return ""
        if own.is_own != reference.is_own:
            name = other.name if own.is_own else row.name
            return f"{name} is of published weights, of another training"
        if (own.otherwise or []) != (reference.otherwise or []):
            return f"{row.name} and {other.name} were not trained alike"
        return ""


# -- data -------------------------------------------------------------------------------------------------------------


def as_data(found: Found) -> dict[str, Any]:
    """Return a table as JSON has it."""
    table, rows = found.table, []
    for row in table.rows:
        cells = {name: {metric: _cell(found, row, name, metric) for metric in table.metrics} for name in table.sets}
        jobs = [job for job in found.jobs if job.row is row]
        left_out = [text for job in jobs for text in job.left_out]
        gains = {"mean_gain": found.gains, "mean_published_gain": found.published_gains}
        rows.append(
            {
                "row": row.name,
                "against": row.against,
                "weights": [str(use[1]) for job in jobs if (use := job.to_evaluate())],
                "problems": [result.problem for result in found.results if result.job.row is row and result.problem],
                "overrides_left_out": list(dict.fromkeys(left_out)),
                "sets": cells,
                **{
                    key: {metric: fmean(values.values()) for metric in table.metrics if (values := of(row, metric))}
                    for key, of in gains.items()
                },
            }
        )
    given = {"table": table.name, "title": table.title, "mcir": mcir.__version__, "coverage": table.coverage()}
    return {**given, "overrides": found.overrides, "notes": table.notes, "rows": rows}


def _cell(found: Found, row: Row, name: str, metric: str) -> dict[str, Any]:
    number, ours, result = row.number(name, metric), found.ours(row, name, metric), found.of(row, name)
    value = None if number is None else number.value
    return {
        "published": value,
        "by": None if number is None else number.by,
        "source": NOT_ENTERED if number is None else number.source,
        "ours": ours,
        "evaluated": None if result is None else "own" if result.is_own else "published",
        "trained_otherwise": None if result is None else result.otherwise,
        "difference": None if value is None or ours is None else ours - value,
        "gain": found.gains(row, metric).get(name),
        "published_gain": found.published_gains(row, metric).get(name),
    }


# -- pages ------------------------------------------------------------------------------------------------------------


def tell(found: Found, lacking: Sequence[str]) -> Report:
    """Return the pages of a table; ``lacking`` tells of its trainings and what is missing."""
    table = found.table
    sections = [Section("What is compared", _conditions(found)), *(_numbers(found, metric) for metric in table.metrics)]
    sections += [_gain_section(found), _curve_section(found), _picture_section(found)]
    sections.append(Section("The paper's slips, and what is to be known", table.notes))
    sections.append(Section("Trainings, and what is missing", code="\n".join(lacking)))
    kept = [part for part in sections if part.paragraphs or part.table or part.figures or part.code]
    return Report(f"{table.name}: {table.title}", kept)


def _conditions(found: Found) -> list[str]:
    told = [found.table.coverage()]
    if found.overrides:
        told.append(
            f"Laid over every option file, so that ours are not the recipes alone: {', '.join(found.overrides)}."
        )
    for job in found.jobs:
        if job.left_out:
            told.append(f"{job.row.name} goes without {', '.join(job.left_out)}: it has no such section.")
    for result in found.results:
        if result.otherwise:
            told.append(f"¶ {result.job.row.name} was trained otherwise: {', '.join(result.otherwise)}.")
    return told


def _numbers(found: Found, metric: str) -> Section:
    table, digits = found.table, digits_of(metric)
    head = ["row", *(f"{name}: {what}" for name in table.sets for what in ("published", "ours", "difference"))]
    rows, sources, marks = [head], dict[str, list[str]](), set[str]()
    for row in table.rows:
        cells = [row.name]
        for name in table.sets:
            number, result, ours = row.number(name, metric), found.of(row, name), found.ours(row, name, metric)
            value = None if number is None else number.value
            by, own = "", ""
            if number is not None:
                by = _MARKS[number.by]
                sources.setdefault(number.source + by, []).append(f"{row.name} ({name})")
            if result is not None:
                own = (_OTHERWISE if result.otherwise else "") if result.is_own else _PUBLISHED
                marks.add(own)
            cells += [
                "–" if value is None else f"{value:.{digits}f}{by}",
                "–" if ours is None else f"{ours:.{digits}f}{own}",
                "–" if value is None or ours is None else signed(ours - value, digits),
            ]
        rows.append(cells)
    told = [
        f"“–” in a column “published”: {NOT_ENTERED}. † published by the authors of the network, ‡ with the paper's "
        "released code, not in the paper itself as far as was checked."
    ]
    if _PUBLISHED in marks:
        told.append("§ measured here, but of published weights, which others trained: no training of ours.")
    if _OTHERWISE in marks:
        told.append("¶ trained otherwise than the row says; how stands above.")
    told += [f"From {source}: {', '.join(places)}." for source, places in sources.items()]
    return Section(metric, told, rows)


def _gain_section(found: Found) -> Section:
    section = Section("Gain over the same network without")
    rows = [["row", "against", "metric", "our mean gain", "over", "published mean gain", "over"]]
    for other, row in found.pairs():
        reasons = dict.fromkeys(found.unlike(row, name) for name in found.table.sets)
        section.paragraphs += [f"{row.name}: {reason}; no gain is told of them." for reason in reasons if reason]
        for metric in found.table.metrics:
            ours, published = found.gains(row, metric), found.published_gains(row, metric)
            if ours or published:
                rows.append([row.name, other.name, metric, *_mean(ours, metric), *_mean(published, metric)])
            if ours and metric == found.table.metrics[0]:
                section.figures.append(bars(ours, f"{row.name}: gain over {other.name} per set", metric))
    if len(rows) > 1:
        section.table = rows
    if not section.figures:
        section.paragraphs.append(
            "No row and the one it is compared with are both here, trained alike: no gain of ours to tell of."
        )
    return section


def _mean(gains: Mapping[str, float], metric: str) -> tuple[str, str]:
    """Return a mean gain and the sets that it is over."""
    return (signed(fmean(gains.values()), digits_of(metric) + 1), ", ".join(gains)) if gains else ("–", "–")


def _curve_section(found: Found) -> Section:
    section = Section("While they trained")
    metric = found.table.metrics[0]
    for other, row in found.pairs():
        for name in found.table.sets:
            series = {r.name: points for r in (other, row) if (points := _curve(found, r, name, metric))}
            if len(series) == 2:
                section.figures.append(curves(series, f"{name}, while training", "iteration", metric))
    return section


def _curve(found: Found, row: Row, data_set: str, metric: str) -> list[tuple[float, float]]:
    points: dict[int, float] = {}
    for job in found.jobs:
        if job.row.name == row.name and job.options is not None:
            points |= _history(job.folder / "results.jsonl", data_set, metric)
    return sorted(points.items())


def _history(file: Path, data_set: str, metric: str) -> dict[int, float]:
    """Return a metric by iteration from the log of a run; of an iteration that stands there twice, the last."""
    found: dict[int, float] = {}
    for record in read_records(file):
        if record["kind"] == "val" and record["dataset"] == data_set:
            value = column_of({key: entry for key, entry in record.items() if key != "images"}, metric)
            if value is not None:
                found[record["iteration"]] = float(value)
    return found


def _picture_section(found: Found) -> Section:
    section = Section("Pictures")
    for other, row in found.pairs():
        for name, numbers in found.table.pictures.items():
            first, second = found.of(other, name), found.of(row, name)
            if first is not None and second is not None:
                with init_distributed(second.options.num_gpu, second.options.dist_params) as process:
                    try:
                        for number in numbers:
                            section.figures += _side_by_side((first, second), name, number, process)
                    except (ValueError, OSError) as error:  # images that were there when they were evaluated
                        section.paragraphs.append(f"{row.name}, {name}: {error}")
    return section


def _side_by_side(pair: tuple[Evaluated, Evaluated], data_set: str, number: int, process: DistContext) -> list[Figure]:
    """Return input, both outputs, ground truth and the divergence of the outputs (the paper's Fig. 5), cut alike."""
    labels = [result.job.row.name for result in pair]
    outputs: list[Tensor] = []
    for result in pair:
        part = next(part for part in evaluation_parts(result.options).values() if part.name == data_set)
        dataset = DATASETS.build(part.section)
        if number >= len(dataset):
            return []
        item = dataset[number]
        batch = to_device({**item, "lq": item["lq"][None], "gt": item["gt"][None]}, process.device)
        tester = Tester(result.options, process)
        load_into(tester.model, result.checkpoint)
        outputs.append(tester.model.restore(batch["lq"])[0])
    lq, gt = batch["lq"][0], batch["gt"][0]
    scale = gt.shape[-1] // lq.shape[-1]
    outputs, gt = [_middle(output, lq, scale) for output in outputs], _middle(gt, lq, scale)
    lq = _middle(lq, lq, 1, _LARGEST // scale).repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    named = f"{data_set}, image {number}"
    figures = [
        picture_figure(picture(image), f"{named}: {label}")
        for image, label in zip((lq, *outputs, gt), ("input", *labels, "ground truth"), strict=True)
    ]
    errors = (outputs[0].clamp(0, 1) - outputs[1].clamp(0, 1)).abs().float().mean(0)
    limit = max(1.0, 255 * float(torch.quantile(errors, 0.99)))
    told = f"{named}: divergence |{labels[0]} − {labels[1]}| (bright: {limit:.1f} of 255, the 99th percentile or 1)"
    return [*figures, picture_figure(error_map(outputs[0], outputs[1].clamp(0, 1), limit), told)]


def _middle(image: Tensor, lq: Tensor, scale: int, side: int = _LARGEST) -> Tensor:
    """Return of an image (C, H, W) the part, at most ``side`` high and wide, that belongs to the middle of ``lq``."""
    within = side // scale
    top, left = (scale * max(0, (length - within) // 2) for length in lq.shape[1:])
    return image[:, top : top + within * scale, left : left + within * scale]
