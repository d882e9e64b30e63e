"""Read and write image files: PNG, TIFF, JPEG, WebP, BMP and PPM; 8 or 16 bits; grey or RGB, with alpha and metadata.

Decoded images are upright and grey or RGB: a palette is replaced by its colours, and CMYK is converted to sRGB through
the profile in the file. All other samples keep their values, and the profile is kept with them.
"""

from mcir.inference.images.image import Picture, PictureError, with_bits
from mcir.inference.images.reading import PictureInfo, probe_picture, read_picture
from mcir.inference.images.writing import QUALITY, write_picture

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
