"""The curves of one or several trainings: quality, losses, steps and speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mcir.report.figures import Figure, Points, curves, spans_decades
from mcir.report.page import Section
from mcir.report.records import Run
from mcir.report.scalars import GROUPS, Scalar, describe


def curve_sections(runs: Sequence[Run]) -> list[Section]:
    """Return sections with the curves of all metrics and all logged values."""
    names = list(dict.fromkeys(name for run in runs for name in run.scalars))
    described = {name: describe(name) for name in names}
    sections = [Section("Quality", figures=_quality(runs))]
    for heading in GROUPS:
        scalars = {name: scalar for name, (group, scalar) in described.items() if group == heading}
        figures = [_scalar(runs, name, scalar) for name, scalar in scalars.items()]
        notes = [f"{name}: {scalar.explanation}" for name, scalar in scalars.items() if scalar.explanation]
        sections.append(Section(heading, figures=figures, notes=notes))
    if names:
        sections[1].paragraphs.append(
            "For a noisy curve, the faint line shows the logged values, and the strong line their running mean over a "
            "thirtieth of the points. The numbers are the last values, or those under the pointer."
            + " Dotted lines mark where the run was resumed."
            * bool(_resumes(runs))
        )
    return sections


def _quality(runs: Sequence[Run]) -> list[Figure]:
    figures = []
    for data_set, key in dict.fromkeys(
        (name, key) for run in runs for name, found in run.metrics.items() for key in found
    ):
        found = {run.name: metric for run in runs if (metric := run.metrics.get(data_set, {}).get(key))}
        series = {run.name: found[run.name].points if run.name in found else [] for run in runs}
        levels = {run: metric.baseline_value for run, metric in found.items() if metric.baseline_value is not None}
        if len(set(levels.values())) == 1:  # the same for all runs
            levels = {found[run].baseline: value for run, value in list(levels.items())[:1]}
        else:
            levels = {f"{found[run].baseline} ({run})": value for run, value in levels.items()}
        unit = next(iter(found.values())).unit
        y_label = f"{key} in {unit}" if unit else key
        lines, marks = _labelled(series, key), _resumes(runs)
        figures.append(curves(lines, f"{data_set}: {key}", "iteration", y_label, levels=levels, marks=marks))
    return figures


def _scalar(runs: Sequence[Run], name: str, scalar: Scalar) -> Figure:
    series = {run.name: run.scalars.get(name, []) for run in runs}
    logarithmic = spans_decades(value for points in series.values() for _, value in points)
    lines, marks = _labelled(series, name), _resumes(runs)
    caption = f"{name}: {scalar.caption}" if scalar.caption else name
    return curves(lines, caption, "iteration", scalar.label, marks=marks, logarithmic=logarithmic, smooth=True)


def _labelled(series: Mapping[str, Points], name: str) -> Mapping[str, Points]:
    """Return the series by run; a single series by the name of its quantity."""
    return series if len(series) > 1 else {name: next(iter(series.values()))}


def _resumes(runs: Sequence[Run]) -> list[float]:
    """Return the iterations at which a single run was resumed; an empty list for several runs."""
    return [float(start["iteration"]) for start in runs[0].starts[1:]] if len(runs) == 1 else []
