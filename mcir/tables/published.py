"""The published tables as data: rows, columns, option files and published numbers.

A table is a YAML file in the folder of this module. Every number has a source and the digits that are printed there.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mcir.errors import suggestion
from mcir.tables.formatting import decimals
from mcir.tables.pretraining import methods
from mcir.tables.proxy_plan import ORACLES, RANDOM, TASKS

HOME = Path(__file__).parent
COLLAPSED: Final = "collapsed"
"""A result instead of a number: the training diverged, or its network is worse than the degraded images themselves."""
Which: TypeAlias = Literal["last", "best"]

_PUBLISHERS = {
    "paper": "from the paper",
    "release": "only from the README of its released code",
    "authors": "from the authors of the networks",
}
P = TypeVar("P", bound="Part")


class _Loader(yaml.SafeLoader):
    """A YAML loader that keeps the digits of numbers, as :class:`~decimal.Decimal`."""


_Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: Decimal(node.value))


class Part(BaseModel):
    """Base class of the parts of a table file: strict, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def read(cls: type[P], file: Path) -> P:
        """Read a YAML file.

        Raises:
            ValueError: the file is not valid.
        """
        try:
            return cls.model_validate(yaml.load(file.read_text(encoding="utf-8"), _Loader))  # noqa: S506 (a safe loader)
        except (yaml.YAMLError, ValidationError) as error:
            raise ValueError(f"{file}: {error}") from error


