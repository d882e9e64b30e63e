"""The report of a table: our results, the published results, gains, curves and images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from mcir.report.figures import bars, curves
from mcir.report.page import Report, Section
from mcir.tables.formatting import MISSING, counted, decimals, signed
from mcir.tables.proxy_plan import TASKS
from mcir.tables.published import Table
from mcir.tables.render import page
from mcir.tables.results import Cell, Results

_PUBLISHER_MARKS = {"paper": "", "release": " ‡", "authors": " †"}
_PUBLISHED_WEIGHTS, _OTHER_OPTIONS = " §", " ¶"
_METRICS = {"psnr": "PSNR in dB", "ssim": "SSIM"}


def table_report(results: Results, missing: Sequence[str]) -> Report:
    """Return the report of a table; ``missing`` are lines about the state of the trainings and what is missing."""
    table = results.table
    return page(
        f"{table.name}: {table.title}",
        [
            Section("What is compared", _introduction(results), _column_conditions(results)),
            *(_numbers(results, metric) for metric in table.metrics),
            *([_gains(results)] if results.compared_rows() else []),
            *results.sections,
            Section("Notes on the paper and on open questions", table.notes),
            Section("Trainings, and what is missing", code="\n".join(missing)),
        ],
    )


def _introduction(results: Results) -> list[str]:
    table = results.table
    paragraphs = [_proxy_evaluation(table)] if table.is_proxy else []
    paragraphs.append(table.coverage())
    conditions = {
        key: ", ".join(map(str, v)) if isinstance(v, list) else v for key, v in results.conditions.items() if v
    }
    if conditions:
        paragraphs.append("; ".join(f"{key}: {value}" for key, value in conditions.items()) + ".")
    return [*paragraphs, *results.remarks]


def _proxy_evaluation(table: Table) -> str:
    labels = "the labelled images" if table.finetune else counted(table.columns[0].labels, "labelled image")
    trained = "all weights are trained" if table.finetune else "only a new last layer is trained"
    return (
        f"Starting from the weights of each row, {trained} on {labels}: {counted(table.steps, 'step')}, with the same "
        "images, order and seeds for every row. Mean ± standard deviation over the trials (the paper reports means of "
        "five trials); metrics in RGB, including the border."
    )


def _column_conditions(results: Results) -> list[list[str]]:
    """Return a table of conditions with one row per group of columns that are evaluated together."""
    groups = [(group, results.column_conditions.get(group[0].name, {})) for group in results.table.groups()]
    rows = [
        [", ".join(c.name for c in group), *(MISSING if value is None else str(value) for value in conditions.values())]
        for group, conditions in groups
        if conditions
    ]
    head = next((["column", *conditions] for _, conditions in groups if conditions), [])
    return [head, *rows] if rows else []


def _numbers(results: Results, metric: str) -> Section:
    table, digits = results.table, decimals(metric)
    head = ["row", *(f"{c.name}: {what}" for c in table.columns for what in ("published", "ours", "difference"))]
    rows = [head, *([_input_row(results, metric)] if table.is_proxy else [])]
    sources: dict[str, list[str]] = {}
    marks: set[str] = set()
    for row in table.rows:
        cells = [row.name]
        for column in table.columns:
            number, cell = row.number(column.name, metric), results.cell(row, column)
            published, ours = results.published(row, column, metric), results.ours(row, column, metric)
            by = "" if number is None else _PUBLISHER_MARKS[number.by]
            if number is not None:
                sources.setdefault(number.source + by, []).append(f"{row.name} ({column.name})")
            mark = _mark(cell)
            trials = f" ({cell.trials})" if cell is not None and table.is_proxy else ""
            marks.add(mark)
            cells += [
                MISSING if published is None else f"{published:.{digits}f}{by}",
                MISSING if ours is None or cell is None else cell.text(metric) + trials + mark,
                MISSING if published is None or ours is None else signed(ours - published, digits),
            ]
        rows.append(cells)
    return Section(_METRICS.get(metric, metric), [*_legend(table, marks), *_sources(sources)], rows)


def _input_row(results: Results, metric: str) -> list[str]:
    """Return the row with the metrics of the degraded images."""
    enlarged = any(TASKS[column.task].scale > 1 for column in results.table.columns)
    cells = ["bicubic enlargement" if enlarged else "the input itself"]
    for column in results.table.columns:
        value = results.inputs.get(column.name, {}).get(metric)
        cells += [MISSING, MISSING if value is None else f"{value:.{decimals(metric)}f}", MISSING]
    return cells


def _mark(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return _PUBLISHED_WEIGHTS if not cell.is_own else _OTHER_OPTIONS if cell.differences else ""


def _legend(table: Table, marks: set[str]) -> list[str]:
    missing = f"“{MISSING}” in a column “published”: the number has not been read from the paper yet."
    paragraphs = [
        f"{missing} In parentheses: the number of trials."
        if table.is_proxy
        else f"{missing} † published by the authors of the network. ‡ published with the paper's released code, not "
        "checked in the paper itself."
    ]
    if _PUBLISHED_WEIGHTS in marks:
        paragraphs.append("§ measured here with published weights, not with weights from our own training.")
    if _OTHER_OPTIONS in marks:
        paragraphs.append("¶ trained with options that differ from the row; the differences are listed above.")
    return paragraphs


def _sources(sources: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"From {source}: {', '.join(cells)}." for source, cells in sources.items()]


def _gains(results: Results) -> Section:
    section = Section("Gain over the same network without negatives")
    rows = [["row", "against", "metric", "our mean gain", "over", "published mean gain", "over"]]
    metrics = results.table.metrics
    for other, row in results.compared_rows():
        reasons = dict.fromkeys(results.incomparable(row, column) for column in results.table.columns)
        section.paragraphs += [f"{row.name}: {reason}, so no gain is shown." for reason in reasons if reason]
        for metric in metrics:
            ours, published = results.gains(row, metric), results.gains(row, metric, published=True)
            if ours or published:
                rows.append([row.name, other.name, metric, *_mean_gain(ours, metric), *_mean_gain(published, metric)])
            if ours and metric == metrics[0]:
                section.figures.append(bars(ours, f"{row.name}: gain over {other.name} per data set", metric))
    if len(rows) > 1:
        section.table = rows
    if not section.figures:
        section.paragraphs.append("We have no gain: no two comparable rows have results.")
    return section


def _mean_gain(gains: Mapping[str, float], metric: str) -> tuple[str, str]:
    """Return a mean gain and the names of its columns."""
    if not gains:
        return MISSING, MISSING
    return signed(fmean(gains.values()), decimals(metric) + 1), ", ".join(gains)


def curves_by_labels(results: Results) -> Section:
    """Return the section with PSNR by number of labelled images."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in results.table.rows:
        for column in results.table.columns:
            ours, published = results.ours(row, column, "psnr"), results.published(row, column, "psnr")
            for name, value in (("paper", published), ("ours", ours)):
                if value is not None and column.labels:
                    series.setdefault(f"{row.name}, {name}", []).append((math.log10(column.labels), value))
    title = "PSNR by the number of labelled images"
    figures = [curves(series, title, "log₁₀ of labelled images", "PSNR in dB")] if series else []
    return Section(title, figures=figures)
