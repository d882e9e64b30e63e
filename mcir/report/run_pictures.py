"""The pictures of a training over time, or of several against one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mcir.report.figures import Figure
from mcir.report.page import Section
from mcir.report.progress import Progress, evenly
from mcir.report.records import Run
from mcir.report.slider import Layer, Shot, slider

_TIMES, _FEWEST_TIMES = 20, 5
_BYTES = 7 * 2**20  # in base64 9.3 MiB

_Key = tuple[str, str]
"""A validation set and an image of it."""


def picture_section(runs: Sequence[Run]) -> Section:
    """Show what went in, what came out from time to time, and what was wanted, of as many images as a page can hold."""
    section = Section("Pictures over time")
    images = _images(runs)
    shown, times = _within_bounds(images)
    section.figures = [_slider(key, images[key], runs, times) for key in shown]
    if shown:
        section.paragraphs.append(
            "Drag the line or move it with the arrow keys; choose what is on its two sides, and the time. Without "
            "JavaScript all pictures stand in a row. They are the middle of the images, compressed: for the eye, not "
            "for measuring."
        )
    if len(shown) < len(images):
        section.paragraphs.append(f"{len(shown)} of {len(images)} images are shown, as the page is to stay small.")
    return section


def _images(runs: Sequence[Run]) -> dict[_Key, dict[str, Progress]]:
    """Return of each image what the runs made of it, as far as it is of one size."""
    found: dict[_Key, dict[str, Progress]] = {}
    for run in runs:
        for data_set in dict.fromkeys([*run.metrics, *run.pictures]):
            for name, image in run.pictures.get(data_set, {}).items():
                of_image = found.setdefault((data_set, name), {})
                if image.size == next(iter(of_image.values()), image).size:
                    of_image[run.name] = image
    return found


def _within_bounds(images: Mapping[_Key, Mapping[str, Progress]]) -> tuple[list[_Key], int]:
    """Return which images are shown, and of how many times, so that the page does not become too large.

    Before any set has a second image, each has one.
    """
    seen = Counter[str]()
    turns: dict[_Key, int] = {}
    for key in images:
        turns[key] = seen[key[0]]
        seen[key[0]] += 1
    chosen: set[_Key] = set()
    total = 0
    for key in sorted(images, key=turns.__getitem__):
        size = sum(image.largest for image in images[key].values())
        if chosen and (total + size) * (_FEWEST_TIMES + 2) > _BYTES:
            break
        chosen.add(key)
        total += size
    return [key for key in images if key in chosen], max(2, min(_TIMES, _BYTES // max(total, 1) - 2))


def _slider(key: _Key, of_runs: Mapping[str, Progress], runs: Sequence[Run], times: int) -> Figure:
    data_set, name = key
    image = next(iter(of_runs.values()))
    metrics = {run.name: run.metrics.get(data_set, {}) for run in runs}
    given = next((metric.given for run in of_runs for metric in metrics[run].values()), "input")
    inputs = [progress.given for progress in of_runs.values() if progress.given]
    wanted = [progress.gt for progress in of_runs.values() if progress.gt]
    beside = [(given, file) for file in inputs[:1]] + [("ground truth", file) for file in wanted[:1]]
    layers = [Layer(label, [Shot(file.read_bytes(), label)]) for label, file in beside]
    first = len(layers)
    for run, progress in of_runs.items():
        label = run if len(runs) > 1 else "output"
        shots = []
        for at in reversed(evenly(list(progress.outputs), times)):
            of_image = {key: metric.images.get(at, {}).get(name) for key, metric in metrics[run].items()}
            scores = [f"{key} {metrics[run][key].shown(value)}" for key, value in of_image.items() if value is not None]
            told = f"{label} at {at:,}" + f": {', '.join(scores)}" * bool(scores)
            shots.append(Shot(progress.outputs[at].read_bytes(), told, at))
        layers.append(Layer(label, shots))
    left, right = (0, first) if len(of_runs) == 1 else (first, first + 1)
    return slider(layers, left, right, image.size, f"{data_set}: {name}")
