"""Any picture a person has, in and out: PNG, TIFF, JPEG, WebP, BMP, PPM; 8 or 16 bit; grey, RGB, alpha, palette, CMYK.

What comes in stands upright and is grey or RGB: a palette becomes its colours, CMYK becomes sRGB through the profile in
the file (relative colorimetric, black point compensated). Everything else keeps its numbers and carries its profile.
"""

from mcir.inference.images.files import QUALITY, PictureInfo, probe_picture, read_picture, write_picture
from mcir.inference.images.image import Picture, PictureError, with_bits

__all__ = [
    "QUALITY",
    "Picture",
    "PictureError",
    "PictureInfo",
    "probe_picture",
    "read_picture",
    "with_bits",
    "write_picture",
]
