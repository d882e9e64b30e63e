"""Two images on top of one another with a movable divider, and a slider for the iteration."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from mcir.report.figures import Figure
from mcir.report.page import render

_SMALL = 256


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
