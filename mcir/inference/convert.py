"""Convert arrays and PIL images to tensors and back; split off alpha channels and join them again."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.ExifTags import Base
from torch import Tensor

from mcir.data.cmyk import cmyk_to_srgb
from mcir.data.codec import Array

PEAKS = {torch.uint8: 255, torch.uint16: 65535}
"""The value of white in integer types; in floats it is 1."""

_GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N")
_LOWEST, _HIGHEST = -2.0, 3.0  # noise exceeds [0, 1], but not by this much


def as_floats(image: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Convert integers or floats to floats in [0, 1] on a device."""
    floats = image.to(device).to(dtype)
    return floats / PEAKS[image.dtype] if image.dtype in PEAKS else floats


def as_stored(image: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert floats in [0, 1] to a stored type; integers are rounded half to even."""
    return (image * PEAKS[dtype]).round_().to(dtype) if dtype in PEAKS else image.to(dtype)


def check_images(images: Tensor) -> Tensor:
    """Return images (..., C, H, W) unchanged; reject all but uint8, uint16 and floats in about [0, 1]."""
    if images.numel() == 0:
        raise ValueError(f"image: expected at least one pixel, got shape {tuple(images.shape)}.")
    if images.dtype in PEAKS:
        return images
    if not images.is_floating_point():
        raise ValueError(f"image: expected uint8, uint16, or floats in [0, 1], got {images.dtype}.")
    low, high = (float(value) for value in images.aminmax())
    if not (low >= _LOWEST and high <= _HIGHEST):
        advice = "; divide by 255, or pass uint8" if 1 < high <= 255 else ""
        raise ValueError(f"image: expected floats in [0, 1], got {low:.4g} to {high:.4g}{advice}.")
    return images


def as_tensor(array: Array) -> Tensor:
    """Convert an array (H, W, C) to a tensor (C, H, W) that shares its memory if possible."""
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ValueError(f"array: expected uint8, uint16, or floats in [0, 1], got {array.dtype}.")
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(native if native.flags.writeable else native.copy()).permute(2, 0, 1)


def as_array(image: Tensor) -> Array:
    """Convert a tensor (C, H, W) to a contiguous array (H, W, C)."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def split_alpha(image: Array, channels: int) -> tuple[Array, Array | None]:
    """Return the colours (H, W, C) and the alpha channel (H, W) of an array (H, W) or (H, W, C).

    The last of 2 or 4 channels is alpha, unless a network has this number of input ``channels``.
    """
    if image.ndim == 2:
        return image[:, :, None], None
    if image.ndim != 3:
        raise ValueError(f"array: expected (H, W) or (H, W, C), got {image.shape}.")
    if image.shape[2] in (2, 4) and image.shape[2] != channels:
        return image[:, :, :-1], image[:, :, -1]
    return image, None


def join_alpha(pixels: Array, alpha: Array | None, like: Array) -> Array:
    """Join colours and alpha to one array with the number of axes of ``like``, the original array."""
    if alpha is not None:
        return np.concatenate((pixels, alpha[:, :, None]), axis=2)
    return pixels[:, :, 0] if like.ndim == 2 and pixels.shape[2] == 1 else pixels


def apply_orientation(image: Image.Image) -> Image.Image:
    """Rotate a PIL image according to its EXIF orientation, and remove the orientation; damaged EXIF is ignored."""
    try:
        is_rotated = image.getexif().get(Base.Orientation, 1) != 1
    except Exception:
        return image
    return ImageOps.exif_transpose(image) if is_rotated else image


def from_pil(image: Image.Image) -> tuple[Array, Array | None]:
    """Return the colours (H, W, C) and the alpha channel (H, W) of a PIL image, uint8 or uint16."""
    if image.mode in _GREY_16:
        return np.asarray(image).astype(np.uint16)[:, :, None], None
    if image.mode in ("I", "F"):
        raise ValueError(f"PIL image: expected at most 16 bits per sample, got mode {image.mode}; convert it first.")
    if convert := cmyk_to_srgb(image):
        image = convert(image)
    is_grey = image.mode in ("1", "L", "LA", "La")
    mode = ("L" if is_grey else "RGB") + ("A" if image.has_transparency_data else "")
    return split_alpha(np.array(image.convert(mode)), 1 if is_grey else 3)


def to_pil(pixels: Array, alpha: Array | None, like: Image.Image) -> Image.Image:
    """Return a PIL image with the metadata of ``like``, the original image."""
    image = Image.fromarray(join_alpha(pixels, alpha, like=np.empty((0, 0))))
    dropped = {"transparency", "icc_profile"} if like.mode in ("CMYK", "LAB") else {"transparency"}
    image.info = {key: value for key, value in like.info.items() if key not in dropped}
    return image
