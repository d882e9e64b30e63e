"""Compare two networks on images: what ``mcir compare`` does.

Networks, names, headers and ground truths are checked before anything is computed. Images that fail are reported at the
end, and the others are compared.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import torch
from torch import Tensor

from mcir.atomic import check_writable
from mcir.console import Console
from mcir.data.codec import Array
from mcir.data.errors import DataError
from mcir.data.parallel import in_order
from mcir.inference.batch.plan import find_ground_truths, match_ground_truths, probe
from mcir.inference.batch.problems import Problems, table_width
from mcir.inference.batch.progress import BatchProgress
from mcir.inference.batch.scores import Scores, score
from mcir.inference.batch.search import Found, find_images
from mcir.inference.checkpoints import named_checkpoints
from mcir.inference.compare_report import Compared, Comparison, Side, write_comparison
from mcir.inference.convert import as_floats, as_tensor
from mcir.inference.images import read_picture
from mcir.inference.restorer import Restorer
from mcir.inference.tile_planner import Tile
from mcir.report.figures import Figure
from mcir.report.side_by_side import Restored, side_by_side
from mcir.text import printable
from mcir.weights import load_network


def compare(
    first: str,
    second: str,
    inputs: Sequence[str],
    *,
    gt: Path | None = None,
    out: Path = Path("comparison.html"),
    key: str | None = None,
    tile: Tile = "auto",
    device: str | None = None,
    crop_border: int | None = None,
    pictures: int = 20,
) -> int:
    """Restore images with two networks, and write a page and a JSON file about their differences.

    Args:
        first: weight file of the first network, or ``NAME=FILE`` to set its name.
        second: weight file of the second network.
        inputs: files, folders and patterns of images.
        gt: folder of the ground truths, or the ground truth of a single image.
        out: path of the page; the JSON file has the same name with the extension ``.json``.
        key: entry of both weight files with the weights, such as ``params``.
        tile: tile size, as for ``Restorer``.
        device: device of the networks; default: a GPU if there is one.
        crop_border: pixels on each side that are not measured; default: the scale, 0 for scale 1.
        pictures: largest number of images that the page shows: those that differ most.

    Returns:
        0 if all images were compared, with all ground truths, otherwise 1.

    Raises:
        ValueError: a setting is invalid, a network or the images cannot be read, or the networks differ in their scale
            or their number of channels; all of this is found before anything is computed.
        OSError: the page cannot be written.
    """
    for name, value in (("crop-border", crop_border), ("pictures", pictures)):
        if value is not None and value < 0:
            raise ValueError(f"--{name}: expected at least 0, got {value}.")
    if crop_border is not None and gt is None:
        raise ValueError("--crop-border has no effect without --gt.")
    _check_page(out)
    problems = Problems()
    truths = find_ground_truths(gt) if gt else []
    found = find_images(inputs, [gt] if gt else [], problems.report)
    matched = match_ground_truths(found, gt, truths, problems.report) if gt else {}
    files = _distinct_names(first, second)
    sides = [Side(name, file, Restorer(load_network(file, key), device=device, tile=tile)) for name, file in files]
    scale = _common_scale(*sides)
    border = (scale if scale > 1 else 0) if crop_border is None else crop_border
    comparison = Comparison(sides[0], sides[1], gt, border, pictures, problems)
    images = _probe(found, matched, comparison)
    console = Console(soft_wrap=True)
    names = " and ".join(f"{side.name} ({side.restorer.architecture})" for side in sides)
    console.print(f"{names}, ×{scale}, on {sides[0].restorer.device}: {len(images)} to compare")
    with BatchProgress(console, len(images), sum(image.megapixels for image in images)) as progress:
        for image in images:
            result = problems.attempt(image.source, _compare, image, comparison, progress)
            if result is not None:
                comparison.add(*result)
            progress.finish(1, image.megapixels)
    if comparison.images:
        write_comparison(comparison, out, Console(width=table_width(console)))
    problems.print(console)
    return 1 if problems.texts() else 0


def _check_page(out: Path) -> None:
    """Check the path of the page, and create its folder."""
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        raise ValueError(f"-o: expected the path of a page such as comparison.html, got {out}.")
    check_writable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise ValueError(f"{out.parent}: no permission to write to this folder; name another with -o.")


def _distinct_names(first: str, second: str) -> list[tuple[str, Path]]:
    """Return the names and files of two checkpoints; files of the same name are named by their different folders."""
    (name, file), (other_name, other) = (next(iter(named_checkpoints([text]).items())) for text in (first, second))
    if file.resolve() == other.resolve():
        raise ValueError(f"Expected two different weight files, got {file} twice.")
    if name == other_name:
        common = os.path.commonpath([file.resolve(), other.resolve()])
        names = [path.resolve().relative_to(common).parts[0] for path in (file, other)]
        name, other_name = names if names[0] != names[1] else (str(file), str(other))
    return [(name, file), (other_name, other)]


def _common_scale(first: Side, second: Side) -> int:
    """Return the scale of two networks.

    Raises:
        ValueError: the networks differ in their scale or in the number of channels.
    """
    facts = [(side.restorer.scale, side.restorer.spec.in_channels) for side in (first, second)]
    if facts[0] != facts[1]:
        described = [
            f"{side.file} ({side.restorer.architecture}, ×{scale}, {channels} channel{'s' * (channels > 1)})"
            for side, (scale, channels) in zip((first, second), facts, strict=True)
        ]
        raise ValueError(f"Expected networks with the same scale and channels, got {' and '.join(described)}.")
    return facts[0][0]


@dataclass(frozen=True)
class _Image(Found):
    """An image to compare, and its ground truth of the right size."""

    gt: Path | None
    megapixels: float


def _probe(found: Sequence[Found], matched: Mapping[Found, Path], comparison: Comparison) -> list[_Image]:
    """Read all headers, and return the images that can be restored.

    Raises:
        DataError: no image can be restored.
    """
    report = comparison.problems.report

    def probed(image: Found) -> _Image | None:
        facts = probe(image, matched.get(image), comparison.scale, comparison.border, report)
        if facts is None:
            return None
        info, gt = facts
        return _Image(**vars(image), gt=gt, megapixels=info.height * info.width / 1e6)

    images = [image for image in in_order(probed, found) if image is not None]
    if not images:
        name, reason = next(iter(comparison.problems.texts().items()))
        raise DataError(f"none of {len(found)} images can be read; {name}: {reason}")
    names = [image.name for image in images]
    if len(set(names)) < len(names):  # images of the same name in several folders
        images = [_Image(**{**vars(image), "name": str(image.source)}) for image in images]
    return images


def _compare(image: _Image, comparison: Comparison, progress: BatchProgress) -> tuple[Compared, Figure]:
    """Restore an image with both networks; measure and draw the results as `mcir restore` would write them."""
    picture, outputs = read_picture(image.source), []
    for number, side in enumerate((comparison.first, comparison.second)):
        outputs += side.restorer.pictures([picture], partial(_show_progress, progress, image, number))
    first, second = (output.pixels for output in outputs)
    if first.shape != second.shape:
        raise ValueError(f"expected results with the same number of channels, got {first.shape[2]}, {second.shape[2]}")
    gt = None if image.gt is None else read_picture(image.gt).pixels
    scores: list[Scores] = []
    if gt is not None:
        scores = [score(picture.pixels, pixels, gt, comparison.scale, comparison.border) for pixels in (first, second)]
    texts = [f"{values.psnr:.2f} dB, SSIM {values.ssim:.4f}" for values in scores] or ["", ""]
    figure = side_by_side(
        printable(image.name),
        _floats(picture.pixels),
        Restored(comparison.first.name, _floats(first), texts[0]),
        Restored(comparison.second.name, _floats(second), texts[1]),
        None if gt is None else _floats(gt),
    )
    difference = float(cv2.absdiff(first, second).mean()) * 255 / (2**picture.bits - 1)
    return Compared(image.name, difference, scores), figure


def _show_progress(progress: BatchProgress, image: _Image, number: int, fraction: float) -> None:
    """Show the progress within an image; ``fraction`` is the finished fraction of one of the two restorations."""
    progress.update((number + fraction) / 2 * image.megapixels)


def _floats(pixels: Array) -> Tensor:
    """Return an image (H, W, C) as a tensor (C, H, W) in [0, 1]."""
    return as_floats(as_tensor(pixels), torch.device("cpu"), torch.float32)
