"""Restore images of any size and file format with a trained network."""

from mcir.inference.functional import restore
from mcir.inference.images import Picture, PictureError, probe_picture, read_picture, with_bits, write_picture
from mcir.inference.restorer import Restorer

__all__ = [
    "Picture",
    "PictureError",
    "Restorer",
    "probe_picture",
    "read_picture",
    "restore",
    "with_bits",
    "write_picture",
]
