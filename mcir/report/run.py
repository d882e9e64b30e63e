"""The page of one or several trainings: results, curves, images, options and environment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcir.atomic import check_writable, write_atomically
from mcir.report.metric import Metric
from mcir.report.option_changes import changed_options
from mcir.report.page import Report, Section
from mcir.report.records import Run, read_run
from mcir.report.run_cards import run_cards
from mcir.report.run_curves import curve_sections
from mcir.report.run_pictures import picture_section

PAGE = "report.html"
"""File name of the page in the folder of a run."""

_FACTS = {
    "model": "model",
    "network": "network",
    "parameters": "parameters",
    "images": "training images",
    "processes": "processes",
    "device": "device",
    "cpu": "CPU",
    "cores": "CPU cores",
    "threads": "threads per process",
    "mcir": "mcir",
    "torch": "torch",
    "cuda": "CUDA",
    "python": "Python",
    "system": "system",
    "git": "git revision",
}


def write_report(folders: Sequence[Path], file: Path, running: Callable[[Path], bool] = lambda folder: False) -> None:
    """Write the page of one or several trainings.

    Args:
        folders: folders of the trainings; the curves of several share one drawing.
        file: path of the page.
        running: function that returns whether a training runs in a folder.

    Raises:
        ValueError: ``file`` is a folder.
        OSError: a file cannot be read, or the page cannot be written.
    """
    if file.is_dir():
        raise ValueError(f"{file}: expected the path of a file such as {file / PAGE}, got a folder.")
    check_writable(file)
    different = {folder.resolve(): folder for folder in folders}.values()
    runs = [read_run(folder, running(folder)) for folder in different]
    names = Counter(run.name for run in runs)
    runs = [run if names[run.name] == 1 else replace(run, name=str(run.folder)) for run in runs]
    write_atomically(file, build_report(runs).as_html().encode())


def build_report(runs: Sequence[Run]) -> Report:
    """Return the page of runs."""
    sections = [_results(runs), picture_section(runs), *curve_sections(runs)]
    sections += [_environment(runs), *_options(runs), _missing(runs)]
    status = runs[0].state if len(runs) == 1 else ""
    cards = run_cards(runs[0]) if len(runs) == 1 else []
    return Report(" · ".join(run.name for run in runs), sections, status, cards, interactive=True)


# -- results ----------------------------------------------------------------------------------------------------------


def _results(runs: Sequence[Run]) -> Section:
    section = Section("Results")
    several = len(runs) > 1
    head = ["set", "metric", "baseline", "last", "at iteration", "gain", "best", "at iteration"]
    rows = [["run", *head, f"difference to {runs[0].name}"] if several else head]
    for run in runs:
        sentences = [_sentence(name, *next(iter(metrics.items()))) for name, metrics in run.metrics.items()]
        section.paragraphs += [" ".join([f"{run.name}, {run.state}.", *sentences])] if several else sentences
        for data_set, metrics in run.metrics.items():
            for name, metric in metrics.items():
                cells = _cells(data_set, name, metric)
                rows.append([run.name, *cells, _difference(runs[0], data_set, name, metric)] if several else cells)
    section.table = rows if len(rows) > 1 else []
    return section


def _sentence(data_set: str, name: str, metric: Metric) -> str:
    """Summarize a metric of a validation set in one sentence."""
    (at, last), (best_at, best) = metric.last, metric.best
    text = f"{data_set}: {name} {metric.format(last)} at iteration {at:,}"
    if metric.baseline_value is not None:
        gain = metric.format(last - metric.baseline_value, "+")
        text += f", {gain} over {metric.baseline} ({metric.format(metric.baseline_value)})"
    return f"{text}; {'the best value' if best_at == at else f'best {metric.format(best)} at {best_at:,}'}."


def _cells(data_set: str, name: str, metric: Metric) -> list[str]:
    (at, last), (best_at, best), reference = metric.last, metric.best, metric.baseline_value
    baseline = "–" if reference is None else f"{metric.baseline} {metric.format(reference)}"
    gain = "–" if reference is None else metric.format(last - reference, "+")
    return [data_set, name, baseline, metric.format(last), f"{at:,}", gain, metric.format(best), f"{best_at:,}"]


def _difference(first: Run, data_set: str, name: str, metric: Metric) -> str:
    """Return the difference to the first run at the last iteration at which both were evaluated."""
    other = first.metrics.get(data_set, {}).get(name)
    ours, theirs = dict(metric.points), dict(other.points if other else ())
    common = ours.keys() & theirs.keys()
    if other is metric or not common:
        return "–"
    return f"{metric.format(ours[max(common)] - theirs[max(common)], '+')} at {max(common):,}"


# -- options and environment ------------------------------------------------------------------------------------------


def _environment(runs: Sequence[Run]) -> Section:
    section = Section("Environment", is_text_table=True)
    started = [run for run in runs if run.starts]
    facts = [[label, *(_fact(run.starts[-1], key) for run in started)] for key, label in _FACTS.items()]
    if started:
        section.table = [["at the last start", *(run.name for run in started)], *facts]
    for run in started:
        section.paragraphs += [_describe_start(run, number) for number in range(len(run.starts))]
    return section


def _fact(start: Mapping[str, Any], key: str) -> str:
    value = start.get(key)
    if key == "git" and isinstance(value, str):
        revision = value.removesuffix("-dirty")
        return revision if revision == value else f"{revision}, with uncommitted changes"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _describe_start(run: Run, number: int) -> str:
    """Describe when a run was started or resumed, and what changed since the previous start."""
    start = run.starts[number]
    text = f"{run.name}: started {start.get('started', 'at an unknown time')}"
    text += f" from iteration {start['iteration']:,}" * bool(start["iteration"])
    if number:
        before = run.starts[number - 1]
        text += "".join(
            f"; {label} {_fact(start, key)}, before {_fact(before, key)}"
            for key, label in _FACTS.items()
            if start.get(key) != before.get(key)
        )
    changes = start.get("changes")
    return f"{text}; options: {'; '.join(map(str, changes))}." if changes and isinstance(changes, list) else f"{text}."


def _options(runs: Sequence[Run]) -> list[Section]:
    sections = []
    for run in runs[1:]:
        if runs[0].options and run.options:
            changes = changed_options(runs[0].options, run.options)
            heading = f"Options of {run.name} that differ from {runs[0].name}"
            sections.append(Section(heading, [] if changes else ["None."], changes=changes))
    for run in runs:
        heading = "Options" if len(runs) == 1 else f"All options of {run.name}"
        sections.append(Section(heading, code=run.options, folded=True))
    return sections


def _missing(runs: Sequence[Run]) -> Section:
    lines = [f"{run.name}: {text}" if len(runs) > 1 else text for run in runs for text in run.missing]
    return Section("What is missing", lines)
