"""The published tables as data: rows, columns, option files, and the known numbers.

A table is a YAML file next to this module. A number is entered only with its source; a number that nobody has read from
the paper yet is missing, and the reports say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mcir.errors import suggestion
from mcir.tables.pretraining import methods
from mcir.tables.proxy_plan import ORACLES, RANDOM, TASKS

HOME = Path(__file__).parent
NOT_ENTERED = "not entered: to be read from the paper"
Which: TypeAlias = Literal["last", "best"]

_PUBLISHERS = {
    "paper": "from the paper itself",
    "release": "from what the paper's authors published with their code, not checked in the paper itself",
    "authors": "from the authors of the networks",
}


class Part(BaseModel):
    """A part of a table file; its keys are fixed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Number(Part):
    """A published result.

    Attributes:
        set: name of the column.
        value: the published value; null: not entered yet.
        by: publisher: the paper of the table, its released code, or the authors of the network, who may differ.
        source: page or table that contains the number.
    """

    set: str
    metric: str
    value: float | None
    by: Literal["paper", "release", "authors"] = "paper"
    source: str = NOT_ENTERED

    @model_validator(mode="after")
    def _has_source(self) -> Number:
        if (self.value is None) != (self.source == NOT_ENTERED):
            raise ValueError(f"{self.set}, {self.metric}: a number needs its source, and a source its number")
        return self


class Run(Part):
    """A training of a row.

    Attributes:
        option: option file below ``options``.
        variant: run of an option file with a sweep.
        published: option file below ``options`` with published weights of the same network, which are evaluated until
            the training has a checkpoint.
    """

    option: str
    variant: str | None = None
    published: str | None = None


class Row(Part):
    """A row of a table.

    Attributes:
        name: unique name of the row.
        against: name of the row with the same network without negatives, which this row is compared with.
        runs: trainings of the row: several if each data set has its own, none if mcir does not have the network.
        numbers: published results.
        checkpoint: which checkpoint is evaluated, if not that of the table.
        weights: in a proxy table, the initial weights: a method of ``pretraining.yml``, ``random``, ``oracle`` or
            ``sl-den``. Default: the name.
    """

    name: str
    against: str | None = None
    runs: list[Run] = []
    numbers: list[Number] = []
    checkpoint: Which | None = None
    weights: str = ""

    @property
    def initial(self) -> str:
        """Initial weights in a proxy table."""
        return self.weights or self.name

    def number(self, column: str, metric: str) -> Number | None:
        """Return the published result, that of the paper before those of its code and of the network's authors."""
        known = [n for n in self.numbers if (n.set, n.metric) == (column, metric) and n.value is not None]
        return min(known, key=lambda number: list(_PUBLISHERS).index(number.by), default=None)


