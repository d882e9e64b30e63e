"""Figures of the compared rows of a table: training curves and images."""

from __future__ import annotations

from collections.abc import Sequence

from mcir.report.figures import curves
from mcir.report.page import Section
from mcir.report.records import read_run
from mcir.tables.evaluation import select_metric
from mcir.tables.pictures import compare_images, network_for
from mcir.tables.published import Row
from mcir.tables.results import Results
from mcir.tables.runs import TableRun


def training_curves(results: Results, runs: Sequence[TableRun]) -> Section:
    """Return the section with the first metric of compared rows during training."""
    section, metric = Section("During training"), results.table.metrics[0]
    for pair in results.compared_rows():
        for column in results.table.columns:
            series = {row.name: _curve(runs, row, column.name, metric) for row in pair}
            if all(series.values()):
                section.figures.append(curves(series, f"{column.name}, during training", "iteration", metric))
    return section


def _curve(runs: Sequence[TableRun], row: Row, data_set: str, metric: str) -> list[tuple[int, float]]:
    points: list[tuple[int, float]] = []
    for run in runs:
        if run.row.name == row.name and run.options is not None:
            found = select_metric(read_run(run.job.folder).metrics.get(data_set, {}), metric)
            points += found.points if found else []
    return points


def compared_images(results: Results, runs: Sequence[TableRun]) -> Section:
    """Return the section with restored images of compared rows, for the data sets with results of both rows."""
    section = Section("Images")
    for other, row in results.compared_rows():
        for name, numbers in results.table.pictures.items():
            if not all((each.name, name) in results.cells for each in (other, row)):
                continue
            first, second = (network_for(runs, each, name) for each in (other, row))
            if first is None or second is None:
                continue
            try:
                section.figures += [image.figure for image in compare_images(first, second, name, numbers)]
            except (ValueError, OSError) as error:  # the images may have changed since the evaluation
                section.paragraphs.append(f"{row.name}, {name}: {error}")
    return section
