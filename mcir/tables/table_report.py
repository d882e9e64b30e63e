"""The report of a table: our results, the published results, gains, curves and images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mcir.report.figures import bars, curves
from mcir.report.page import Report, Section
from mcir.tables.formatting import MISSING, counted, decimals, signed
from mcir.tables.proxy_plan import TASKS
from mcir.tables.published import COLLAPSED, Column, Row, Table
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
    table = results.table
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
            trials = f" ({cell.trials})" if cell is not None and table.is_proxy and not cell.collapse else ""
            marks |= {by, mark}
            printed = MISSING if number is None else number.text
            measured = MISSING if cell is None else cell.text(metric)
            marks |= {COLLAPSED} if COLLAPSED in printed + measured else set()
            difference = None if published is None or ours is None else ours - published
            cells += [
                printed + by,
                measured if measured == MISSING else measured + trials + mark,
                MISSING if number is None or difference is None else signed(difference, number.digits),
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
    texts = {
        " †": "† published by the authors of the network.",
        " ‡": "‡ only in the README of the paper's released code.",
        _PUBLISHED_WEIGHTS: "§ measured here with published weights, not with weights from our own training.",
        _OTHER_OPTIONS: "¶ trained with options that differ from the row; the differences are listed above.",
        COLLAPSED: f"“{COLLAPSED}”: the training diverged (NaN or infinite values at an iteration), or its network is "
        "worse than the degraded images themselves (“below the input”).",
    }
    trials = " In parentheses: the number of trials." if table.is_proxy else ""
    first = f"“{MISSING}” in a column “published”: there is no published number.{trials}"
    return [first, *(text for mark, text in texts.items() if mark in marks)]


def _sources(sources: Mapping[str, Sequence[str]]) -> list[str]:
    """Return sentences about the sources: the cells of all but the most frequent one."""
    most = max(sources, key=lambda source: len(sources[source]), default=None)
    others = [f"From {source}: {', '.join(cells)}." for source, cells in sources.items() if source != most]
    return [*others, f"{'The other' if others else 'The'} published numbers are from {most}."] if most else []


def _gains(results: Results) -> Section:
    table = results.table
    section = Section("Gain over the same network without negatives")
    rows = [["row", "metric", *(f"{c.name}: {what}" for c in table.columns for what in ("published", "ours"))]]
    for other, row in results.compared_rows():
        reasons = dict.fromkeys(results.incomparable(row, column) for column in table.columns)
        section.paragraphs += [f"{row.name}: {reason}, so no gain is shown." for reason in reasons if reason]
        for metric in table.metrics:
            cells = [text for column in table.columns for text in _gain_texts(results, row, column, metric)]
            if any(text != MISSING for text in cells):
                rows.append([f"{row.name}, over {other.name}", metric, *cells])
        if gains := results.gains(row, table.metrics[0]):
            title = f"{row.name}: gain over {other.name} per data set"
            section.figures.append(bars(gains, title, table.metrics[0]))
    if len(rows) > 1:
        section.table = rows
    if not section.figures:
        section.paragraphs.append("We have no gain: no two comparable rows have results.")
    return section


def _gain_texts(results: Results, row: Row, column: Column, metric: str) -> tuple[str, str]:
    """Return the published gain of a row and our gain in one column."""
    number, cell = row.number(column.name, metric), results.cell(row, column)
    published = results.gains(row, metric, published=True).get(column.name)
    ours = results.gains(row, metric).get(column.name)
    return (
        _gain_text(published, number.digits if number else 0, number.text if number else ""),
        _gain_text(ours, decimals(metric) + 1, cell.text(metric) if cell else "") + (_mark(cell) if ours else ""),
    )


def _gain_text(gain: float | None, digits: int, result: str) -> str:
    """Format a gain. Without one, return the text of the row's result if it collapsed."""
    if gain is not None:
        return signed(gain, digits)
    return result if result.startswith(COLLAPSED) else MISSING


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
