"""Metrics: numbers that say how good a restored image is. Importing this package registers them."""

from mcir.metrics.fidelity import PSNR, SSIM

__all__ = ["PSNR", "SSIM"]
