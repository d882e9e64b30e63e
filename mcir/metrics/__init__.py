"""Metrics of image quality. Importing this package registers them."""

from mcir.metrics.fidelity import PSNR, SSIM, FloatPSNR, FloatSSIM
from mcir.metrics.protocols import (
    PSNRB,
    SSIM3D,
    DerainPSNR,
    DerainSSIM,
    FloatSSIM3D,
    PooledSSIM,
    RaindropPSNR,
    RaindropSSIM,
    ZeroPaddedSSIM,
)

__all__ = [
    "PSNR",
    "PSNRB",
    "SSIM",
    "SSIM3D",
    "DerainPSNR",
    "DerainSSIM",
    "FloatPSNR",
    "FloatSSIM",
    "FloatSSIM3D",
    "PooledSSIM",
    "RaindropPSNR",
    "RaindropSSIM",
    "ZeroPaddedSSIM",
]
