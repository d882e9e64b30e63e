"""A cache of finished results: a file of JSON lines, from which a stopped command resumes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from mcir.engine.loggers import as_json
from mcir.report.records import read_records
from mcir.tables.formatting import counted
from mcir.tables.pool import run_parallel
from mcir.tables.training import StudyRun

Record: TypeAlias = dict[str, Any]
"""A finished result: its ``fingerprint`` and anything else."""
Log: TypeAlias = Callable[[str], None]


class RunCache:
    """Finished results by fingerprint, in a file of JSON lines.

    The last of several results with one fingerprint counts. A half line that a killed process left is skipped.

    Args:
        file: the file; it is created with the first result.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.records: dict[str, Record] = {
            record["fingerprint"]: _with_numbers(record) for record in read_records(file) if "fingerprint" in record
        }

    def add(self, record: Record) -> None:
        """Append a result to the file."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        is_cut = self.file.is_file() and self.file.stat().st_size and not self.file.read_bytes().endswith(b"\n")
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write("\n" * bool(is_cut) + as_json(record) + "\n")
        self.records[record["fingerprint"]] = record


def _with_numbers(record: Record) -> Record:
    """Return a record with infinite values as numbers; JSON has them as strings."""
    return {key: float(value) if value in ("inf", "-inf", "nan") else value for key, value in record.items()}


def run_cached(
    what: str,
    work: Callable[[StudyRun], Record],
    runs: Sequence[StudyRun],
    cache: RunCache,
    jobs: int,
    log: Log,
    describe: Callable[[Record], str],
    is_valid: Callable[[Record], bool] = bool,
) -> list[Record]:
    """Return the results of all trainings, after making those that are not in the cache.

    Args:
        what: kind of the trainings in messages.
        work: function that computes a result, with its ``fingerprint`` and the ``seconds`` that it took.
        runs: trainings.
        cache: finished results.
        jobs: number of processes.
        log: function that receives lines of text for the user.
        describe: function that describes a result in one line.
        is_valid: function that returns whether a result is usable; an unknown result is an empty dict.
    """
    known = cache.records
    missing = {run.fingerprint: run for run in runs if not is_valid(known.get(run.fingerprint, {}))}
    log(f"{what}: {counted(len(runs), 'training')}, {len(runs) - len(missing)} of them in {cache.file}")
    start = time.perf_counter()
    for count, record in enumerate(run_parallel(work, list(missing.values()), jobs), start=1):
        cache.add(record)
        left = (time.perf_counter() - start) / count * (len(missing) - count)
        log(f"{count}/{len(missing)}  {describe(record)} in {record['seconds']:.1f} s, about {left / 60:.0f} min left")
    return [known[run.fingerprint] for run in runs]
