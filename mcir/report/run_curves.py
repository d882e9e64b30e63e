"""The curves of a training, or of several laid on one another: quality, losses, steps, speed."""

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
    "ratio_": ("Gradient of {} over that of the first loss, both at the output", "ratio"),
    "cosine_": ("Cosine between the gradients of {} and of the first loss", "cosine"),
    "factor_": ("Factor that holds {} in balance", "factor"),
    "weight_": ("Weight that {} has by its balance", "weight"),
}
_SPEED = {
    "images_per_s": ("Speed, over all processes", "images/s"),
    "data_time": ("Share of the time that was spent waiting for data", "share"),
    "memory_mib": ("Peak memory", "MiB"),
}


def curve_sections(runs: Sequence[Run]) -> list[Section]:
    """Draw what was measured on the validation sets and all that was told of the iterations."""
    names = list(dict.fromkeys(name for run in runs for name in run.scalars))
    losses = {name: (name, "loss") for name in names if name.startswith("l_")}
    balance = {
        name: (told.format(name.removeprefix(prefix)), label)
        for name in names
        for prefix, (told, label) in _BALANCE.items()
        if name.startswith(prefix)
    }
    others = {name: (name, "value") for name in names if name not in {**losses, **balance, **_STEP, **_SPEED}}
    kinds = {
        "Losses": losses,
        "Steps": _STEP,
        "Balance of the losses": balance,
        "What else was told": others,
        "Speed and memory": _SPEED,
    }
    sections = [Section("Quality", figures=_quality(runs))]
    for heading, told in kinds.items():
        figures = [_scalar(runs, name, *told[name]) for name in told if name in names]
        sections.append(Section(heading, figures=figures))
    if names:
        sections[1].paragraphs.append(
            "Where a curve is noisy, the faint line is what was logged and the strong one a running mean over a "
            "thirtieth of the points. The numbers are those at the end of the lines, or under the pointer."
            + " Dotted lines: here the run was resumed."
            * bool(_resumes(runs))
        )
    return sections


def _quality(runs: Sequence[Run]) -> list[Figure]:
    figures = []
    wanted = dict.fromkeys((name, key) for run in runs for name, metrics in run.metrics.items() for key in metrics)
    for name, key in wanted:
        found = {run.name: metric for run in runs if (metric := run.metrics.get(name, {}).get(key))}
        series = {run.name: found[run.name].points if run.name in found else [] for run in runs}
        inputs = {label: metric.of_input for label, metric in found.items() if metric.of_input is not None}
        if len(set(inputs.values())) == 1:  # the same set for all
            inputs = {found[label].given: value for label, value in list(inputs.items())[:1]}
        else:
            inputs = {f"{found[label].given} ({label})": value for label, value in inputs.items()}
        unit = next(iter(found.values())).unit
        y_label = f"{key} in {unit}" if unit else key
        marks = _resumes(runs)
        figures.append(curves(_named(series, key), f"{name}: {key}", "iteration", y_label, levels=inputs, marks=marks))
    return figures


def _scalar(runs: Sequence[Run], name: str, caption: str, y_label: str) -> Figure:
    series = {run.name: run.scalars.get(name, []) for run in runs}
    return curves(
        _named(series, name),
        caption,
        "iteration",
        y_label,
        marks=_resumes(runs),
        logarithmic=spans_decades(value for points in series.values() for _, value in points),
        smooth=True,
    )


def _named(series: Mapping[str, Points], name: str) -> Mapping[str, Points]:
    """Return series by run, or the only one by what it is of."""
    return series if len(series) > 1 else {name: next(iter(series.values()))}


def _resumes(runs: Sequence[Run]) -> list[float]:
    """Return where the one run was resumed, if there is only one."""
    return [float(start["iteration"]) for start in runs[0].starts[1:]] if len(runs) == 1 else []
