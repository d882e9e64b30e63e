"""A table of the paper as a command: train what is missing, evaluate, and set the paper's numbers beside our own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

import mcir
from mcir.config import Options
from mcir.data import to_device
from mcir.data.codec import write_atomically
from mcir.engine.checkpoint import load_into
from mcir.engine.distributed import Process, joined
from mcir.engine.loggers import as_json
from mcir.engine.pictures import ERROR_LIMIT, error_map, picture
from mcir.engine.tester import Tester
from mcir.registry import DATASETS
from mcir.tables.paper import NOT_ENTERED, Row, Table, read_table
from mcir.tables.plan import Job, Settings, how_to_get, missing_paths, plan
from mcir.tables.records import read_records
from mcir.tables.report import Figure, Report, Section, bars, curves, picture_figure
from mcir.tables.training import Say, train
from mcir.tables.words import digits_of, signed

Means = dict[str, dict[str, float]]
"""Results of a row: by data set and metric."""

_LARGEST = 320  # pixels at each side of a picture in the page


def reproduce(name: str, settings: Settings, say: Say = print) -> int:
    """Make a table: list its rows, train if asked to, evaluate what can be, and write the report.

    Returns 0 when every row that is asked for has its results, else 1. Where the jobs of a cluster are not waited for,
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
    results = {}
    for number, job in enumerate(jobs):
        found = _evaluate(job, settings, say)
        if found is not None:
            results[number] = found
    lacking = [line for job in jobs for line in _told(job)]
    say("\n".join(["", *lacking]))
    means = _by_row(table, jobs, results)
    report = _Pages(table, jobs, results, means).report(lacking)
    settings.results.mkdir(parents=True, exist_ok=True)
    target = settings.results / f"{table.name}.json"
    write_atomically(target, (as_json(_as_data(table, jobs, means), indent=2) + "\n").encode())
    for file in [target, *report.write(settings.results, table.name)]:
        say(f"results: {file}")
    return 0 if len(results) == len(jobs) else 1


def _told(job: Job) -> list[str]:
    """Return the lines of the list that tell of a training and what is missing for it."""
    lines = [f"{job.row.name}  ({job.file})  {job.state()}", *(f"    {line}" for line in job.to_get())]
    if job.options is not None:
        needed = [] if job.trained() else job.training_sections()
        paths = missing_paths([*needed, *job.evaluation_sections()])
        lines += [f"    {line}" for line in how_to_get(paths)]
    return lines


# -- evaluation ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Result:
    """The results of a training: those of each data set, and what was evaluated."""

    sets: dict[str, dict[str, Any]]
    options: Options
    checkpoint: Path


def _evaluate(job: Job, settings: Settings, say: Say) -> _Result | None:
    """Evaluate by the protocol of the option file, or read what an earlier evaluation of the same weights gave."""
    found = job.to_evaluate()
    if found is None or missing_paths(job.evaluation_sections()):
        return None
    options, checkpoint = found
    target = Path(options.path.results_root) / options.name / "results.json"
    known = None if settings.again else _known(target, checkpoint)
    if known is None:
        say(f"{job.row.name}: evaluates {checkpoint}")
        with joined(options.num_gpu, options.dist_params) as process:
            Tester(options, process).test([str(checkpoint)])
        known = _known(target, checkpoint)
        assert known is not None
    return _Result(known, options, checkpoint)


def _known(target: Path, checkpoint: Path) -> dict[str, dict[str, Any]] | None:
    """Return the results in a file if they are of these weights."""
    if not target.is_file() or target.stat().st_mtime < checkpoint.stat().st_mtime:
        return None
    found: dict[str, dict[str, Any]] | None = json.loads(target.read_text(encoding="utf-8")).get(str(checkpoint))
    return found


def _by_row(table: Table, jobs: list[Job], results: dict[int, _Result]) -> dict[str, Means]:
    """Return the results of the rows by data set and column of the table."""
    means: dict[str, Means] = {}
    for number, result in results.items():
        of_row = means.setdefault(jobs[number].row.name, {})
        for data_set, scores in result.sets.items():
            if data_set in table.sets:
                of_row[data_set] = {
                    metric: float(score["mean"]) for metric in table.metrics if (score := _column(scores, metric))
                }
    return means


