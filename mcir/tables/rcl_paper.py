"""The tables of residual contrastive learning (arXiv:2106.10070) as data: rows, columns, and the known numbers.

As in :mod:`mcir.tables.paper`, a table is a YAML file beside this one, and a number is entered only with its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator

from mcir.tables.paper import Part, Row, known_tables, read_as
from mcir.tables.pretraining import methods
from mcir.tables.proxy_plan import PRETRAINED_HERE, RANDOM, TASKS

METRICS = ("psnr", "ssim")


class Column(Part):
    """Where the rows are compared.

    Attributes:
        name: of the column.
        option: option file of the pre-training, below ``options``; the labelled images are those that it reads.
        task: of the proxy evaluation.
        labels: number of labelled images.
        images: folder of larger clean images of the same names, which the task is made of instead.
    """

    name: str
    option: str
    task: str
    labels: int
    images: Path | None = Field(default=None, strict=False)


class RclRow(Row):
    """A line of a table.

    Attributes:
        weights: what it starts from: a method of ``pretraining.yml``, ``random``, ``oracle`` or ``sl-den``; the name
            without.
    """

    weights: str

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: dict[str, object]) -> dict[str, object]:
        return {"weights": values.get("name"), **values}


class RclTable(Part):
    """A table of the paper.

    Attributes:
        name: what ``mcir reproduce`` calls it.
        title: what it shows.
        finetune: all weights are trained on the labelled images, and the columns are numbers of them; otherwise a new
            last layer is.
        steps: of a training on labelled images.
        columns: in order.
        rows: in order.
        notes: what is to be known.
    """

    name: str
    title: str
    finetune: bool = False
    steps: int = 2000
    columns: list[Column] = Field(min_length=1)
    rows: list[RclRow] = Field(min_length=1)
    notes: list[str] = Field(default=[])

    @model_validator(mode="after")
    def _fits(self) -> RclTable:
        known = [*methods(), RANDOM, *PRETRAINED_HERE]
        columns = [column.name for column in self.columns]
        for column in self.columns:
            if column.task not in TASKS:
                raise ValueError(f"'{column.name}' has the task '{column.task}', which there is not")
        for row in self.rows:
            if row.weights not in known:
                raise ValueError(f"'{row.name}' starts from '{row.weights}'; known are {', '.join(known)}")
            for number in row.numbers:
                if number.set not in columns or number.metric not in METRICS:
                    raise ValueError(f"'{row.name}' has a number of {number.set}, {number.metric}: no such column")
        return self

    def groups(self) -> list[list[Column]]:
        """Return the columns that are evaluated at once: those of a task and a pre-training."""
        groups: dict[tuple[str, str], list[Column]] = {}
        for column in self.columns:
            groups.setdefault((column.option, column.task), []).append(column)
        return list(groups.values())

    def with_labels(self, labels: Sequence[int]) -> RclTable:
        """Return the table with other numbers of labelled images; where all weights are trained they are the columns.

        Raises:
            ValueError: several numbers, and the columns are something else.
        """
        if self.finetune:
            columns = [self.columns[0].model_copy(update={"name": f"{n:,}", "labels": n}) for n in labels]
        elif len(labels) == 1:
            columns = [column.model_copy(update={"labels": labels[0]}) for column in self.columns]
        else:
            raise ValueError(f"{self.name} has one number of labelled images, not {len(labels)} of them.")
        return self.model_copy(update={"columns": columns})


def read_rcl_table(name: str) -> RclTable:
    """Return the table of that name.

    Raises:
        ValueError: there is none, or it is not well-formed.
    """
    return read_as(RclTable, name, known_tables("rcl-"))
