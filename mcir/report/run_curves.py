"""The curves of one or several trainings: quality, losses, steps and speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mcir.report.figures import Figure, Points, curves, spans_decades
from mcir.report.page import Section
from mcir.report.records import Run

_STEP = {
    "lr": ("Learning rate", "lr"),
    "grad_norm": ("Norm of the gradient", "norm"),
}
_BALANCE = {
    "grad_l_": ("L2 norm of the gradient of l_{} at the output", "norm"),
    "ratio_": ("Gradient of {} over the gradient of the first loss, both at the output", "ratio"),
    "cosine_": ("Cosine between the gradients of {} and the first loss", "cosine"),
    "factor_": ("Factor that keeps the gradient ratio of {} constant", "factor"),
    "weight_": ("Weight of {} including its factor", "weight"),
}
_SPEED = {
    "images_per_s": ("Speed over all processes", "images/s"),
    "data_time": ("Fraction of the time spent waiting for data", "fraction"),
    "memory_mib": ("Memory", "MiB"),
}


def curve_sections(runs: Sequence[Run]) -> list[Section]:
    """Return sections with the curves of all metrics and all logged values."""
    names = list(dict.fromkeys(name for run in runs for name in run.scalars))
    losses = {name: (name, "loss") for name in names if name.startswith("l_")}
    balance = {
        name: (caption.format(name.removeprefix(prefix)), label)
        for name in names
        for prefix, (caption, label) in _BALANCE.items()
        if name.startswith(prefix)
    }
    others = {name: (name, "value") for name in names if name not in {**losses, **balance, **_STEP, **_SPEED}}
    groups = {
        "Losses": losses,
        "Steps": _STEP,
        "Gradients of the losses": balance,
        "Other logged values": others,
        "Speed and memory": _SPEED,
    }
    sections = [Section("Quality", figures=_quality(runs))]
    for heading, group in groups.items():
        sections.append(
            Section(heading, figures=[_scalar(runs, name, *group[name]) for name in group if name in names])
        )
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


def _scalar(runs: Sequence[Run], name: str, caption: str, y_label: str) -> Figure:
    series = {run.name: run.scalars.get(name, []) for run in runs}
    logarithmic = spans_decades(value for points in series.values() for _, value in points)
    lines, marks = _labelled(series, name), _resumes(runs)
    return curves(lines, caption, "iteration", y_label, marks=marks, logarithmic=logarithmic, smooth=True)


def _labelled(series: Mapping[str, Points], name: str) -> Mapping[str, Points]:
    """Return the series by run; a single series by the name of its quantity."""
    return series if len(series) > 1 else {name: next(iter(series.values()))}


def _resumes(runs: Sequence[Run]) -> list[float]:
    """Return the iterations at which a single run was resumed; an empty list for several runs."""
    return [float(start["iteration"]) for start in runs[0].starts[1:]] if len(runs) == 1 else []
