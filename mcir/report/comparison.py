"""8-bit images for display: restored images, error maps, and side-by-side comparisons."""

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcir.atomic import write_atomically
from mcir.paths import path_inside

Picture = NDArray[np.uint8]
"""An RGB image (H, W, 3) for display, uint8."""

ERROR_LIMIT = 32
"""Absolute error in 8-bit units that has the brightest colour of an error map."""

_GAP = 8
_CAPTION = 28


def picture(image: Tensor) -> Picture:
    """Return an image (C, H, W), grey or RGB, as 8-bit RGB. Clamp the values to [0, 1], and round half to even."""
    levels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    return np.ascontiguousarray(levels.expand(3, -1, -1).permute(1, 2, 0).numpy())


def error_map(output: Tensor, gt: Tensor, limit: float = ERROR_LIMIT) -> Picture:
    """Return the absolute error of an output, averaged over channels, as a colour map.

    Args:
        output: restored image, (C, H, W) in [0, 1].
        gt: ground truth of the same shape.
        limit: error in 8-bit units that has the brightest colour.
    """
    return colour_map(difference(output, gt), limit)


def difference(image: Tensor, other: Tensor) -> Tensor:
    """Return the absolute difference of two images (C, H, W) in [0, 1], averaged over channels, (H, W), on the CPU."""
    return (image.float().clamp(0, 1) - other.float().clamp(0, 1)).abs().mean(0).cpu()


def colour_map(differences: Tensor, limit: float) -> Picture:
    """Return absolute differences (H, W) of images in [0, 1] as a colour map.

    Args:
        differences: absolute differences, (H, W), on the CPU.
        limit: difference in 8-bit units that has the brightest colour.
    """
    levels = ((differences * (255 / limit)).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[:, :, ::-1])


def comparison(upscaled: Tensor, output: Tensor, gt: Tensor | None, captions: tuple[str, str]) -> Picture:
    """Return degraded input, output, ground truth and error map side by side, with a caption above each.

    Args:
        upscaled: degraded image, enlarged to the size of the output, (C, H, W) in [0, 1].
        output: restored image of the same shape.
        gt: ground truth of the same shape. None: the result has only the first two columns.
        captions: captions of the first two columns.
    """
    error_caption = f"error (bright: {ERROR_LIMIT} of 255)"
    columns = [(picture(image), text) for image, text in zip((upscaled, output), captions, strict=True)]
    if gt is not None:
        columns += [(picture(gt), "ground truth"), (error_map(output, gt), error_caption)]
    height, width = columns[0][0].shape[:2]
    sheet = np.full((height + _CAPTION, len(columns) * (width + _GAP) - _GAP, 3), 255, np.uint8)
    for column, (image, text) in enumerate(columns):
        left = column * (width + _GAP)
        sheet[_CAPTION:, left : left + width] = image
        scale = min(0.6, 0.6 * width / max(1, cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)[0][0]))
        origin = (left + 2, _CAPTION - 9)
        cv2.putText(sheet, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return sheet


def columns(compared: Picture) -> list[Picture]:
    """Return the four columns of a :func:`comparison`: degraded input, output, ground truth and error map."""
    width = (compared.shape[1] - 3 * _GAP) // 4
    return [compared[_CAPTION:, left : left + width] for left in range(0, compared.shape[1], width + _GAP)]


def save_picture(image: Picture, folder: Path, name: str) -> None:
    """Write an image as ``folder/name.png``; slashes in the name create subfolders.

    Raises:
        ValueError: the name leads out of the folder.
        OSError: the file cannot be written.
    """
    file = path_inside(folder, f"{name}.png")
    encoded, data = cv2.imencode(".png", image[:, :, ::-1])
    assert encoded
    write_atomically(file, data.tobytes())
