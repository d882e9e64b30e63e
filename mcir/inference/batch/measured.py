"""How near restored pictures come to their ground truths, and pictures of before and after.

PSNR and SSIM are those of ``mcir.metrics``, on 8 bits, of RGB, or of grey where all is grey. They are taken strip by
strip, so that the memory does not grow with the picture; the numbers are those of the whole.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from mcir.atomic import write_atomically
from mcir.data.codec import Array
from mcir.data.resize import imresize
from mcir.inference.output_buffer import as_floats, as_tensor
from mcir.metrics import PSNR, SSIM
from mcir.report.comparison import Picture, comparison

WIDEST = 4096
"""Pixels of a picture of before and after, along its longer side; larger ones are shrunk."""

SHOWN = 30
"""Rows of the table; the files have all."""

_STRIP = 2**20  # pixels that are compared at a time
_MARGIN = 3  # rows of the input that an enlarged strip needs beyond it

_Rows = Callable[[int, int], Tensor]


@dataclass(frozen=True)
class Scores:
    """What a restored picture is worth, and its input, enlarged bicubically where the scale asks for it."""

    psnr: float
    ssim: float
    psnr_of_input: float
    ssim_of_input: float


def require_fit(size: tuple[int, int], of_gt: tuple[int, int], scale: int, border: int) -> None:
    """See that a ground truth can be compared with what becomes of a picture.

    Args:
        size: height and width of the picture.
        of_gt: those of the ground truth; a remainder of less than ``scale`` pixels at its bottom and right is cut off.
        scale: how much larger the restored picture is.
        border: pixels that are left out on each side.

    Raises:
        ValueError: it cannot.
    """
    height, width = (side * scale for side in size)
    if tuple(side // scale for side in of_gt) != size:
        raise ValueError(
            f"the ground truth has {of_gt[1]}×{of_gt[0]} pixels, the restored picture {width}×{height}"
            f"{f' (×{scale})' if scale > 1 else ''}"
        )
    least = SSIM.smallest + 2 * border
    if min(height, width) < least:
        crop = f" with a border of {border}" if border else ""
        raise ValueError(f"{width}×{height} restored pixels; SSIM takes at least {least}×{least}{crop}")


def score(source: Array, output: Array, gt: Array, scale: int, border: int = 0) -> Scores:
    """Compare a restored picture, and what went in, with the ground truth.

    Args:
        source: what went in, (H, W, C), uint8 or uint16 like the others, C 1 or 3.
        output: what came out, (sH, sW, C).
        gt: what was wanted, at least as large.
        scale: s.
        border: pixels that are left out on each side.
    """
    height, width = output.shape[:2]
    channels = max(image.shape[2] for image in (source, output, gt))

    def rows_of(image: Array) -> _Rows:
        return lambda top, bottom: _floats(image[top:bottom, :width]).expand(1, channels, -1, -1)

    def enlarged(top: int, bottom: int) -> Tensor:
        first = max(0, top // scale - _MARGIN)
        strip = imresize(_floats(source[first : -(-bottom // scale) + _MARGIN]).double(), scale)
        return strip[:, :, top - first * scale : bottom - first * scale].expand(1, channels, -1, -1)

    before = enlarged if scale > 1 else rows_of(source)
    wanted = rows_of(gt)
    of_output, of_input = (_compared(rows, wanted, height, width, border) for rows in (rows_of(output), before))
    return Scores(*of_output, *of_input)


def before_after(source: Array, output: Array, gt: Array | None, scale: int, scores: Scores | None) -> Picture:
    """Return a picture and what became of it side by side; with a ground truth that and the error, too.

    What would be longer than ``WIDEST`` pixels is shrunk, all parts alike.

    Args:
        source: what went in, (H, W, C), uint8 or uint16 like the others.
        output: what came out, (sH, sW, C).
        gt: what was wanted, at least as large.
        scale: s.
        scores: for the captions.
    """
    height, width = output.shape[:2]
    columns = 2 if gt is None else 4
    shrink = min(1.0, (WIDEST // columns - 8) / width, (WIDEST - 32) / height)  # gaps, captions
    size = (max(1, int(width * shrink)), max(1, int(height * shrink)))
    if scale > 1 and shrink == 1:
        upscaled = imresize(_floats(source).double(), scale)[0]
    else:
        upscaled = _floats(_resized(source, size))[0]
    wanted = None if gt is None else _floats(_resized(gt[:height, :width], size))[0]
    given = "bicubic" if scale > 1 else "input"
    captions = (given, "output")
    if scores is not None:
        captions = (
            f"{given}: {scores.psnr_of_input:.2f} dB, SSIM {scores.ssim_of_input:.4f}",
            f"output: {scores.psnr:.2f} dB, SSIM {scores.ssim:.4f}",
        )
    return comparison(upscaled, _floats(_resized(output, size))[0], wanted, captions)


def mean(scores: Mapping[str, Scores]) -> Scores:
    """Return the mean over all pictures."""
    values = [list(asdict(one).values()) for one in scores.values()]
    return Scores(*(sum(column) / len(values) for column in zip(*values, strict=True)))


def write_scores(folder: Path, scores: Mapping[str, Scores], facts: Mapping[str, Any]) -> None:
    """Write ``metrics.json`` and ``metrics.csv``, each whole or not at all.

    Args:
        folder: where they go.
        scores: of each picture by its name.
        facts: what else the JSON says. An infinite value (the PSNR of equal pictures) is the string ``"inf"``.
    """
    rows = {plain(name): asdict(one) for name, one in {**scores, "mean": mean(scores)}.items()}
    images = {name: {key: _finite(value) for key, value in row.items()} for name, row in rows.items()}
    tree = {**facts, "mean": images.pop("mean"), "images": images}
    text = json.dumps(tree, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(folder / "metrics.json", text.encode("utf-8", "replace"))
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(["picture", *Scores.__dataclass_fields__])
    table.writerows([name, *row.values()] for name, row in rows.items())
    write_atomically(folder / "metrics.csv", lines.getvalue().encode("utf-8", "replace"))


def scores_table(scores: Mapping[str, Scores], scale: int) -> Table:
    """Return a table of the first pictures and the mean, for the terminal."""
    given = "bicubic" if scale > 1 else "input"
    table = Table()
    table.add_column("picture", overflow="fold")
    for heading in (f"PSNR of {given}", "restored", "gain", f"SSIM of {given}", "restored", "gain"):
        table.add_column(heading, justify="right", no_wrap=True)
    first = dict(list(scores.items())[:SHOWN])
    for name, one in first.items():
        table.add_row(Text(plain(name)), *_cells(one))
    if len(scores) > len(first):
        table.add_row(f"… and {len(scores) - len(first)} more")
    table.add_section()
    table.add_row(f"mean of {len(scores)}", *_cells(mean(scores)))
    return table


def plain(name: str) -> str:
    """Return a file's name for people; bytes that are no text become a mark."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


