"""Pictures on one another with a line between, and a slider of the time: what a training has made of an image."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass

from mcir.report.figures import Figure

_SMALL = 256


@dataclass(frozen=True)
class Shot:
    """A picture, as JPEG, and what is said of it; ``iteration`` is None where time does not change it."""

    data: bytes
    told: str
    iteration: int | None = None


@dataclass(frozen=True)
class Layer:
    """What can be chosen for the left or the right: one shot, or several, the latest first."""

    label: str
    shots: Sequence[Shot]


def slider(layers: Sequence[Layer], left: int, right: int, size: tuple[int, int], caption: str) -> Figure:
    """Lay pictures of one size on one another.

    Without a script the page shows all of them in a row.

    Args:
        layers: at least one.
        left: the number of the layer that is on the left at first.
        right: the same of the right.
        size: height and width of the pictures; small ones are shown enlarged.
        caption: what the figure shows.
    """
    height, width = size
    factor = max(1, _SMALL // max(height, width))
    times = sorted({shot.iteration for layer in layers for shot in layer.shots if shot.iteration is not None})
    shots = "".join(
        _shot_html(shot, number, (height, width)) for number, layer in enumerate(layers) for shot in layer.shots
    )
    divider = '<span class="divider"></span><input type="range" class="cut" min="0" max="100" step="any" value="50"'
    stage = f'<div class="stage">{shots}{divider} aria-label="where the two pictures meet"></div>'
    chosen = {"left": left, "right": right}
    selects = "".join(f"<label>{side} {_select(layers, side, number)}</label>" for side, number in chosen.items())
    clock = (
        f'<label class="time">iteration <input type="range" min="0" max="{len(times) - 1}" value="{len(times) - 1}">'
        "<output></output></label>"
        if len(times) > 1
        else ""
    )
    markup = (
        f'<div class="slider{" enlarged" * (factor > 1)}" data-times="{html.escape(json.dumps(times))}" '
        f'style="--width: {width * factor}; --height: {height * factor}">'
        f'{stage}<div class="controls">{clock}{selects}</div></div>'
    )
    return Figure(caption, markup, "pictures")


def _shot_html(shot: Shot, layer: int, size: tuple[int, int]) -> str:
    told = html.escape(shot.told)
    at = "" if shot.iteration is None else f' data-iteration="{shot.iteration}"'
    data = base64.b64encode(shot.data).decode("ascii")
    image = f'<img src="data:image/jpeg;base64,{data}" alt="{told}" height="{size[0]}" width="{size[1]}">'
    return f'<span class="shot" data-layer="{layer}"{at}>{image}<small>{told}</small></span>'


def _select(layers: Sequence[Layer], side: str, chosen: int) -> str:
    options = "".join(
        f'<option value="{number}"{" selected" * (number == chosen)}>{html.escape(layer.label)}</option>'
        for number, layer in enumerate(layers)
    )
    return f'<select class="{side}">{options}</select>'