def _column(scores: dict[str, Any], metric: str) -> Any:
    """Return the score of a column: ``psnr`` is the option file's ``psnr``, or its ``psnr_y``."""
    return next((score for key, score in scores.items() if key == metric or key.startswith(f"{metric}_")), None)


# -- what is told -----------------------------------------------------------------------------------------------------


def _gains(row: Row, means: dict[str, Means], metric: str) -> dict[str, float]:
    """Return by data set how much better a row is than the one that it is compared with."""
    if row.against is None:
        return {}
    own, other = means.get(row.name, {}), means.get(row.against, {})
    return {
        name: own[name][metric] - other[name][metric]
        for name in own
        if metric in own[name] and metric in other.get(name, {})
    }


def _as_data(table: Table, jobs: list[Job], means: dict[str, Means]) -> dict[str, Any]:
    rows = []
    for row in table.rows:
        cells: dict[str, Any] = {}
        for name in table.sets:
            for metric in table.metrics:
                published, ours = row.number(name, metric), means.get(row.name, {}).get(name, {}).get(metric)
                value = published.value if published is not None else None
                difference = None if value is None or ours is None else ours - value
                cells.setdefault(name, {})[metric] = {
                    "published": value,
                    "by": published.by if published is not None else None,
                    "source": published.source if published is not None else NOT_ENTERED,
                    "ours": ours,
                    "difference": difference,
                    "gain": _gains(row, means, metric).get(name),
                }
        rows.append(
            {
                "row": row.name,
                "against": row.against,
                "weights": [str(found[1]) for job in jobs if job.row is row and (found := job.to_evaluate())],
                "sets": cells,
                "mean_gain": {m: fmean(gains.values()) for m in table.metrics if (gains := _gains(row, means, m))},
            }
        )
    return {"table": table.name, "title": table.title, "mcir": mcir.__version__, "notes": table.notes, "rows": rows}


class _Pages:
    """The sections of a table's report."""

    def __init__(self, table: Table, jobs: list[Job], results: dict[int, _Result], means: dict[str, Means]) -> None:
        self.table = table
        self.jobs = jobs
        self.results = results
        self.means = means

    def report(self, lacking: list[str]) -> Report:
        sections = [self._numbers(metric) for metric in self.table.metrics]
        sections += [self._gain_section(), self._curve_section(), self._picture_section()]
        sections.append(Section("The paper's slips, and what is to be known", self.table.notes))
        sections.append(Section("Trainings, and what is missing", code="\n".join(lacking)))
        kept = [part for part in sections if part.paragraphs or part.table or part.figures or part.code]
        return Report(f"{self.table.name}: {self.table.title}", kept)

    def _numbers(self, metric: str) -> Section:
        head = ["row", *(f"{name}: {what}" for name in self.table.sets for what in ("paper", "ours", "difference"))]
        rows, sources = [head], dict[str, list[str]]()
        for row in self.table.rows:
            cells = [row.name]
            for name in self.table.sets:
                published, ours = row.number(name, metric), self.means.get(row.name, {}).get(name, {}).get(metric)
                value = None if published is None else published.value
                mark = ""
                if published is not None:
                    mark = {"paper": "", "release": " ‡", "authors": " †"}[published.by]
                    sources.setdefault(published.source + mark, []).append(f"{row.name} ({name})")
                digits = digits_of(metric)
                cells += [
                    "–" if value is None else f"{value:.{digits}f}{mark}",
                    "–" if ours is None else f"{ours:.{digits}f}",
                    "–" if value is None or ours is None else signed(ours - value, digits),
                ]
            rows.append(cells)
        told = [
            f"“–” in a column of the paper: {NOT_ENTERED}. † published by the authors of the network, ‡ with the "
            "paper's released code, not in the paper itself as far as was checked."
        ]
        told += [f"From {source}: {', '.join(places)}." for source, places in sources.items()]
        return Section(metric, told, rows)

    def _pairs(self) -> list[tuple[Row, Row]]:
        return [(self.table.row(row.against), row) for row in self.table.rows if row.against]

    def _gain_section(self) -> Section:
        section = Section("Gain over the same network without")
        rows, first = [["row", "against", "metric", "mean gain", "sets"]], self.table.metrics[0]
        for other, row in self._pairs():
            for metric in self.table.metrics:
                gains = _gains(row, self.means, metric)
                if gains:
                    mean = signed(fmean(gains.values()), digits_of(metric) + 1)
                    rows.append([row.name, other.name, metric, mean, str(len(gains))])
                if gains and metric == first:
                    section.figures.append(bars(gains, f"{row.name}: gain over {other.name} per set", metric))
        if len(rows) > 1:
            section.table = rows
        else:
            section.paragraphs.append("No row and the one it is compared with are both here yet: no gain to tell of.")
        return section

    def _curve_section(self) -> Section:
        section = Section("While they trained")
        metric = self.table.metrics[0]
        for other, row in self._pairs():
            for name in self.table.sets:
                series = {r.name: points for r in (other, row) if (points := self._curve(r, name, metric))}
                if len(series) == 2:
                    section.figures.append(curves(series, f"{name}, while training", "iteration", metric))
        return section

    def _curve(self, row: Row, data_set: str, metric: str) -> list[tuple[float, float]]:
        points: dict[int, float] = {}
        for job in self.jobs:
            if job.row.name == row.name and job.options is not None:
                points |= _history(job.folder / "results.jsonl", data_set, metric)
        return sorted(points.items())

    def _picture_section(self) -> Section:
        section = Section("Pictures")
        for other, row in self._pairs():
            for name, numbers in self.table.pictures.items():
                pair = [self._result(r, name) for r in (other, row)]
                if pair[0] is not None and pair[1] is not None:
                    with joined(pair[1].options.num_gpu, pair[1].options.dist_params) as process:
                        for number in numbers:
                            labels = (other.name, row.name)
                            section.figures += _side_by_side((pair[0], pair[1]), labels, name, number, process)
        return section

    def _result(self, row: Row, data_set: str) -> _Result | None:
        of_row = (result for number, result in self.results.items() if self.jobs[number].row is row)
        return next((result for result in of_row if data_set in result.sets), None)


