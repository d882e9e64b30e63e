"""A table of the paper as a command: train what is missing, evaluate, and set the paper's numbers beside our own."""

from __future__ import annotations

from collections.abc import Sequence

from mcir.atomic import write_atomically
from mcir.engine.loggers import as_json
from mcir.tables.evaluated import Evaluated, evaluate
from mcir.tables.paper import Table, read_table
from mcir.tables.plan import Job, Settings, how_to_get, missing_paths, plan
from mcir.tables.table_report import Found, as_data, tell
from mcir.tables.training import Say, train


def reproduce(name: str, settings: Settings, say: Say = print) -> int:
    """Make a table: list its rows, train if asked to, evaluate what can be, and write the report.

    Returns 0 when every row that is asked for has its results, of a training as the row says or of published weights,
    else 1. Where the jobs of a cluster are not waited for,
    nothing is evaluated, and 0 says that all that is not trained is on its way.

    Raises:
        ValueError: there is no such table or row.
    """
    return make(read_table(name), settings, say)


def make(table: Table, settings: Settings, say: Say = print) -> int:
    """Make a table that is given; see :func:`reproduce`."""
    jobs = plan(table, settings)
    say(f"{table.name}: {table.title}\n")
    if settings.train:
        everything = train(jobs, settings, say)
        if not settings.wait:
            return 0 if everything else 1
    results = [result for job in jobs if (result := evaluate(job, settings.again, say)) is not None]
    lacking = _told(jobs, results)
    say("\n".join(["", *lacking]))
    found = Found(table, jobs, results, settings.overrides)
    settings.results.mkdir(parents=True, exist_ok=True)
    target = settings.results / f"{table.name}.json"
    write_atomically(target, (as_json(as_data(found), indent=2) + "\n").encode())
    for file in [target, *tell(found, lacking).write(settings.results, table.name)]:
        say(f"results: {file}")
    return 0 if len(results) == len(jobs) and all(result.is_whole for result in results) else 1


def _told(jobs: Sequence[Job], results: Sequence[Evaluated]) -> list[str]:
    """Return the lines that tell of each training, and then, each once, what is missing and for which rows."""
    lines = [f"{job.row.name}  ({job.origin})  {job.state()}" for job in jobs]
    needed: dict[str, list[str]] = {}
    paths: dict[str, list[str]] = {}
    for job in jobs:
        left_out = [f"{text} is left out: it has no such section" for text in job.left_out]
        problems = [result.problem for result in results if result.job is job and result.problem]
        for line in [*left_out, *problems, *job.to_get()]:
            needed.setdefault(line, []).append(job.row.name)
        if job.options is not None:
            of_training = [] if job.trained() else job.training_sections()
            for path in missing_paths([*of_training, *job.evaluation_sections()]):
                paths.setdefault(path, []).append(job.row.name)
    told = [f"{', '.join(dict.fromkeys(rows))}: {line}" for line, rows in needed.items()]
    return [*lines, *([""] if told else []), *told, *([""] if paths else []), *how_to_get(paths, paths)]
