"""Images as programs hold them, arrays and PIL images: their colours and their alpha apart, and together again."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from mcir.data.codec import Array
from mcir.inference.images.decoders import inks_to_srgb
from mcir.inference.images.exif import ORIENTATION

_GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N")


def split_alpha(image: Array, channels: int) -> tuple[Array, Array | None]:
    """Return the colours (H, W, C) and the alpha (H, W) of an array (H, W) or (H, W, C).

    Args:
        image: the image.
        channels: what the network takes; where the image has as many, all are colours.

    Raises:
        ValueError: other shapes.
    """
    if image.ndim == 2:
        return image[:, :, None], None
    if image.ndim != 3:
        raise ValueError(f"an array is an image (H, W) or (H, W, C), not {image.shape}.")
    if image.shape[2] in (2, 4) and image.shape[2] != channels:
        return image[:, :, :-1], image[:, :, -1]
    return image, None


def join_alpha(pixels: Array, alpha: Array | None, like: Array) -> Array:
    """Return an array with as many axes as the one that was split."""
    if alpha is not None:
        return np.concatenate((pixels, alpha[:, :, None]), axis=2)
    return pixels[:, :, 0] if like.ndim == 2 and pixels.shape[2] == 1 else pixels


def upright(image: Image.Image) -> Image.Image:
    """Return a PIL image as it is looked at: turned as its EXIF says, which then says nothing of it."""
    try:
        is_turned = image.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # damaged notes do no damage
        return image
    return ImageOps.exif_transpose(image) if is_turned else image


def from_pil(image: Image.Image) -> tuple[Array, Array | None]:
    """Return the colours (H, W, C) and the alpha (H, W) of a PIL image, uint8 or uint16.

    Raises:
        ValueError: its mode has more than 16 bits.
    """
    if image.mode in _GREY_16:
        return np.asarray(image).astype(np.uint16)[:, :, None], None
    if image.mode in ("I", "F"):
        raise ValueError(f"PIL images of mode {image.mode} are not restored: convert to L, I;16 or RGB.")
    if convert := inks_to_srgb(image):
        image = convert(image)
    has_alpha = "transparency" in image.info or image.mode in ("LA", "La", "RGBA", "RGBa", "PA")
    is_grey = image.mode in ("1", "L", "LA", "La")
    mode = ("LA" if is_grey else "RGBA") if has_alpha else ("L" if is_grey else "RGB")
    return split_alpha(np.array(image.convert(mode)), 1 if is_grey else 3)


def to_pil(pixels: Array, alpha: Array | None, like: Image.Image) -> Image.Image:
    """Return a PIL image with the metadata of the one that was split, but for a profile of other colours."""
    image = Image.fromarray(join_alpha(pixels, alpha, like=np.empty((0, 0))))
    left = {"transparency", "icc_profile"} if like.mode in ("CMYK", "LAB") else {"transparency"}
    image.info = {key: value for key, value in like.info.items() if key not in left}
    return image
