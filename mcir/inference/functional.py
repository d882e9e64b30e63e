"""Restore one image of any type with one call."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mcir.data.codec import Array
from mcir.inference.convert import apply_orientation, as_array, as_tensor, from_pil, join_alpha, split_alpha, to_pil
from mcir.inference.images import Picture, read_picture
from mcir.inference.output_buffer import enlarge_alpha
from mcir.inference.restorer import OVERLAP, Precision, Restorer
from mcir.inference.tile_planner import Tile
from mcir.weights import load_network

Checkpoint: TypeAlias = str | Path | nn.Module | Restorer
Kind = TypeVar("Kind", Image.Image, Array, Tensor)


@overload
def restore(
    image: str | Path,
    checkpoint: Checkpoint,
    *,
    key: str | None = None,
    device: str | torch.device | None = None,
    tile: Tile = "auto",
    overlap: int = OVERLAP,
    ensemble: bool = False,
    precision: Precision = "fp32",
) -> Picture: ...
@overload
def restore(
    image: Kind,
    checkpoint: Checkpoint,
    *,
    key: str | None = None,
    device: str | torch.device | None = None,
    tile: Tile = "auto",
    overlap: int = OVERLAP,
    ensemble: bool = False,
    precision: Precision = "fp32",
) -> Kind: ...
def restore(
    image: Any,
    checkpoint: Checkpoint,
    *,
    key: str | None = None,
    device: str | torch.device | None = None,
    tile: Tile = "auto",
    overlap: int = OVERLAP,
    ensemble: bool = False,
    precision: Precision = "fp32",
) -> Any:
    """Restore one image of any type.

    For many images, pass a ``Restorer`` as the checkpoint, because a weight file is read in each call.

    Args:
        image: path of an image file; PIL image, which is rotated according to its EXIF orientation (palette and CMYK
            become RGB); array (H, W), (H, W, 1), (H, W, 3), or with alpha (H, W, 2), (H, W, 4), uint8, uint16, or
            floats in [0, 1]; or tensor (C, H, W) or (B, C, H, W) of these types, with 1 channel or the number of
            channels of the network.
        checkpoint: path of a weight file, network, or ``Restorer`` (then the following arguments must be omitted).
        key: entry of the weight file with the weights, such as ``params``.
        device: see ``Restorer``.
        tile: see ``Restorer``.
        overlap: see ``Restorer``.
        ensemble: see ``Restorer``.
        precision: see ``Restorer``.

    Returns:
        restored image: a ``Picture`` for a path, otherwise an image of the same type, dtype and device. Alpha channels
        are enlarged by bicubic interpolation.

    Raises:
        ValueError: the image or the checkpoint cannot be read, or an argument is invalid.
    """
    options = {"device": device, "tile": tile, "overlap": overlap, "ensemble": ensemble, "precision": precision}
    restorer = _restorer(checkpoint, key, options)
    if isinstance(image, str | Path):
        return restorer.pictures([read_picture(Path(image))])[0]
    if isinstance(image, Image.Image):
        image = apply_orientation(image)
        return to_pil(*_restore_array(restorer, *from_pil(image)), like=image)
    if isinstance(image, np.ndarray):
        return join_alpha(*_restore_array(restorer, *split_alpha(image, restorer.spec.in_channels)), like=image)
    if isinstance(image, Tensor):
        return restorer.tensor(image)
    raise ValueError(f"image: expected a path, a PIL image, a NumPy array or a tensor, got {type(image).__name__}.")


def _restore_array(restorer: Restorer, pixels: Array, alpha: Array | None) -> tuple[Array, Array | None]:
    """Restore an array (H, W, C), and enlarge its alpha channel (H, W)."""
    restored = as_array(restorer.tensor(as_tensor(pixels)))
    return restored, None if alpha is None else enlarge_alpha(alpha, restorer.scale)


def _restorer(checkpoint: Any, key: str | None, options: dict[str, Any]) -> Restorer:
    if key is not None and not isinstance(checkpoint, str | Path):
        raise ValueError(f"key={key!r} needs the path of a weight file, got {type(checkpoint).__name__}.")
    if isinstance(checkpoint, Restorer):
        defaults = inspect.signature(Restorer).parameters
        if changed := [f"{name}={value!r}" for name, value in options.items() if value != defaults[name].default]:
            raise ValueError(f"{', '.join(changed)}: pass this to the Restorer instead of restore().")
        return checkpoint
    if isinstance(checkpoint, str | Path):
        return Restorer(load_network(checkpoint, key), **options)
    if isinstance(checkpoint, nn.Module):
        return Restorer(checkpoint, **options)
    raise ValueError(f"checkpoint: expected a path, a network or a Restorer, got {type(checkpoint).__name__}.")
