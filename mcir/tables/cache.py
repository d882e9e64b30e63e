"""A cache of results in a file of JSON lines. A command that was stopped resumes from it."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from mcir.checked_json import append_record, read_records
from mcir.launch import Log
from mcir.tables.formatting import counted
from mcir.tables.pool import run_parallel
from mcir.tables.training import StudyRun

_LOG = logging.getLogger("mcir")

Record: TypeAlias = dict[str, Any]
"""A result as JSON data; ``fingerprint`` is its key in the cache."""


class RunCache:
    """Results by fingerprint, in a file of JSON lines.

    Of several results with the same fingerprint, the last one is used. Damaged lines are skipped with a warning, so
    that their results are computed again.

    Args:
        file: file of the results; it is created by the first :meth:`add`.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        records, problem = read_records(file)
        if problem:
            _LOG.warning("%s: %s", file, problem)
        self.records: dict[str, Record] = {
            str(record["fingerprint"]): _with_numbers(record) for record in records if "fingerprint" in record
        }

    def add(self, record: Record) -> None:
        """Append a result to the file."""
        append_record(self.file, record)
        self.records[record["fingerprint"]] = record


def _with_numbers(record: Record) -> Record:
    """Convert the strings for values that JSON cannot store to numbers."""
    return {key: float(value) if value in ("inf", "-inf", "nan") else value for key, value in record.items()}


def run_cached(
    what: str,
    work: Callable[[StudyRun], Record],
    runs: Sequence[StudyRun],
    cache: RunCache,
    jobs: int,
    log: Log,
    is_valid: Callable[[Record], bool] = bool,
) -> list[Record]:
    """Return the results of all trainings; run the trainings that are not in the cache.

    Args:
        what: name of this kind of training in messages.
        work: function that runs a training and returns its result, including ``psnr``.
        runs: trainings.
        cache: results; new ones are added.
        jobs: number of processes.
        log: function that prints a line of text.
        is_valid: function that returns whether a cached result can be used; it gets ``{}`` if there is none.
    """
    known = cache.records
    missing = {run.fingerprint: run for run in runs if not is_valid(known.get(run.fingerprint, {}))}
    log(f"{what}: {counted(len(runs), 'training')}, {len(runs) - len(missing)} of them in {cache.file}")
    start = time.perf_counter()
    for count, record in enumerate(run_parallel(partial(_measured, work), list(missing.values()), jobs), start=1):
        cache.add(record)
        left = (time.perf_counter() - start) / count * (len(missing) - count)
        end = f"collapsed at iteration {record['collapsed']:,}" if "collapsed" in record else f"{record['psnr']:.3f} dB"
        result = f"{missing[record['fingerprint']].title}: {end}"
        log(f"{count}/{len(missing)}  {result} in {record['seconds']:.1f} s, about {left / 60:.0f} min left")
    return [known[run.fingerprint] for run in runs]


def _measured(work: Callable[[StudyRun], Record], run: StudyRun) -> Record:
    """Return the result of a training with its fingerprint and duration; remove the files of the training."""
    start = time.perf_counter()
    record = work(run)
    shutil.rmtree(run.folder, ignore_errors=True)
    return {"fingerprint": run.fingerprint, **record, "seconds": time.perf_counter() - start}
