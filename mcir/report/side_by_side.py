"""Side-by-side comparison of two restored images: the crop where they differ most, errors, and a divergence map."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from mcir.report.comparison import colour_map, difference, picture
from mcir.report.figures import Figure, picture_figure
from mcir.report.page import render

CROP = 128
"""Approximate height and width of a crop, in pixels of the restored images."""

_STEPS_PER_CROP = 8  # candidates for a crop start at multiples of an eighth of its side
_LONGEST_SIDE = 320  # of the divergence map of a whole image
_QUANTILE = 0.99


@dataclass(frozen=True)
class Restored:
    """A restored image of a comparison.

    Attributes:
        name: name of the network.
        image: restored image, (C, H, W) in [0, 1].
        scores: metrics of the image, as text; may be empty.
    """

    name: str
    image: Tensor
    scores: str = ""

    @property
    def caption(self) -> str:
        """Name and metrics."""
        return f"{self.name}: {self.scores}" if self.scores else self.name


def side_by_side(caption: str, lq: Tensor, first: Restored, second: Restored, gt: Tensor | None = None) -> Figure:
    """Return the crop in which two restored images differ most: input, both images, ground truth, errors, divergence.

    The divergence is the absolute difference of the restored images, averaged over channels. If the crop is only a part
    of the image, the divergence of the whole image is the first map.

    Args:
        caption: caption of the figure.
        lq: degraded image, (C, H, W) in [0, 1].
        first: first restored image, of the size of ``lq`` or an integer multiple of it.
        second: second restored image, of the same shape.
        gt: ground truth, (C, H, W) in [0, 1], at least as large as the restored images.
    """
    scale = first.image.shape[-1] // lq.shape[-1]
    divergence = difference(first.image, second.image)
    rows, columns = most_different(divergence, scale)
    lq_rows, lq_columns = (slice(part.start // scale, part.stop // scale) for part in (rows, columns))
    cells = [_image("input", _enlarged(lq[:, lq_rows, lq_columns], scale))]
    cells += [_image(part.caption, part.image[:, rows, columns]) for part in (first, second)]
    maps = []
    if gt is not None:
        expected = gt[:, rows, columns]
        cells.append(_image("ground truth", expected))
        errors = {part.name: difference(part.image[:, rows, columns], expected) for part in (first, second)}
        limit = _limit(*errors.values())  # one for both, so that their colours are comparable
        maps += [_map(f"error of {name}", error, limit) for name, error in errors.items()]
    name, part = f"divergence |{first.name} − {second.name}|", divergence[rows, columns]
    maps.append(_map(name, part, _limit(part)))
    if part.shape != divergence.shape:
        maps.insert(0, _whole_map(name, divergence, rows, columns))
    return Figure(caption, render("side_by_side.html.jinja", cells=[*cells, *maps]), "comparison")


def most_different(divergence: Tensor, multiple: int = 1) -> tuple[slice, slice]:
    """Return the rows and columns of the square crop with the largest mean divergence.

    Args:
        divergence: divergence of two images, (H, W).
        multiple: common divisor of the bounds of the crop, and of H and W.
    """
    step = multiple * max(1, CROP // _STEPS_PER_CROP // multiple)
    height, width = (min(step * _STEPS_PER_CROP, side) for side in divergence.shape)
    tops, lefts = (
        np.array([*range(0, side - crop, step), side - crop])
        for side, crop in zip(divergence.shape, (height, width), strict=True)
    )
    sums = cv2.integral(divergence.numpy())  # of the rows above and the columns to the left of a pixel
    by_rows = sums[tops + height] - sums[tops]
    row, column = np.unravel_index((by_rows[:, lefts + width] - by_rows[:, lefts]).argmax(), (len(tops), len(lefts)))
    top, left = int(tops[row]), int(lefts[column])
    return slice(top, top + height), slice(left, left + width)


def _enlarged(image: Tensor, scale: int) -> Tensor:
    return image.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def _image(caption: str, image: Tensor) -> Figure:
    return picture_figure(picture(image), caption, "enlarged")


def _map(name: str, differences: Tensor, limit: float) -> Figure:
    return picture_figure(colour_map(differences, limit), f"{name} {_described(limit)}", "enlarged")


def _whole_map(name: str, divergence: Tensor, rows: slice, columns: slice) -> Figure:
    """Return the colour map of a whole image, with a frame around the crop."""
    shrink = min(1.0, _LONGEST_SIDE / max(divergence.shape))
    height, width = (max(1, round(side * shrink)) for side in divergence.shape)
    small = torch.from_numpy(cv2.resize(divergence.numpy(), (width, height), interpolation=cv2.INTER_AREA))
    limit = _limit(small)
    drawn = colour_map(small, limit)
    top, bottom, left, right = (round(end * shrink) for part in (rows, columns) for end in (part.start, part.stop - 1))
    cv2.rectangle(drawn, (left, top), (right, bottom), (255, 255, 255), 2)
    return picture_figure(drawn, f"{name}, whole image {_described(limit)}; the frame is the crop")


def _limit(*differences: Tensor) -> float:
    """Return the difference in 8-bit units with the brightest colour: the 99th percentile, or 1 if it is smaller."""
    values = torch.cat([part.flatten() for part in differences])
    return max(1.0, 255 * float(torch.quantile(values, _QUANTILE)))


def _described(limit: float) -> str:
    return f"(brightest: {limit:.1f} of 255)"
