"""Measure restored images against ground truths, and draw comparisons.

PSNR and SSIM are those of ``mcir.metrics``, on 8-bit RGB, or on grey if all images are grey. They are computed in
strips, which limits the memory; the results equal those of the whole image.

Images are arrays (H, W, C), uint8 or uint16, C = 1 or 3. An output is ``scale`` times as large as its source. A ground
truth is at least as large as the output; extra rows and columns at the bottom and right are ignored.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from mcir.atomic import write_atomically
from mcir.data.codec import Array
from mcir.data.resize import imresize
from mcir.inference.convert import as_floats, as_tensor
from mcir.metrics import PSNR, SSIM
from mcir.report.comparison import comparison
from mcir.text import printable

LONGEST_SIDE = 4096  # of a comparison; larger images are shrunk
TABLE_ROWS = 30  # images in the table in the terminal
_STRIP_PIXELS = 2**20
_MARGIN = 3  # rows of the input around a strip that bicubic interpolation needs

_ReadRows: TypeAlias = Callable[[int, int], Tensor]


@dataclass(frozen=True)
class Scores:
    """PSNR and SSIM of a restored image and of its input, which is enlarged bicubically for super-resolution."""

    psnr: float
    ssim: float
    psnr_of_input: float
    ssim_of_input: float


def check_sizes(size: tuple[int, int], gt_size: tuple[int, int], scale: int, border: int) -> None:
    """Check that a restored image can be compared with a ground truth.

    Args:
        size: height and width of the input image.
        gt_size: height and width of the ground truth, which may have up to ``scale`` - 1 extra rows and columns.
        scale: factor by which the restored image is larger.
        border: number of ignored pixels on each side.

    Raises:
        ValueError: the sizes differ, or are too small for SSIM.
    """
    height, width = (side * scale for side in size)
    if tuple(side // scale for side in gt_size) != size:
        factor = f" (×{scale})" if scale > 1 else ""
        raise ValueError(
            f"the ground truth has {gt_size[1]}×{gt_size[0]} pixels, the restored image {width}×{height}{factor}"
        )
    smallest = SSIM.min_size + 2 * border
    if min(height, width) < smallest:
        crop = f" with a border of {border}" if border else ""
        raise ValueError(f"SSIM needs at least {smallest}×{smallest} pixels{crop}, got {width}×{height}")


def score(source: Array, output: Array, gt: Array, scale: int, border: int = 0) -> Scores:
    """Measure a restored image and its input; ``border`` pixels on each side are ignored."""
    height, width = output.shape[:2]
    channels = max(image.shape[2] for image in (source, output, gt))

    def rows_of(image: Array) -> _ReadRows:
        return lambda top, bottom: _floats(image[top:bottom, :width]).expand(1, channels, -1, -1)

    def enlarged_rows(top: int, bottom: int) -> Tensor:
        first = max(0, top // scale - _MARGIN)
        strip = imresize(_floats(source[first : -(-bottom // scale) + _MARGIN]).double(), scale)
        return strip[:, :, top - first * scale : bottom - first * scale].expand(1, channels, -1, -1)

    inputs = enlarged_rows if scale > 1 else rows_of(source)
    measured = [_psnr_and_ssim(rows, rows_of(gt), height, width, border) for rows in (rows_of(output), inputs)]
    return Scores(*measured[0], *measured[1])


def _psnr_and_ssim(output: _ReadRows, gt: _ReadRows, height: int, width: int, border: int) -> tuple[float, float]:
    """Return PSNR and SSIM of two images that are read in strips."""
    psnr, ssim = PSNR(), SSIM()
    halo = SSIM.min_size - 1
    rows = max(8 * halo, _STRIP_PIXELS // width)
    last = height - border - halo  # no window of SSIM starts at this row or below
    error = similarity = 0.0
    for top in range(border, last, rows):
        end = min(top + rows, last)
        pair = [part(top, end + halo)[..., border : width - border] for part in (output, gt)]
        similarity += float(ssim(*pair)) * (end - top)
        own = end - top if end < last else end + halo - top  # the last strip includes the rows below
        decibels = float(psnr(*(part[:, :, :own] for part in pair)))
        error += 10 ** (-decibels / 10) * own
    error /= height - 2 * border
    return -10 * math.log10(error) if error else math.inf, similarity / (last - border)


def draw_comparison(source: Array, output: Array, gt: Array | None, scale: int, scores: Scores | None) -> Array:
    """Return input and output side by side, and if there is a ground truth, also that and the error."""
    height, width = output.shape[:2]
    columns = 2 if gt is None else 4
    shrink = min(1.0, (LONGEST_SIDE // columns - 8) / width, (LONGEST_SIDE - 32) / height)  # gaps, captions
    size = (max(1, int(width * shrink)), max(1, int(height * shrink)))
    if scale > 1 and shrink == 1:
        upscaled = imresize(_floats(source).double(), scale)[0]
    else:
        upscaled = _floats(_resized(source, size))[0]
    expected = None if gt is None else _floats(_resized(gt[:height, :width], size))[0]
    captions = (_input_name(scale), "output")
    if scores is not None:
        captions = (
            f"{captions[0]}: {scores.psnr_of_input:.2f} dB, SSIM {scores.ssim_of_input:.4f}",
            f"output: {scores.psnr:.2f} dB, SSIM {scores.ssim:.4f}",
        )
    return comparison(upscaled, _floats(_resized(output, size))[0], expected, captions)


def mean(scores: Mapping[str, Scores]) -> Scores:
    """Return the mean over all images."""
    columns = zip(*map(astuple, scores.values()), strict=True)
    return Scores(*(sum(column) / len(scores) for column in columns))


def write_scores(folder: Path, scores: Mapping[str, Scores], facts: Mapping[str, Any]) -> None:
    """Write ``metrics.json``, with facts about the run, and ``metrics.csv``; an infinite PSNR is written as ``inf``."""
    rows = {printable(name): asdict(values) for name, values in {**scores, "mean": mean(scores)}.items()}
    images = {
        name: {key: value if math.isfinite(value) else str(value) for key, value in row.items()}
        for name, row in rows.items()
    }
    tree = {**facts, "mean": images.pop("mean"), "images": images}
    text = json.dumps(tree, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(folder / "metrics.json", text.encode("utf-8", "replace"))
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(["picture", *Scores.__dataclass_fields__])
    table.writerows([name, *row.values()] for name, row in rows.items())
    write_atomically(folder / "metrics.csv", lines.getvalue().encode("utf-8", "replace"))


def scores_table(scores: Mapping[str, Scores], scale: int) -> Table:
    """Return a table for the terminal with the scores of the first images and their mean."""
    table = Table()
    table.add_column("image", overflow="fold")
    name = _input_name(scale)
    for heading in (f"PSNR of {name}", "restored", "gain", f"SSIM of {name}", "restored", "gain"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, values in list(scores.items())[:TABLE_ROWS]:
        table.add_row(Text(printable(name)), *formatted(values))
    if len(scores) > TABLE_ROWS:
        table.add_row(f"… and {len(scores) - TABLE_ROWS} more")
    table.add_section()
    table.add_row(f"mean of {len(scores)}", *formatted(mean(scores)))
    return table


def _floats(image: Array) -> Tensor:
    """Return an image (H, W, C) as (1, C, H, W) in [0, 1]."""
    return as_floats(as_tensor(image), torch.device("cpu"), torch.float32)[None]


def _resized(image: Array, size: tuple[int, int]) -> Array:
    """Resize an image (H, W, C) to a width and height: by averaging to a smaller size, bicubically to a larger one."""
    if image.shape[1::-1] == size:
        return image
    method = cv2.INTER_AREA if size[0] <= image.shape[1] else cv2.INTER_CUBIC
    resized: Array = cv2.resize(image, size, interpolation=method)
    return resized.reshape(size[1], size[0], -1)


def _input_name(scale: int) -> str:
    return "bicubic" if scale > 1 else "input"


def formatted(scores: Scores) -> list[str]:
    """Return the PSNR of the input and the output, and the gain, as text; then the same for SSIM."""
    psnr, ssim, psnr_of_input, ssim_of_input = astuple(scores)
    gain = 0 if psnr == psnr_of_input else psnr - psnr_of_input  # both may be infinite
    decibels = (f"{psnr_of_input:.2f} dB", f"{psnr:.2f} dB", f"{gain:+.2f} dB")
    return [*decibels, f"{ssim_of_input:.4f}", f"{ssim:.4f}", f"{ssim - ssim_of_input:+.4f}"]
