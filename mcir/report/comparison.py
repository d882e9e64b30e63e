"""Pictures for people: restored images, and side by side what went in, what came out and what was wanted."""

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Picture = NDArray[np.uint8]
"""(H, W, 3), RGB, 0 … 255."""

ERROR_LIMIT = 32
"""The absolute error, in 8-bit units, that is drawn brightest in an error map."""

_GAP = 8
_CAPTION = 28


def picture(image: Tensor) -> Picture:
    """Return an image (C, H, W) in [0, 1], grey or RGB, as a picture: clamped, and rounded half to even."""
    levels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    return np.ascontiguousarray(levels.expand(3, -1, -1).permute(1, 2, 0).numpy())


def error_map(output: Tensor, gt: Tensor, limit: float = ERROR_LIMIT) -> Picture:
    """Return the absolute error of ``output`` against ``gt`` (C, H, W), meaned over channels, dark to bright.

    ``limit``, in 8-bit units, is drawn brightest.
    """
    error = (output.float().clamp(0, 1) - gt.float()).abs().mean(0).cpu() * (255 / limit)
    levels = (error.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[:, :, ::-1])


def comparison(upscaled: Tensor, output: Tensor, gt: Tensor | None, captions: tuple[str, str]) -> Picture:
    """Return degraded input, output, ground truth and error map side by side, with a caption above each.

    Without a ground truth these are two.

    Args:
        upscaled: the degraded image at the size of the others, (C, H, W) in [0, 1].
        output: the restored image.
        gt: the ground truth.
        captions: what to write above the first and the second.
    """
    error_caption = f"error (bright: {ERROR_LIMIT} of 255)"
    columns = [(picture(image), text) for image, text in zip((upscaled, output), captions, strict=True)]
    if gt is not None:
        columns += [(picture(gt), "ground truth"), (error_map(output, gt), error_caption)]
    height, width = columns[0][0].shape[:2]
    canvas = np.full((height + _CAPTION, len(columns) * (width + _GAP) - _GAP, 3), 255, np.uint8)
    for column, (image, text) in enumerate(columns):
        left = column * (width + _GAP)
        canvas[_CAPTION:, left : left + width] = image
        scale = min(0.6, 0.6 * width / max(1, cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)[0][0]))
        place = (left + 2, _CAPTION - 9)
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas


def columns(compared: Picture) -> list[Picture]:
    """Return the four pictures of a :func:`comparison`: degraded input, output, ground truth and error map."""
    width = (compared.shape[1] - 3 * _GAP) // 4
    return [compared[_CAPTION:, left : left + width] for left in range(0, compared.shape[1], width + _GAP)]


def place_of(folder: Path, name: str) -> Path:
    """Return ``folder/name``; a name with slashes lies in folders below.

    Raises:
        ValueError: the name leads out of the folder.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"The picture name '{name}' leads out of {folder}.")
    return folder / name


def save_picture(image: Picture, folder: Path, name: str) -> None:
    """Write a picture as ``folder/name.png``; a name with slashes makes folders below.

    Raises:
        ValueError: the name leads out of the folder.
        OSError: it cannot be written.
    """
    file = place_of(folder, f"{name}.png")
    file.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(".png", image[:, :, ::-1])
    assert encoded
    file.write_bytes(data.tobytes())
