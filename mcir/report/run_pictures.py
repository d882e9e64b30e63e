"""Image sliders for one or several trainings: two images with a movable divider, and a slider for the iteration."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mcir.report.figures import Figure
from mcir.report.page import Section, render
from mcir.report.progress import ImageHistory, evenly
from mcir.report.records import Run

_MAX_ITERATIONS, _MIN_ITERATIONS = 20, 5
_MAX_BYTES = 7 * 2**20  # 9.3 MiB in base64
_SMALL = 256

_Key = tuple[str, str]
"""A validation set and the name of an image."""


@dataclass(frozen=True)
class Frame:
    """A JPEG image with a caption; ``iteration`` is None for an image that does not change during training."""

    data: bytes
    caption: str
    iteration: int | None = None

    @property
    def base64(self) -> str:
        """The image data in base64."""
        return base64.b64encode(self.data).decode("ascii")


@dataclass(frozen=True)
class Layer:
    """An entry that readers can choose for either side: one or several frames, sorted from the latest."""

    label: str
    frames: Sequence[Frame]


def picture_section(runs: Sequence[Run]) -> Section:
    """Return sliders with input, ground truth and outputs over time, for as many images as the page can contain."""
    section = Section("Images over time")
    images = _images(runs)
    shown, times = _select(images)
    section.figures = [_slider(key, images[key], runs, times) for key in shown]
    if shown:
        section.paragraphs.append(
            "Drag the divider, or move it with the arrow keys. Choose the two images and the iteration. Without "
            "JavaScript, all images are in a row. The images are crops from the centre, compressed, for viewing only."
        )
    if len(shown) < len(images):
        section.paragraphs.append(f"{len(shown)} of {len(images)} images are shown, to keep the page small.")
    return section


def _images(runs: Sequence[Run]) -> dict[_Key, dict[str, ImageHistory]]:
    """Return the histories of each image by run; histories of another size than the first one are left out."""
    found: dict[_Key, dict[str, ImageHistory]] = {}
    for run in runs:
        for data_set in dict.fromkeys([*run.metrics, *run.pictures]):
            for name, image in run.pictures.get(data_set, {}).items():
                histories = found.setdefault((data_set, name), {})
                if image.size == next(iter(histories.values()), image).size:
                    histories[run.name] = image
    return found


def _select(images: Mapping[_Key, Mapping[str, ImageHistory]]) -> tuple[list[_Key], int]:
    """Return the images to show and their number of iterations, within the size limit of the page.

    The first image of every set is chosen before the second image of any set.
    """
    seen = Counter[str]()
    rank: dict[_Key, int] = {}
    for key in images:
        rank[key] = seen[key[0]]
        seen[key[0]] += 1
    chosen: set[_Key] = set()
    total = 0
    for key in sorted(images, key=rank.__getitem__):
        size = sum(image.largest for image in images[key].values())
        if chosen and (total + size) * (_MIN_ITERATIONS + 2) > _MAX_BYTES:
            break
        chosen.add(key)
        total += size
    return [key for key in images if key in chosen], max(2, min(_MAX_ITERATIONS, _MAX_BYTES // max(total, 1) - 2))


def _slider(key: _Key, histories: Mapping[str, ImageHistory], runs: Sequence[Run], times: int) -> Figure:
    data_set, name = key
    metrics = {run.name: run.metrics.get(data_set, {}) for run in runs}
    baseline = next((metric.baseline for run in histories for metric in metrics[run].values()), "input")
    degraded = next((history.input for history in histories.values() if history.input), None)
    gt = next((history.gt for history in histories.values() if history.gt), None)
    references = {baseline: degraded, "ground truth": gt}
    layers = [Layer(label, [Frame(file.read_bytes(), label)]) for label, file in references.items() if file]
    first = len(layers)
    for run, history in histories.items():
        label = run if len(runs) > 1 else "output"
        frames = []
        for at in reversed(evenly(list(history.outputs), times)):
            scores = [
                f"{key} {metric.format(metric.images[at][name])}"
                for key, metric in metrics[run].items()
                if name in metric.images.get(at, {})
            ]
            caption = f"{label} at {at:,}" + f": {', '.join(scores)}" * bool(scores)
            frames.append(Frame(history.outputs[at].read_bytes(), caption, at))
        layers.append(Layer(label, frames))
    left, right = (0, first) if len(histories) == 1 else (first, first + 1)
    return slider(layers, left, right, next(iter(histories.values())).size, f"{data_set}: {name}")


def slider(layers: Sequence[Layer], left: int, right: int, size: tuple[int, int], caption: str) -> Figure:
    """Return a slider for images of one size. Without JavaScript, the page shows all images in a row.

    Args:
        layers: entries to choose from, at least one.
        left: index of the layer that is initially shown on the left.
        right: index of the layer that is initially shown on the right.
        size: height and width of the images; small images are shown enlarged.
        caption: caption of the figure.
    """
    height, width = size
    times = sorted({frame.iteration for layer in layers for frame in layer.frames if frame.iteration is not None})
    factor = max(1, _SMALL // max(height, width))
    values = {"layers": layers, "left": left, "right": right, "height": height, "width": width}
    return Figure(caption, render("slider.html.jinja", **values, times=times, factor=factor), "pictures")