class Column(Part):
    """A column of a table: a data set, or in a proxy table the conditions of an evaluation.

    In the file, a data set is its name alone.

    Attributes:
        option: in a proxy table, option file of the pre-training below ``options``; the labelled images are its images.
        labels: in a proxy table, number of labelled images.
        images: in a proxy table, folder of larger clean images with the same names, from which the task is made.
    """

    name: str
    option: str = ""
    task: str = ""
    labels: int = 0
    images: Path | None = Field(default=None, strict=False)

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Table(Part):
    """A table of a paper.

    Attributes:
        metrics: metrics of each column: keys of ``val.metrics`` in the option files.
        checkpoint: which checkpoint is evaluated: the ``last``, or the ``best`` on the test set where the authors of
            the networks choose so.
        finetune: in a proxy table, whether all weights are trained on the labelled images instead of a new last layer;
            the columns are then numbers of labelled images.
        steps: in a proxy table, number of steps on the labelled images.
        rows: rows; a row comes after the row that it is compared with.
        pictures: numbers of the images that the report shows, by column.
        notes: errors in the paper, and open questions.
    """

    name: str
    title: str
    metrics: list[str] = Field(default=["psnr", "ssim"], min_length=1)
    columns: list[Column] = Field(min_length=1)
    checkpoint: Which = "last"
    finetune: bool = False
    steps: int = 2000
    rows: list[Row] = Field(min_length=1)
    pictures: dict[str, list[int]] = {}
    notes: list[str] = []

    @model_validator(mode="after")
    def _is_consistent(self) -> Table:
        names = [column.name for column in self.columns]
        seen: set[str] = set()
        for row in self.rows:
            if row.name in seen:
                raise ValueError(f"there are two rows '{row.name}'")
            if row.against is not None and row.against not in seen:
                raise ValueError(f"'{row.name}' is compared with '{row.against}', which is no row above it")
            seen.add(row.name)
            for number in row.numbers:
                if number.set not in names or number.metric not in self.metrics:
                    raise ValueError(f"'{row.name}' has a number for {number.set}, {number.metric}: no such column")
        if unknown := sorted(self.pictures.keys() - set(names)):
            raise ValueError(f"pictures of {unknown}: no such column")
        return self

    @model_validator(mode="after")
    def _has_known_tasks(self) -> Table:
        known = [*methods(), RANDOM, *ORACLES]
        for column in self.columns if self.is_proxy else ():
            if column.task not in TASKS:
                raise ValueError(f"'{column.name}' has the unknown task '{column.task}'")
        for row in self.rows if self.is_proxy else ():
            if row.initial not in known:
                raise ValueError(f"'{row.name}' starts from the unknown weights '{row.initial}' ({', '.join(known)})")
        return self

    @property
    def is_proxy(self) -> bool:
        """Whether the columns are proxy evaluations of pre-trained weights, not tests of trained networks."""
        return any(column.task for column in self.columns)

    def row(self, name: str) -> Row:
        """Return a row by its name."""
        return next(row for row in self.rows if row.name == name)

    def groups(self) -> list[list[Column]]:
        """Return the columns of a proxy table that are evaluated together: one pre-training, one task."""
        groups: dict[tuple[str, str], list[Column]] = {}
        for column in self.columns:
            groups.setdefault((column.option, column.task), []).append(column)
        return list(groups.values())

    def with_labels(self, labels: Sequence[int]) -> Table:
        """Return the proxy table with other numbers of labelled images; they are its columns if it fine-tunes.

        Raises:
            ValueError: several numbers for a table with other columns.
        """
        if self.finetune:
            columns = [self.columns[0].model_copy(update={"name": f"{n:,}", "labels": n}) for n in labels]
        elif len(labels) == 1:
            columns = [column.model_copy(update={"labels": labels[0]}) for column in self.columns]
        else:
            raise ValueError(f"{self.name}: expected one number of labelled images, got {len(labels)}.")
        return self.model_copy(update={"columns": columns})

    def coverage(self) -> str:
        """Return how many published numbers are entered, from whom, and for which columns there is none."""
        known = [number for row in self.rows for number in row.numbers if number.value is not None]
        if not known:
            return "No published number is entered for this table: it shows our numbers alone."
        counts = {text: sum(number.by == by for number in known) for by, text in _PUBLISHERS.items()}
        parts = ", ".join(f"{count} {text}" for text, count in counts.items() if count)
        entered = {number.set for number in known}
        without = [column.name for column in self.columns if column.name not in entered]
        return f"Published numbers: {parts}." + (f" There is none for {', '.join(without)}." if without else "")


def known_tables(prefix: str = "") -> list[str]:
    """Return the sorted names of the tables of a paper: ``""`` for "Learning from History", ``"rcl-"`` for RCL."""
    return sorted(path.stem for path in HOME.glob(f"{prefix}table*.yml"))


def read_table(name: str) -> Table:
    """Return a table by its name.

    Raises:
        ValueError: there is no such table, or its file is not valid.
    """
    known = [*known_tables(), *known_tables("rcl-")]
    if name not in known:
        raise ValueError(f"There is no table '{name}'.{suggestion(name, known)} Known tables: {', '.join(known)}.")
    path = HOME / f"{name}.yml"
    try:
        return Table.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise ValueError(f"{path}: {error}") from error
