"""Attention within windows: what the windowed transformers share, written for the machine.

Shapes: B images, H × W pixels, C channels, nW windows an image, N = window² tokens a window.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def to_windows(x: Tensor, window: int) -> Tensor:
    """Cut (B, H, W, C) into windows (B·nW, N, C), row by row; H and W are multiples of ``window``."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


def from_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """Put windows (B·nW, N, C) back together to (B, H, W, C)."""
    window = int(windows.shape[1] ** 0.5)
    x = windows.view(-1, height // window, width // window, window, window, windows.shape[2])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[2])


@functools.cache
def relative_position_index(window: int) -> Tensor:
    """Return for each pair of tokens (N, N) the row of a bias table of (2·window − 1)² relative positions, int64.

    The row of a query at (y, x) and a key at (v, u) is (y − v + window − 1)·(2·window − 1) + x − u + window − 1.
    """
    place = torch.arange(window, device="cpu")
    offset = place[:, None] - place[None, :] + window - 1
    rows = offset[:, None, :, None] * (2 * window - 1) + offset[None, :, None, :]
    return rows.reshape(window * window, window * window)


@functools.lru_cache(64)
def shifted_window_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Return the mask (nW, N, N) of windows that were cut after a cyclic shift: 0, and −100 between strangers.

    Tokens are strangers when the shift, not the image, made them neighbours (Liu et al., "Swin Transformer", ICCV
    2021). The same tensor is returned for the same arguments: do not change it.
    """

    def bands(side: int) -> Tensor:
        place = torch.arange(side, device=device)
        return (place >= side - window).long() + (place >= side - shift).long()

    regions = 3 * bands(height)[:, None] + bands(width)[None, :]
    regions = to_windows(regions[None, :, :, None], window).squeeze(-1)
    return (regions[:, :, None] != regions[:, None, :]) * -100.0


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Return softmax(QKᵀ + bias)·V of (B·nW, heads, N, d).

    Args:
        query: already scaled.
        key: one for each token.
        value: one for each token.
        bias: (heads, N, N), or (nW, heads, N, N) where windows have masks.
    """
    scores = query @ key.mT
    if bias.dim() == 4:
        scores = (scores.unflatten(0, (-1, len(bias))) + bias).flatten(0, 1)
    else:
        scores = scores + bias
    return scores.softmax(-1) @ value
