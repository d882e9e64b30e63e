"""What a table of residual contrastive learning tells: its numbers as data and as pages, beside the paper's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mcir
from mcir.report.figures import Figure, curves
from mcir.report.page import Report, Section
from mcir.tables.formatting import counted, digits_of, signed
from mcir.tables.paper import NOT_ENTERED
from mcir.tables.proxy_plan import RANDOM, TASKS
from mcir.tables.proxy_report import Result, spread, summary
from mcir.tables.rcl_paper import METRICS, Column, RclRow, RclTable

Otherwise = Mapping[tuple[str, str], list[str] | None]
"""By option file and weights, how a pre-training differs from what its row says; None: nobody knows."""

_OTHERWISE = " ¶"


class Found:
    """What was found: for each row and column the mean over the trials, and what the degraded images measure.

    Args:
        otherwise: of the pre-trainings that are used.
        everywhere: what decides all numbers, by its name; what is empty is not there.
        by_column: what decides those of a column, by its name, by the name of the column.
    """

    def __init__(
        self,
        otherwise: Otherwise | None = None,
        everywhere: Mapping[str, Any] | None = None,
        by_column: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.everywhere = everywhere or {}
        self.by_column = by_column or {}
        self._otherwise = otherwise or {}
        self._cells: dict[tuple[str, str], dict[str, Any]] = {}
        self._inputs: dict[str, dict[str, float]] = {}

    def add(self, columns: Sequence[Column], results: Sequence[Result]) -> None:
        """Add the results of columns that differ in their numbers of labels."""
        by_labels = {column.labels: column.name for column in columns}
        for entry in summary(results):
            self._cells[entry["weights"], by_labels[entry["labels"]]] = entry
        for result in results[:1]:
            given = {"psnr": result.psnr_of_input, "ssim": result.ssim_of_input}
            self._inputs |= {column.name: given for column in columns}

    def of(self, row: RclRow, column: Column) -> dict[str, Any]:
        """Return the means of a cell, with ``trials``; empty without any."""
        return self._cells.get((row.weights, column.name), {})

    def of_input(self, column: Column) -> dict[str, float]:
        """Return what the degraded images of a column measure, enlarged bicubically where the task enlarges."""
        return self._inputs.get(column.name, {})

    def otherwise(self, row: RclRow, column: Column) -> list[str] | None:
        """Return how what a row starts from was trained otherwise than it says; None where nobody knows."""
        return self._otherwise.get((column.option, row.weights), [])

    def is_whole(self, table: RclTable, trials: int) -> bool:
        """Return whether every cell has all its trials, of a pre-training as its row says.

        Without labels there is one trial, and none from scratch.
        """
        return all(
            self.of(row, column).get("trials", 0) == (trials if column.labels else 1)
            and not self.otherwise(row, column)
            for row in table.rows
            for column in table.columns
            if column.labels or row.weights != RANDOM
        )


def as_data(table: RclTable, found: Found) -> dict[str, Any]:
    """Return a table as JSON has it."""
    rows = [
        {"row": row.name, "weights": row.weights, "columns": {c.name: _cell(row, c, found) for c in table.columns}}
        for row in table.rows
    ]
    columns = [
        {
            **column.model_dump(mode="json"),
            "conditions": dict(found.by_column.get(column.name, {})),
            "input": found.of_input(column),
        }
        for column in table.columns
    ]
    given: dict[str, Any] = {"table": table.name, "title": table.title, "mcir": mcir.__version__, "notes": table.notes}
    given |= {"finetune": table.finetune, "steps": table.steps, "conditions": dict(found.everywhere)}
    return {**given, "columns": columns, "rows": rows}


def _cell(row: RclRow, column: Column, found: Found) -> dict[str, Any]:
    ours, cell = found.of(row, column), {}
    for metric in METRICS:
        published, mean = row.number(column.name, metric), ours.get(metric)
        value = None if published is None else published.value
        cell[metric] = {
            "published": value,
            "source": NOT_ENTERED if published is None else published.source,
            "ours": mean,
            "std": ours.get(f"{metric}_std"),
            "trials": ours.get("trials", 0),
            "trained_otherwise": found.otherwise(row, column) if ours else None,
            "difference": None if mean is None or value is None else mean - value,
        }
    return cell


def tell(table: RclTable, found: Found, lacking: Sequence[str]) -> Report:
    """Return the pages of a table."""
    sections = [Section("What is compared", _conditions(table, found), _by_group(table, found))]
    sections += [_numbers(table, found, metric) for metric in METRICS]
    sections.append(Section("PSNR by labels", figures=_by_labels(table, found) if table.finetune else []))
    sections.append(Section("What is to be known", table.notes))
    sections.append(Section("Trainings, and what is missing", code="\n".join(lacking)))
    kept = [part for part in sections if part.paragraphs or part.table or part.figures or part.code]
    return Report(f"{table.name}: {table.title}", kept)


def _conditions(table: RclTable, found: Found) -> list[str]:
    labels = "the labelled images" if table.finetune else counted(table.columns[0].labels, "labelled image")
    how = "all weights are trained on" if table.finetune else "all is frozen but a new last layer, which is trained on"
    told = [
        f"From each row's weights, {how} {labels}: {counted(table.steps, 'step')}, the same images, order and seeds "
        "for every row. Mean ± standard deviation over the trials (the paper gives means of five); RGB, no border left "
        "out."
    ]
    given = {key: ", ".join(map(str, v)) if isinstance(v, list) else v for key, v in found.everywhere.items()}
    if given:
        told.append("; ".join(f"{key}: {value}" for key, value in given.items()) + ".")
    for row in table.rows:
        ways = {c.option: of for c in table.columns if found.of(row, c) and (of := found.otherwise(row, c))}
        told += [f"¶ {row.name} was pre-trained otherwise ({of}): {', '.join(way)}." for of, way in ways.items()]
    return told


def _by_group(table: RclTable, found: Found) -> list[list[str]]:
    """Return the conditions as a table; columns that are evaluated at once have them in common."""
    groups = [(columns, found.by_column.get(columns[0].name, {})) for columns in table.groups()]
    rows = [
        [", ".join(c.name for c in columns), *("–" if value is None else str(value) for value in given.values())]
        for columns, given in groups
        if given
    ]
    head = next((["column", *given] for _, given in groups if given), [])
    return [head, *rows] if rows else []


def _numbers(table: RclTable, found: Found, metric: str) -> Section:
    digits = digits_of(metric)
    head = ["row", *(f"{c.name}: {what}" for c in table.columns for what in ("paper", "ours", "difference"))]
    enlarged = any(TASKS[column.task].scale > 1 for column in table.columns)
    given = ["bicubic enlargement" if enlarged else "the input itself"]
    for column in table.columns:
        value = found.of_input(column).get(metric)
        given += ["–", "–" if value is None else f"{value:.{digits}f}", "–"]
    rows, sources, marked = [head, given], dict[str, list[str]](), False
    for row in table.rows:
        cells = [row.name]
        for column in table.columns:
            cell, ours = _cell(row, column, found)[metric], found.of(row, column)
            mark = _OTHERWISE if cell["trained_otherwise"] else ""
            marked = marked or bool(mark)
            if cell["published"] is not None:
                sources.setdefault(cell["source"], []).append(f"{row.name} ({column.name})")
            cells += [
                "–" if cell["published"] is None else f"{cell['published']:.{digits}f}",
                "–" if not ours else f"{spread(ours[metric], ours[f'{metric}_std'], digits)} ({ours['trials']}){mark}",
                "–" if cell["difference"] is None else signed(cell["difference"], digits),
            ]
        rows.append(cells)
    told = [f"“–” in a column of the paper: {NOT_ENTERED}. In brackets: the number of trials."]
    if marked:
        told.append("¶ pre-trained otherwise than the row says; how stands above.")
    told += [f"From {source}: {', '.join(places)}." for source, places in sources.items()]
    return Section({"psnr": "PSNR in dB", "ssim": "SSIM"}[metric], told, rows)


def _by_labels(table: RclTable, found: Found) -> list[Figure]:
    series: dict[str, list[tuple[float, float]]] = {}
    for row in table.rows:
        for column in table.columns:
            cell = _cell(row, column, found)["psnr"]
            for whose, value in (("paper", cell["published"]), ("ours", cell["ours"])):
                if value is not None and column.labels:
                    series.setdefault(f"{row.name}, {whose}", []).append((math.log10(column.labels), float(value)))
    if not series:
        return []
    return [curves(series, "PSNR by the number of labelled images", "log₁₀ of labelled images", "PSNR in dB")]
