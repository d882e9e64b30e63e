"""The report of a table: our results and the published ones first, then gains, curves and images, footnotes last."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mcir.report.figures import curves, grouped_bars
from mcir.report.page import Report, Section
from mcir.tables.formatting import MISSING, counted, decimals, signed
from mcir.tables.proxy_plan import TASKS
from mcir.tables.published import COLLAPSED, Column, Row, Table
from mcir.tables.results import Cell, Results

_PUBLISHER_MARKS = {"paper": "", "release": " ‡", "authors": " †"}
_PUBLISHED_WEIGHTS, _OTHER_OPTIONS = " §", " ¶"
_METRICS = {
    "psnr": "PSNR in dB",
    "ssim": "SSIM",
    "psnr_y": "PSNR of Y in dB",
    "ssim_y": "SSIM of Y",
    "ssim_3d": "SSIM over height, width and colour",
}


def table_report(results: Results, missing: Sequence[str]) -> Report:
    """Return the report of a table; ``missing`` are lines about the state of the trainings and what is missing."""
    table = results.table
    tables = {metric: _numbers(results, metric) for metric in table.metrics}
    return Report(
        f"{table.name}: {table.title}",
        [
            *(Section(_METRICS.get(metric, metric), _no_results(rows), rows) for metric, rows in tables.items()),
            *([_gains(results)] if results.compared_rows() else []),
            *results.sections,
            Section("What is compared", _introduction(results), _column_conditions(results)),
            Section("Signs in the tables, and sources", _footnotes(table, tables)),
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


def _numbers(results: Results, metric: str) -> list[list[str]]:
    """Return the rows of a metric below their head; an empty list if there is no number."""
    table = results.table
    head = ["row", *(f"{c.name}: {what}" for c in table.columns for what in ("published", "ours", "difference"))]
    rows = [head, *([_input_row(results, metric)] if table.is_proxy else [])]
    for row in table.rows:
        rows.append([row.name, *(text for column in table.columns for text in _texts(results, row, column, metric))])
    rows = _without_empty_columns(rows)
    return rows if len(rows[0]) > 1 else []


def _texts(results: Results, row: Row, column: Column, metric: str) -> tuple[str, str, str]:
    """Return the published number, ours, and the difference."""
    number, cell = row.number(column.name, metric), results.cell(row, column)
    published, ours = results.published(row, column, metric), results.ours(row, column, metric)
    measured = MISSING if cell is None else cell.text(metric)
    if cell is not None and measured != MISSING:
        trials = f" ({cell.trials})" if results.table.is_proxy and not cell.collapse else ""
        measured += trials + _mark(cell)
    return (
        MISSING if number is None else number.text + _PUBLISHER_MARKS[number.by],
        measured,
        MISSING if number is None or published is None or ours is None else signed(ours - published, number.digits),
    )


def _without_empty_columns(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return a table without the columns that contain nothing below the head."""
    kept = [number for number, (_, *texts) in enumerate(zip(*rows, strict=True)) if any(t != MISSING for t in texts)]
    return [[row[number] for number in kept] for row in rows]


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


def _no_results(rows: Sequence[Sequence[str]]) -> list[str]:
    has_ours = any(name.endswith(": ours") for head in rows[:1] for name in head)
    return ["We have no results yet."] if rows and not has_ours else []


def _footnotes(table: Table, tables: Mapping[str, Sequence[Sequence[str]]]) -> list[str]:
    """Return the explanations of the marks in the tables of all metrics, and the sources of the published numbers."""
    rows = [row for rows in tables.values() for row in rows]
    sources = {metric: _sources(table, metric) for metric, found in tables.items() if found}
    if len(set(map(tuple, sources.values()))) == 1:
        return [*_legend(table, rows), *next(iter(sources.values()))]
    named = [f"{_METRICS.get(metric, metric)}: {' '.join(found)}" for metric, found in sources.items() if found]
    return [*_legend(table, rows), *named]


def _legend(table: Table, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the explanations of the marks that rows of texts contain."""
    texts = {
        MISSING: f"“{MISSING}” in a column “published”: there is no published number.",
        " †": "† published by the authors of the network.",
        " ‡": "‡ only in the README of the paper's released code.",
        _PUBLISHED_WEIGHTS: "§ measured here with published weights, not with weights from our own training.",
        _OTHER_OPTIONS: "¶ trained with options that differ from the row; “What is compared” lists the differences.",
        COLLAPSED: f"“{COLLAPSED}”: the training diverged (NaN or infinite values at an iteration), or its network is "
        "worse than the degraded images themselves (“below the input”).",
    }
    found = [text for mark, text in texts.items() if any(mark in cell for row in rows for cell in row)]
    has_trials = table.is_proxy and not _no_results(rows)
    return [*found, "In parentheses: the number of trials."] if has_trials and rows else found


def _sources(table: Table, metric: str) -> list[str]:
    """Return sentences about the sources of the published numbers: the rows of all but the most frequent source."""
    rows: dict[str, list[str]] = {}
    for row in table.rows:
        for number in row.numbers:
            if number.metric == metric:
                rows.setdefault(number.source + _PUBLISHER_MARKS[number.by], []).append(row.name)
    most = max(rows, key=lambda source: len(rows[source]), default=None)
    others = [f"From {source}: {', '.join(dict.fromkeys(names))}." for source, names in rows.items() if source != most]
    return [*others, f"{'The other' if others else 'The'} published numbers are from {most}."] if most else []


def _gains(results: Results) -> Section:
    table = results.table
    section = Section("Gain over the same network without negatives")
    rows = [["row", "metric", *(f"{c.name}: {what}" for c in table.columns for what in ("published", "ours"))]]
    for other, row in results.compared_rows():
        reasons = dict.fromkeys(results.incomparable(row, column) for column in table.columns)
        section.paragraphs += [f"{row.name}: {reason}, so no gain is shown." for reason in reasons if reason]
        for metric in table.metrics:
            cells = [text for column in table.columns for text in _gain_texts(results, other, row, column, metric)]
            if any(text != MISSING for text in cells):
                rows.append([f"{row.name}, over {other.name}", metric, *cells])
        if ours := results.gains(row, table.metrics[0]):
            series = {"published": results.gains(row, table.metrics[0], published=True), "ours": ours}
            title = f"{row.name}: gain over {other.name} per data set"
            section.figures.append(grouped_bars(series, title, table.metrics[0]))
    if len(rows) > 1:
        section.table = _without_empty_columns(rows)
    if not section.figures:
        section.paragraphs.append("We have no gain: no two comparable rows have results.")
    return section


def _gain_texts(results: Results, other: Row, row: Row, column: Column, metric: str) -> tuple[str, str]:
    """Return the published gain of a row over another one, and ours, in one column; a collapse is shown instead."""
    number, cell = row.number(column.name, metric), results.cell(row, column)
    published, ours = MISSING, MISSING
    if number is not None and results.published(other, column, metric) is not None:
        gain = results.gains(row, metric, published=True).get(column.name)
        published = number.text if gain is None else signed(gain, number.digits)
    if cell is not None and results.ours(other, column, metric) is not None:
        gain = results.gains(row, metric).get(column.name)
        if gain is not None:
            ours = signed(gain, decimals(metric) + 1) + _mark(cell)
        elif cell.collapse:
            ours = cell.text(metric)
    return published, ours


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
