"""Bicubic resizing, equal to MATLAB's ``imresize``, which makes the low-resolution images of benchmarks.

For each output pixel m (from 0) the centre in the input is u = m/s + (1/s − 1)/2. The weights are the cubic convolution
kernel with a = −½ (Keys, "Cubic convolution interpolation for digital image processing", 1981) at the distances from u.
The kernel is stretched by 1/s if the image shrinks (antialiasing), and the weights sum to one. The image is
mirrored at its border, and the border pixel is repeated. The output has ceil(s·H) × ceil(s·W) pixels.

The weights depend only on the length and the scale, and are cached. Sums are computed in double precision.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

_RADIUS = 2.0
"""Radius of the cubic kernel in pixels."""


def imresize(image: Tensor, scale: float, antialias: bool = True) -> Tensor:
    """Resize an image by a factor.

    Args:
        image: (..., H, W), float or integer, any value range.
        scale: output length / input length, > 0.
        antialias: whether to stretch the kernel if the image shrinks.

    Returns:
        (..., ceil(H·scale), ceil(W·scale)), neither rounded nor clipped; float64 if the image is float64 or integer,
        else the type of the image.

    Raises:
        ValueError: the scale is not positive, or the image has no pixels.
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"imresize: expected a positive scale, got {scale}.")
    if image.dim() < 2 or 0 in image.shape[-2:]:
        raise ValueError(f"imresize: expected an image (..., H, W) with pixels, got the shape {tuple(image.shape)}.")
    source = image.cpu() if image.device.type == "mps" else image  # MPS has no double precision
    resized = _along_rows(source.double(), scale, antialias).mT.contiguous()
    resized = _along_rows(resized, scale, antialias).mT.contiguous()
    return resized.to(image.device, image.dtype) if image.is_floating_point() else resized


def _along_rows(image: Tensor, scale: float, antialias: bool) -> Tensor:
    """Resize the second-last dimension as a weighted sum of rows, one summand per tap of the kernel."""
    weights, indices = _taps(image.shape[-2], scale, antialias, image.device)
    resized = image.index_select(-2, indices[0]).mul_(weights[0])
    for weight, index in zip(weights[1:], indices[1:], strict=True):
        resized.addcmul_(image.index_select(-2, index), weight)
    return resized


@functools.lru_cache(maxsize=256)
def _taps(length: int, scale: float, antialias: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the weights (taps, out, 1) and the input rows (taps, out)."""
    shrink = min(scale, 1.0) if antialias else 1.0
    radius = _RADIUS / shrink
    # the tolerance prevents an extra pixel due to rounding, for example in 3·(1/3)
    centers = torch.arange(math.ceil(length * scale - 1e-9), dtype=torch.float64) / scale + (1 / scale - 1) / 2
    rows = torch.floor(centers - radius)[:, None] + torch.arange(math.ceil(2 * radius) + 2)
    weights = _cubic((centers[:, None] - rows) * shrink)
    weights /= weights.sum(1, keepdim=True)
    used = weights.abs().amax(0) > 0
    weights, indices = weights[:, used], rows[:, used].long() % (2 * length)
    indices = torch.minimum(indices, 2 * length - 1 - indices)
    return weights.T.unsqueeze(-1).contiguous().to(device), indices.T.contiguous().to(device)


def _cubic(distance: Tensor) -> Tensor:
    x = distance.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x <= _RADIUS, far, torch.zeros_like(x)))
