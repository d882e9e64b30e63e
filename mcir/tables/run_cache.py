"""Trainings that are made once: their results stand in a file of JSON lines, from where a killed command goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mcir.engine.loggers import as_json
from mcir.report.records import read_records
from mcir.tables.formatting import counted
from mcir.tables.pool import run_parallel
from mcir.tables.records import end_last_line

Record = dict[str, Any]
"""A finished training: its ``fingerprint``, the ``seconds`` that it took, and what else there is to tell."""
Say = Callable[[str], None]


class Item(Protocol):
    """A training that can be made."""

    def fingerprint(self) -> str:
        """Return what decides its result."""


T = TypeVar("T", bound=Item)


def run_cached(
    what: str,
    work: Callable[[T], Record],
    items: Sequence[T],
    file: Path,
    jobs: int,
    say: Say,
    told: Callable[[Record], str],
    counts: Callable[[Record], bool] = bool,
) -> list[Record]:
    """Return the records of trainings, after making those that the file lacks.

    Args:
        what: they are, for what is said.
        work: makes one.
        items: the trainings.
        file: of the records.
        jobs: trainings at a time.
        say: where progress is told.
        told: tells what a training came to.
        counts: whether a record in the file still holds.
    """
    known = read_runs(file)
    prints = [item.fingerprint() for item in items]
    waiting = {key: item for key, item in zip(prints, items, strict=True) if not (key in known and counts(known[key]))}
    say(f"{what}: {counted(len(items), 'training')}, {len(items) - len(waiting)} of them in {file}")
    begin = time.perf_counter()
    file.parent.mkdir(parents=True, exist_ok=True)
    end_last_line(file)
    with file.open("a", encoding="utf-8") as lines:
        for count, record in enumerate(run_parallel(work, list(waiting.values()), jobs), start=1):
            lines.write(as_json(record) + "\n")
            lines.flush()
            known[record["fingerprint"]] = record
            left = (time.perf_counter() - begin) / count * (len(waiting) - count)
            say(f"{count}/{len(waiting)}  {told(record)} in {record['seconds']:.1f} s, about {left / 60:.0f} min left")
    return [known[key] for key in prints]


def read_runs(file: Path) -> dict[str, Record]:
    """Return the finished trainings in a file by fingerprint; a line that a killed process left half is passed over."""
    return {record["fingerprint"]: record for record in read_records(file)}
