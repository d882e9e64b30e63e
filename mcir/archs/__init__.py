"""Architectures: one paper, one file. Importing this package registers them."""

from mcir.archs.edsr import EDSR
from mcir.archs.features import VGGFeatures

__all__ = ["EDSR", "VGGFeatures"]