# -- parts ------------------------------------------------------------------------------------------------------------


def _compared(output: _Rows, gt: _Rows, height: int, width: int, border: int) -> tuple[float, float]:
    """Return PSNR and SSIM of two pictures that are given by their rows."""
    psnr, ssim = PSNR(), SSIM()
    halo = SSIM.smallest - 1
    rows = max(8 * halo, _STRIP // width)
    last = height - border - halo  # the rows from here on are in windows that begin above
    error = similarity = 0.0
    for top in range(border, last, rows):
        end = min(top + rows, last)
        pair = [part(top, end + halo)[..., border : width - border] for part in (output, gt)]
        similarity += float(ssim(*pair)) * (end - top)
        own = end - top if end < last else None  # the last strip counts to its end
        decibels = float(psnr(*(part[:, :, :own] for part in pair)))
        error += 10 ** (-decibels / 10) * (own or end + halo - top)
    error /= height - 2 * border
    return -10 * math.log10(error) if error else math.inf, similarity / (last - border)


def _floats(image: Array) -> Tensor:
    """Return a picture (H, W, C) as (1, C, H, W) in [0, 1]."""
    return as_floats(as_tensor(image), torch.device("cpu"), torch.float32)[None]


def _resized(image: Array, size: tuple[int, int]) -> Array:
    """Return a picture (H, W, C) at a width and height: the mean of its pixels where it shrinks."""
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    way = cv2.INTER_AREA if size[0] <= width else cv2.INTER_CUBIC
    resized: Array = cv2.resize(image, size, interpolation=way)
    return resized.reshape(size[1], size[0], -1)


def _cells(one: Scores) -> list[str]:
    return [
        f"{one.psnr_of_input:.2f} dB",
        f"{one.psnr:.2f} dB",
        f"{0 if one.psnr == one.psnr_of_input else one.psnr - one.psnr_of_input:+.2f} dB",  # both may be infinite
        f"{one.ssim_of_input:.4f}",
        f"{one.ssim:.4f}",
        f"{one.ssim - one.ssim_of_input:+.4f}",
    ]


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
