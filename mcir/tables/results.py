"""Our results and the published results of a table, their differences, and the gains of rows over other rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import mcir
from mcir.report.page import Section
from mcir.tables.formatting import MISSING, decimals, with_deviation
from mcir.tables.published import COLLAPSED, Column, Row, Table


@dataclass(frozen=True)
class Cell:
    """Our results for one row and column.

    Attributes:
        means: mean of each metric.
        stds: standard deviation of each metric over the trials.
        trials: number of trials.
        is_own: whether the weights are from our own training; otherwise they are published weights.
        differences: options that differ between the training and the row; None: unknown.
        collapse: how the training collapsed, for example ``iteration 1,200``; empty if it did not.
    """

    means: Mapping[str, float]
    stds: Mapping[str, float | None] = field(default_factory=dict)
    trials: int = 1
    is_own: bool = True
    differences: Sequence[str] | None = ()
    collapse: str = ""

    @classmethod
    def mean(cls, cells: Sequence[Cell]) -> Cell:
        """Return the mean of the results for several columns."""
        differences: list[str] | None = []
        for cell in cells:
            differences = None if differences is None or cell.differences is None else [*differences, *cell.differences]
        return cls(
            means={
                metric: fmean(cell.means[metric] for cell in cells)
                for metric in cells[0].means
                if all(metric in cell.means for cell in cells)
            },
            is_own=all(cell.is_own for cell in cells),
            differences=None if differences is None else list(dict.fromkeys(differences)),
            collapse=next((cell.collapse for cell in cells if cell.collapse), ""),
        )

    def text(self, metric: str) -> str:
        """Format the mean of a metric and, if there is one, its standard deviation."""
        if self.collapse:
            return f"{COLLAPSED} ({self.collapse})"
        if metric not in self.means:
            return MISSING
        return with_deviation(self.means[metric], self.stds.get(metric), decimals(metric))


@dataclass
class Results:
    """Our results for a table.

    Attributes:
        table: table.
        cells: results by the names of row and column.
        inputs: metrics of the degraded images themselves, by column.
        conditions: conditions that all results share, by name.
        column_conditions: conditions of the results of each column, by name.
        row_facts: additional JSON data of each row.
        remarks: remarks about trainings for the report.
        sections: sections with curves and images for the report.
        is_complete: whether every row has all results, from published weights or from a training with its options.
    """

    table: Table
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    inputs: dict[str, Mapping[str, float]] = field(default_factory=dict)
    conditions: Mapping[str, Any] = field(default_factory=dict)
    column_conditions: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    row_facts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    is_complete: bool = False

    def cell(self, row: Row, column: Column) -> Cell | None:
        """Return our results for a row and a column; a mean needs the results of all its columns."""
        if not column.mean_of:
            return self.cells.get((row.name, column.name))
        cells = [cell for name in column.mean_of if (cell := self.cells.get((row.name, name))) is not None]
        return Cell.mean(cells) if len(cells) == len(column.mean_of) else None

    def ours(self, row: Row, column: Column, metric: str) -> float | None:
        """Return our mean of a metric; None if there is none, or if the training collapsed."""
        cell = self.cell(row, column)
        return None if cell is None or cell.collapse else cell.means.get(metric)

    def published(self, row: Row, column: Column, metric: str) -> float | None:
        """Return the published number; None if there is none, or if the training collapsed."""
        number = row.number(column.name, metric)
        return None if number is None or isinstance(number.value, str) else number.value

    def collapsed(self) -> list[str]:
        """Return a line about each of our results that collapsed."""
        return [
            f"{row.name} ({column.name}): {cell.collapse}"
            for row in self.table.rows
            for column in self.table.columns
            if (cell := self.cell(row, column)) is not None and cell.collapse and not column.mean_of
        ]

    def problems(self) -> dict[str, list[str]]:
        """Return the problems of the evaluation by row."""
        return {row: facts.get("problems", []) for row, facts in self.row_facts.items()}

    def compared_rows(self) -> list[tuple[Row, Row]]:
        """Return the pairs of compared rows: the reference first."""
        return [(self.table.row(row.against), row) for row in self.table.rows if row.against]

    def gains(self, row: Row, metric: str, published: bool = False) -> dict[str, float]:
        """Return the gain of a row over its reference by column, where both have comparable results.

        ``published`` selects the published numbers instead of ours; they are rounded as these are.
        """
        numbers = self.published if published else self.ours
        if row.against is None:
            return {}
        other, gains = self.table.row(row.against), {}
        for column in self.table.columns:
            gain = _minus(numbers(row, column, metric), numbers(other, column, metric))
            if gain is not None and (published or not self.incomparable(row, column)):
                gains[column.name] = round(gain, 4) if published else gain
        return gains

    def incomparable(self, row: Row, column: Column) -> str:
        """Return the reason why our results of a row and its reference cannot be compared; empty if they can."""
        for part in self.table.columns:
            if part.name in column.mean_of and (reason := self.incomparable(row, part)):
                return reason
        other = self.table.row(row.against) if row.against else row
        own, reference = self.cell(row, column), self.cell(other, column)
        if own is None or reference is None:
            return ""
        if own.is_own != reference.is_own:
            return f"{other.name if own.is_own else row.name} has published weights from another training"
        if list(own.differences or ()) != list(reference.differences or ()):
            return f"{row.name} and {other.name} were trained with different options"
        return ""

    def data(self) -> dict[str, Any]:
        """Return the table as JSON data."""
        table, key = self.table, "columns" if self.table.is_proxy else "sets"
        rows = []
        for row in table.rows:
            cells = {c.name: {m: self._cell_data(row, c, m) for m in table.metrics} for c in table.columns}
            rows.append({"row": row.name, "against": row.against, **self.row_facts.get(row.name, {}), key: cells})
        data: dict[str, Any] = {"table": table.name, "title": table.title, "mcir": mcir.__version__}
        data |= {"coverage": table.coverage(), "notes": table.notes}
        if table.is_proxy:
            data |= {"finetune": table.finetune, "steps": table.steps, "conditions": dict(self.conditions)}
            data["columns"] = [
                {
                    **column.model_dump(mode="json"),
                    "conditions": dict(self.column_conditions.get(column.name, {})),
                    "input": dict(self.inputs.get(column.name, {})),
                }
                for column in table.columns
            ]
        else:
            data |= self.conditions
        return {**data, "rows": rows}

    def _cell_data(self, row: Row, column: Column, metric: str) -> dict[str, Any]:
        number, cell, ours = row.number(column.name, metric), self.cell(row, column), self.ours(row, column, metric)
        otherwise = None if cell is None or cell.differences is None else list(cell.differences)
        return {
            "published": None if number is None else number.value,
            "by": None if number is None else number.by,
            "source": None if number is None else number.source,
            "ours": COLLAPSED if cell is not None and cell.collapse else ours,
            "collapse": None if cell is None else cell.collapse or None,
            "std": None if cell is None else cell.stds.get(metric),
            "trials": 0 if cell is None else cell.trials,
            "evaluated": None if cell is None else "own" if cell.is_own else "published",
            "trained_otherwise": otherwise,
            "difference": _minus(ours, self.published(row, column, metric)),
            "gain": self.gains(row, metric).get(column.name),
            "published_gain": self.gains(row, metric, published=True).get(column.name),
        }


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
