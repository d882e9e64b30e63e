"""Convert CMYK images to sRGB."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageCms


def cmyk_to_srgb(image: Image.Image) -> Callable[[Image.Image], Any] | None:
    """Return a function that converts a CMYK image to sRGB through its profile; None without a valid CMYK profile.

    The conversion is relative colorimetric, with black point compensation.
    """
    profile = image.info.get("icc_profile")
    if image.mode != "CMYK" or not profile:
        return None
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            "CMYK",
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        return None
    return lambda band: ImageCms.applyTransform(band, transform)
