"""The tables of "Learning from History" (AAAI 2024) as data: rows, option files, and the numbers that are known.

A table is a YAML file beside this one. A number is entered only with its source; one that nobody has read from the
paper yet is simply not there, and the reports say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mcir.registry import suggestion

HOME = Path(__file__).parent
NOT_ENTERED = "not entered: to be read from the paper"
AnyTable = TypeVar("AnyTable", bound=BaseModel)


class Part(BaseModel):
    """A part of a table's file: of fixed keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Number(Part):
    """A published result.

    Attributes:
        set: the data set, a column of the table.
        metric: of the table.
        value: as it was published; null: not entered yet.
        by: who published it: the paper of the table, its released code, or the authors of the network, which may
            differ.
        source: where it stands.
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
    """One training of a row.

    Attributes:
        option: option file below ``options``.
        variant: the run of a file with a sweep.
        published: option file below ``options`` that names published weights of the same network, used while the run
            itself has no checkpoint.
    """

    option: str
    variant: str | None = None
    published: str | None = None


class Row(Part):
    """A line of a table.

    Attributes:
        name: what the line is called, unique in its table.
        against: name of the line whose network, without the negatives, this one is compared with.
        runs: what makes it; several where each data set has a training of its own, none where the network is not here.
        numbers: published results.
        checkpoint: which one is evaluated, where it is another than the table's.
    """

    name: str
    against: str | None = None
    runs: list[Run] = []
    numbers: list[Number] = []
    checkpoint: Literal["last", "best"] | None = None

    def number(self, data_set: str, metric: str) -> Number | None:
        """Return the published result with a value, the paper before its release and the network's authors, or None."""
        known = [
            number
            for number in self.numbers
            if (number.set, number.metric) == (data_set, metric) and number.value is not None
        ]
        return min(known, key=lambda number: ("paper", "release", "authors").index(number.by), default=None)


class Table(Part):
    """A table of the paper.

    Attributes:
        name: what ``mcir reproduce`` calls it.
        title: what it shows.
        metrics: keys of the option files' ``val.metrics`` that are columns.
        sets: names of the data sets that are columns.
        checkpoint: which one is evaluated: the ``last``, or the ``best`` on the test set where the networks' authors
            choose so.
        rows: in order; a row stands after the one that it is compared with.
        pictures: images shown of each data set, by number.
        notes: slips of the paper, and what is to be known.
    """

    name: str
    title: str
    metrics: list[str] = Field(min_length=1)
    sets: list[str] = Field(min_length=1)
    checkpoint: Literal["last", "best"] = "last"
    rows: list[Row] = Field(min_length=1)
    pictures: dict[str, list[int]] = {}
    notes: list[str] = []

    @model_validator(mode="after")
    def _fits(self) -> Table:
        seen: set[str] = set()
        for row in self.rows:
            if row.name in seen:
                raise ValueError(f"the row '{row.name}' stands there twice")
            if row.against is not None and row.against not in seen:
                raise ValueError(f"'{row.name}' is compared with '{row.against}', which does not stand above it")
            seen.add(row.name)
            for number in row.numbers:
                if number.set not in self.sets or number.metric not in self.metrics:
                    raise ValueError(f"'{row.name}' has a number of {number.set}, {number.metric}: no such column")
        if not self.pictures.keys() <= set(self.sets):
            raise ValueError(f"pictures of {sorted(self.pictures.keys() - set(self.sets))}: no such column")
        return self

    def row(self, name: str) -> Row:
        """Return the row of that name."""
        return next(row for row in self.rows if row.name == name)

    def coverage(self) -> str:
        """Return a sentence about how many published numbers there are, whose, and for which sets there are none."""
        known = [number for row in self.rows for number in row.numbers if number.value is not None]
        if not known:
            return "No published number is entered for this table: ours stand alone."
        places = {
            "paper": "from the paper itself",
            "release": "from what the paper's authors published with their code, not read in the paper itself",
            "authors": "from the authors of the networks",
        }
        counts = {place: sum(number.by == by for number in known) for by, place in places.items()}
        told = ", ".join(f"{count} {place}" for place, count in counts.items() if count)
        without = [name for name in self.sets if name not in {number.set for number in known}]
        return f"Published numbers: {told}." + (f" There is none for {', '.join(without)}." if without else "")


def known_tables(prefix: str = "") -> list[str]:
    """Return the names of all tables of a paper, sorted; ``rcl-`` begins those of residual contrastive learning."""
    return sorted(path.stem for path in HOME.glob(f"{prefix}table*.yml"))


def read_table(name: str) -> Table:
    """Return the table of that name.

    Raises:
        ValueError: there is none, or it is not well-formed.
    """
    return read_as(Table, name, known_tables())


def read_as(kind: type[AnyTable], name: str, known: Sequence[str]) -> AnyTable:
    """Return one of the known tables.

    Raises:
        ValueError: there is none of that name, or it is not well-formed.
    """
    if name not in known:
        raise ValueError(f"There is no table '{name}'.{suggestion(name, known)} Known are {', '.join(known)}.")
    path = HOME / f"{name}.yml"
    try:
        return kind.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise ValueError(f"{path}: {error}") from error