def _history(file: Path, data_set: str, metric: str) -> dict[int, float]:
    """Return a metric by iteration from the log of a run; of an iteration that stands there twice, the last."""
    found: dict[int, float] = {}
    for record in read_records(file):
        if record["kind"] == "val" and record["dataset"] == data_set:
            value = _column({key: entry for key, entry in record.items() if key != "images"}, metric)
            if value is not None:
                found[record["iteration"]] = float(value)
    return found


def _side_by_side(
    pair: tuple[_Result, _Result], labels: tuple[str, str], data_set: str, number: int, process: Process
) -> list[Figure]:
    """Return input, both outputs, ground truth and the divergence of the outputs (the paper's Fig. 5), cut alike."""
    outputs: list[Tensor] = []
    for result in pair:
        datasets = result.options.datasets
        part = next(part for part in (datasets.test or datasets.val).values() if part.name == data_set)
        dataset = DATASETS.build(part.section)
        if number >= len(dataset):
            return []
        item = dataset[number]
        batch = to_device({**item, "lq": item["lq"][None], "gt": item["gt"][None]}, process.device)
        tester = Tester(result.options, process)
        load_into(tester.model, result.checkpoint)
        outputs.append(tester.model.restore(batch["lq"])[0])
    lq, gt = batch["lq"][0], batch["gt"][0]
    scale = gt.shape[-1] // lq.shape[-1]
    outputs, gt = [_middle(output, lq, scale) for output in outputs], _middle(gt, lq, scale)
    lq = _middle(lq, lq, 1, _LARGEST // scale).repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    named = f"{data_set}, image {number}"
    figures = [
        picture_figure(picture(image), f"{named}: {label}")
        for image, label in zip((lq, *outputs, gt), ("input", *labels, "ground truth"), strict=True)
    ]
    told = f"{named}: divergence |{labels[0]} − {labels[1]}| (bright: {ERROR_LIMIT} of 255)"
    return [*figures, picture_figure(error_map(outputs[0], outputs[1]), told)]


def _middle(image: Tensor, lq: Tensor, scale: int, side: int = _LARGEST) -> Tensor:
    """Return of an image (C, H, W) the part, at most ``side`` high and wide, that belongs to the middle of ``lq``."""
    within = side // scale
    top, left = (scale * max(0, (length - within) // 2) for length in lq.shape[1:])
    return image[:, top : top + within * scale, left : left + within * scale]