class Number(Part):
    """A published result.

    Attributes:
        set: name of the column.
        value: published value, or ``collapsed``.
        by: publisher: the paper of the table, its released code, or the authors of the network.
        source: page or table that contains the number.
        digits: number of printed decimals, from the text of the value in the file.
    """

    set: str
    metric: str
    value: float | Literal["collapsed"]
    by: Literal["paper", "release", "authors"] = "paper"
    source: str
    digits: int = Field(exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _count_digits(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        value = tree.get("value")
        if isinstance(value, Decimal):
            return {**tree, "value": float(value), "digits": max(0, -int(value.as_tuple().exponent))}
        return {**tree, "digits": decimals(str(tree.get("metric")))}

    @property
    def text(self) -> str:
        """The value as printed."""
        return self.value if isinstance(self.value, str) else f"{self.value:.{self.digits}f}"


class Run(Part):
    """A training of a row.

    Attributes:
        option: option file below ``options``.
        variant: name of the run, if the option file has a sweep.
        published: option file below ``options`` with published weights of the same network; they are evaluated while
            the training has no checkpoint.
    """

    option: str
    variant: str | None = None
    published: str | None = None


class Row(Part):
    """A row of a table.

    Attributes:
        name: unique name of the row.
        against: name of the row that this row is compared with: the same network without negatives.
        runs: trainings of the row: several if each data set has its own, none if mcir does not have the network.
        numbers: published results.
        checkpoint: checkpoint to evaluate (default: that of the table).
        weights: initial weights in a proxy table: a method of ``_base_/rcl.yml``, ``random``, ``oracle`` or ``sl-den``
            (default: the name).
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
        """Return the published result: that of the paper if there is one, else that of its code."""
        known = [n for n in self.numbers if (n.set, n.metric) == (column, metric)]
        return min(known, key=lambda number: list(_PUBLISHERS).index(number.by), default=None)


class Column(Part):
    """A column of a table: a data set, the mean over data sets, or an evaluation in a proxy table.

    In the file, a data set is only its name. The attributes after ``mean_of`` concern proxy tables.

    Attributes:
        mean_of: names of the columns that are averaged.
        option: option file of the pre-training below ``options``; the labelled images are its training images.
        task: task of the evaluation.
        labels: number of labelled images.
        images: folder of larger clean images with the same names, which are degraded for the task.
    """

    name: str
    mean_of: list[str] = []
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
        checkpoint: checkpoint to evaluate: the ``last``, or the ``best`` on the test set, if the authors of the
            networks choose that one.
        finetune: whether a proxy table trains all weights instead of a new last layer; its columns are then numbers
            of labelled images.
        steps: number of steps on the labelled images in a proxy table.
        rows: rows; a row follows the row that it is compared with.
        pictures: indices of the images in the report, by data set.
        notes: errors in the paper and open questions.
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
        sets = {column.name for column in self.columns if not column.mean_of}
        for column in self.columns:
            if unknown := sorted(set(column.mean_of) - sets):
                raise ValueError(f"'{column.name}': mean_of: there is no column {', '.join(unknown)}")
        seen: set[str] = set()
        for row in self.rows:
            if row.name in seen:
                raise ValueError(f"there are two rows '{row.name}'")
            if row.against is not None and row.against not in seen:
                raise ValueError(f"'{row.name}': against: expected a row above it, got '{row.against}'")
            seen.add(row.name)
            for number in row.numbers:
                if number.set not in names or number.metric not in self.metrics:
                    raise ValueError(f"'{row.name}': there is no column {number.set} with the metric {number.metric}")
        if unknown := sorted(self.pictures.keys() - sets):
            raise ValueError(f"pictures: there is no column {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def _has_known_tasks(self) -> Table:
        known = [*methods(), RANDOM, *ORACLES]
        for column in self.columns if self.is_proxy else ():
            if column.task not in TASKS:
                raise ValueError(f"'{column.name}': task: expected {', '.join(TASKS)}, got '{column.task}'")
        for row in self.rows if self.is_proxy else ():
            if row.initial not in known:
                raise ValueError(f"'{row.name}': weights: expected {', '.join(known)}, got '{row.initial}'")
        return self

    @property
    def is_proxy(self) -> bool:
        """Whether the table contains proxy evaluations of pre-trained weights."""
        return any(column.task for column in self.columns)

    def row(self, name: str) -> Row:
        """Return the row with a name."""
        return next(row for row in self.rows if row.name == name)

    def groups(self) -> list[list[Column]]:
        """Group the columns of a proxy table by pre-training and task; a group is evaluated together."""
        groups: dict[tuple[str, str], list[Column]] = {}
        for column in self.columns:
            groups.setdefault((column.option, column.task), []).append(column)
        return list(groups.values())

    def with_labels(self, labels: Sequence[int]) -> Table:
        """Return the proxy table with other numbers of labelled images.

        Raises:
            ValueError: there are several numbers, but the columns of the table are not numbers of labelled images.
        """
        if self.finetune:
            columns = [self.columns[0].model_copy(update={"name": f"{n:,}", "labels": n}) for n in labels]
        elif len(labels) == 1:
            columns = [column.model_copy(update={"labels": labels[0]}) for column in self.columns]
        else:
            raise ValueError(f"{self.name}: expected one number of labelled images, got {len(labels)}.")
        return self.model_copy(update={"columns": columns})

    def coverage(self) -> str:
        """Return the number of published results by publisher, and the columns that have none, as text."""
        known = [number for row in self.rows for number in row.numbers]
        if not known:
            return "This table has no published numbers; it shows only ours."
        counts = {text: sum(number.by == by for number in known) for by, text in _PUBLISHERS.items()}
        parts = ", ".join(f"{count} {text}" for text, count in counts.items() if count)
        entered = {number.set for number in known}
        without = [column.name for column in self.columns if column.name not in entered]
        return f"Published numbers: {parts}." + (f" There is none for {', '.join(without)}." if without else "")


def known_tables(prefix: str = "") -> list[str]:
    """Return the sorted names of the MCIR tables or, with the prefix ``rcl-``, of the RCL tables."""
    return sorted(path.stem for path in HOME.glob(f"{prefix}table*.yml"))


def read_table(name: str) -> Table:
    """Read the table with a name.

    Raises:
        ValueError: there is no such table, or its file is not valid.
    """
    known = [*known_tables(), *known_tables("rcl-")]
    if name not in known:
        raise ValueError(f"There is no table '{name}'.{suggestion(name, known)} Known tables: {', '.join(known)}.")
    return Table.read(HOME / f"{name}.yml")
