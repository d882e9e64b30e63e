"""Figures 4, 5 and 6 of the MCIR paper: visual comparisons of networks without and with negatives.

A figure is a YAML file in the folder of this module: rows of a table, and images of its data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

import mcir
from mcir.launch import Log
from mcir.report.page import Report, Section
from mcir.tables.commands import VisualFigure
from mcir.tables.formatting import counted, decimals, signed
from mcir.tables.pictures import ComparedImage, compare_images, network_for
from mcir.tables.plan import plan
from mcir.tables.published import HOME, Part, Row, Table, read_table
from mcir.tables.render import write_results
from mcir.tables.reproduce import state_lines
from mcir.tables.runs import TableRun


class Visual(Part):
    """A visual comparison of rows of a table with the rows that they are compared with.

    Attributes:
        name: name of the figure.
        title: title of the page.
        table: name of the table.
        rows: names of the rows.
        pictures: indices of the images, by data set.
    """

    name: str
    title: str
    table: str
    rows: list[str] = Field(min_length=1)
    pictures: dict[str, list[int]] = Field(min_length=1)

    def pairs(self, table: Table) -> list[tuple[Row, Row]]:
        """Return the pairs of compared rows of the table: the reference first.

        Raises:
            ValueError: the table has no such row or column, or a row is not compared with another one.
        """
        rows = {row.name: row for row in table.rows if row.against}
        columns = [column.name for column in table.columns if not column.mean_of]
        for kind, names, known in (("row with a reference", self.rows, rows), ("column", self.pictures, columns)):
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"{self.name}: {table.name} has no {kind} {', '.join(unknown)}.")
        return [(table.row(rows[name].against or ""), rows[name]) for name in self.rows]


def read_visual(name: str) -> Visual:
    """Read a visual comparison.

    Raises:
        ValueError: its file is not valid.
    """
    return Visual.read(HOME / f"{name}.yml")


def reproduce_visual(visual: Visual, command: VisualFigure, log: Log = print) -> int:
    """Restore the images of a visual comparison with the networks that exist, and write the page and its numbers.

    Returns:
        0 if all networks and data sets exist and their images are shown, otherwise 1.

    Raises:
        ValueError: the settings are not valid.
    """
    table = read_table(visual.table)
    pairs = visual.pairs(table)
    runs = plan(table, command.table_command([row.name for pair in pairs for row in pair]))
    log(f"{visual.name}: {visual.title}\n")
    compared = [_Compared(visual, pair, runs, log) for pair in pairs]
    missing = state_lines(runs, {each.pair[1].name: each.problems for each in compared})
    log("\n".join(["", *missing]))
    introduction = [
        f"Rows of {table.name} ({table.title}), on images of the data sets that exist on this machine. A crop is the "
        "part of an image in which the outputs differ most. The metrics are those of the table, for the whole image."
    ]
    sections = [Section("What is compared", introduction), *(each.section() for each in compared)]
    sections.append(Section("Trainings, and what is missing", code="\n".join(missing)))
    data = {"figure": visual.name, "title": visual.title, "mcir": mcir.__version__, "table": table.name}
    rows = [each.data() for each in compared]
    report = Report(f"{visual.name}: {visual.title}", sections)
    write_results(command.results, visual.name, {**data, "rows": rows}, report, log)
    return 0 if all(each.images.keys() == visual.pictures.keys() for each in compared) else 1


class _Compared:
    """The images of two rows that could be restored.

    Attributes:
        pair: the rows: the reference first.
        weights: weight files, by row and data set.
        images: compared images, by data set.
        problems: data sets whose images or weights cannot be read, with the reasons.
    """

    def __init__(self, visual: Visual, pair: tuple[Row, Row], runs: Sequence[TableRun], log: Log) -> None:
        self.pair = pair
        self.weights: dict[str, str] = {}
        self.images: dict[str, list[ComparedImage]] = {}
        self.problems: list[str] = []
        for data_set, numbers in visual.pictures.items():
            first, second = (network_for(runs, row, data_set) for row in pair)
            if first is None or second is None:
                continue
            log(f"{pair[1].name}: {counted(len(numbers), 'image')} of {data_set}")
            try:
                self.images[data_set] = compare_images(first, second, data_set, numbers)
            except (ValueError, OSError) as error:  # the other data sets are still shown
                self.problems.append(f"{data_set}: {error}")
            else:
                self.weights |= {f"{each.row}, {data_set}": str(each.checkpoint) for each in (first, second)}

    def section(self) -> Section:
        """Return the section with weight files, metrics and images."""
        names = [row.name for row in self.pair]
        section = Section(" and ".join(names), [f"{name}: {file}" for name, file in self.weights.items()])
        for data_set, images in self.images.items():
            for image in images:
                head, cells = ["image"], [f"{data_set}: {image.name}"]
                for metric, first in image.scores[0].items():
                    second, digits = image.scores[1][metric], decimals(metric)
                    head += [*(f"{metric}: {name}" for name in names), f"{metric}: difference"]
                    cells += [f"{first:.{digits}f}", f"{second:.{digits}f}", signed(second - first, digits)]
                section.table += [cells] if section.table else [head, cells]
                section.figures.append(image.figure)
        section.paragraphs += self.problems
        if not section.figures:
            section.paragraphs.append("No image is shown: there is no data set with weights for both rows.")
        return section

    def data(self) -> dict[str, Any]:
        """Return the metrics of all images as JSON data."""
        names = [row.name for row in self.pair]
        sets = {
            data_set: {image.name: dict(zip(names, image.scores, strict=True)) for image in images}
            for data_set, images in self.images.items()
        }
        return {"row": names[1], "against": names[0], "weights": self.weights, "sets": sets, "problems": self.problems}
