"""The page of a training, or of several side by side: results, curves, pictures over time, options and machine."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcir.report.page import Report, Section
from mcir.report.records import Metric, Run, read_run
from mcir.report.run_curves import curve_sections
from mcir.report.run_pictures import picture_section

PAGE = "report.html"
"""The file in the folder of a run."""

_FACTS = {
    "model": "model",
    "network": "network",
    "parameters": "parameters",
    "images": "training images",
    "processes": "processes",
    "device": "device",
    "cpu": "CPU",
    "cores": "CPU cores",
    "threads": "threads of a process",
    "mcir": "mcir",
    "torch": "torch",
    "cuda": "CUDA",
    "python": "Python",
    "system": "system",
    "git": "git revision",
}


def write_report(folders: Sequence[Path], file: Path, running: Callable[[Path], bool] = lambda folder: False) -> None:
    """Write the page of the trainings in these folders.

    Args:
        folders: one, or several, whose curves and pictures are laid on one another.
        file: the page.
        running: whether a training goes on in a folder at this moment.

    Raises:
        ValueError: the page is a folder.
        OSError: a file cannot be read, or the page not be written.
    """
    if file.is_dir():
        raise ValueError(f"{file}: is a folder; name the page, like {file / PAGE}")
    different = {folder.resolve(): folder for folder in folders}.values()
    runs = [read_run(folder, running(folder)) for folder in different]
    names = Counter(run.name for run in runs)
    runs = [run if names[run.name] == 1 else replace(run, name=str(run.folder)) for run in runs]
    text = tell(runs).as_html()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.part")
    try:
        temporary.write_text(text, encoding="utf-8", errors="replace")  # a folder's name may be no text
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def tell(runs: Sequence[Run]) -> Report:
    """Return the page of runs."""
    sections = [_results(runs), picture_section(runs), *curve_sections(runs)]
    sections += [_environment(runs), *_options(runs), _missing(runs)]
    kept = [part for part in sections if part.paragraphs or part.table or part.figures or part.code]
    status = runs[0].state if len(runs) == 1 else ""
    return Report(" · ".join(run.name for run in runs), kept, status, live=True)


# -- results ----------------------------------------------------------------------------------------------------------


def _results(runs: Sequence[Run]) -> Section:
    section = Section("Result")
    several = len(runs) > 1
    head = ["set", "metric", "given", "last", "at iteration", "gain", "best", "at iteration"]
    rows = [["run", *head, f"against {runs[0].name}"] if several else head]
    for run in runs:
        told = [_in_a_line(name, *next(iter(metrics.items()))) for name, metrics in run.metrics.items()]
        section.paragraphs += [" ".join([f"{run.name}, {run.state}.", *told])] if several else told
        for data_set, metrics in run.metrics.items():
            for name, metric in metrics.items():
                cells = _cells(data_set, name, metric)
                rows.append([run.name, *cells, _against(runs[0], data_set, name, metric)] if several else cells)
    if len(rows) > 1:
        section.table = rows
    return section


def _in_a_line(data_set: str, name: str, metric: Metric) -> str:
    """Say in a line how well a validation set is restored."""
    (at, last), (best_at, best) = metric.last, metric.best
    told = f"{data_set}: {name} {metric.shown(last)} at iteration {at:,}"
    if metric.of_input is not None:
        gain = metric.shown(last - metric.of_input, "+")
        told += f", {gain} against {metric.given} ({metric.shown(metric.of_input)})"
    return f"{told}; {'its best' if best_at == at else f'best {metric.shown(best)} at {best_at:,}'}."


def _cells(data_set: str, name: str, metric: Metric) -> list[str]:
    (at, last), (best_at, best), of_input = metric.last, metric.best, metric.of_input
    given = "–" if of_input is None else f"{metric.given} {metric.shown(of_input)}"
    gain = "–" if of_input is None else metric.shown(last - of_input, "+")
    return [data_set, name, given, metric.shown(last), f"{at:,}", gain, metric.shown(best), f"{best_at:,}"]


def _against(first: Run, data_set: str, name: str, metric: Metric) -> str:
    """Return the difference to the first run at the last iteration that both were evaluated at."""
    other = first.metrics.get(data_set, {}).get(name)
    ours, theirs = dict(metric.points), dict(other.points if other else ())
    if other is metric or not ours.keys() & theirs.keys():
        return "–"
    at = max(ours.keys() & theirs.keys())
    return f"{metric.shown(ours[at] - theirs[at], '+')} at {at:,}"


# -- options and machine ----------------------------------------------------------------------------------------------


def _environment(runs: Sequence[Run]) -> Section:
    section = Section("Environment", words=True)
    started = [run for run in runs if run.starts]
    facts = [[label, *(_fact(run.starts[-1], key) for run in started)] for key, label in _FACTS.items()]
    if started:
        section.table = [["at the last start", *(run.name for run in started)], *facts]
    for run in started:
        section.paragraphs += [_start_told(run, number) for number in range(len(run.starts))]
    return section


def _fact(start: Mapping[str, Any], key: str) -> str:
    value = start.get(key)
    if key == "git" and isinstance(value, str):
        revision = value.removesuffix("-dirty")
        return revision if revision == value else f"{revision}, with changes that are not in it"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _start_told(run: Run, number: int) -> str:
    """Say when a run started or went on, and what was different from the time before."""
    start = run.starts[number]
    told = f"{run.name}: started {start.get('started', 'at a time that is not recorded')}"
    told += f" from iteration {start['iteration']:,}" * bool(start["iteration"])
    if number:
        before = run.starts[number - 1]
        told += "".join(
            f"; {label} {_fact(start, key)}, before {_fact(before, key)}"
            for key, label in _FACTS.items()
            if start.get(key) != before.get(key)
        )
    changes = start.get("changes")
    return f"{told}; options: {'; '.join(map(str, changes))}." if changes and isinstance(changes, list) else f"{told}."


def _options(runs: Sequence[Run]) -> list[Section]:
    sections = []
    for run in runs[1:]:
        if runs[0].options and run.options:
            first, second = runs[0].options.splitlines(), run.options.splitlines()
            lines = list(difflib.unified_diff(first, second, lineterm=""))[2:]
            changes = "\n".join("…" if line.startswith("@@") else line for line in lines)
            heading = f"Options of {run.name} (+) and not of {runs[0].name} (−)"
            sections.append(Section(heading, code=changes or "none"))
    for run in runs:
        heading = "Options" if len(runs) == 1 else f"All options of {run.name}"
        sections.append(Section(heading, code=run.options, folded=True))
    return sections


def _missing(runs: Sequence[Run]) -> Section:
    told = [f"{run.name}: {text}" if len(runs) > 1 else text for run in runs for text in run.missing]
    return Section("What is missing", told)
