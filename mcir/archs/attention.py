"""Attention within windows: what the windowed transformers share, written for the machine.

Shapes: B images, H × W pixels, C channels, nW windows an image, N = window² tokens a window, d = C / heads.

On a CPU most of the plain form's time goes into carrying the scores (B·nW, heads, N, N) to memory and back. Here they
are made, used and forgotten for a few windows at a time, so that they stay in the cache, and made again for the
backward pass instead of being kept (where all windows are few, they are kept). On a GPU the fused kernels of
``scaled_dot_product_attention`` do the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.archs.network import is_exporting

CACHED_SCORES = 1 << 18
"""How many scores a processor core works on at a time: 1 MiB in float32, about its second-level cache."""

_EVEN = 8
"""Windows whose tokens are no multiple of it gain nothing on a CPU: rows of odd length make the products slow."""

MOST_MATRICES = 65535
"""How many matrices the fused kernels of a GPU take at once."""

P = ParamSpec("P")
R = TypeVar("R")


def _cached_by_size(function: Callable[P, R]) -> Callable[P, R]:
    """Keep the results of a function of sizes, but for those of a graph that is traced or of tensors without values."""
    kept = functools.lru_cache(64)(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling() or torch._guards.detect_fake_mode() is not None:
            return function(*args, **kwargs)
        with torch.inference_mode(False):
            return kept(*args, **kwargs)  # type: ignore[arg-type]

    return call


def to_windows(x: Tensor, window: int) -> Tensor:
    """Cut (B, H, W, C) into windows (B·nW, N, C), row by row; H and W are multiples of ``window``."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


def from_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """Put windows (B·nW, N, C) back together to (B, H, W, C)."""
    window = math.isqrt(windows.shape[1])
    x = windows.view(-1, height // window, width // window, window, window, windows.shape[2])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[2])


@_cached_by_size
def relative_position_index(window: int, device: torch.device | str = "cpu") -> Tensor:
    """Return for each pair of tokens (N, N) the row of a bias table of (2·window − 1)² relative positions, int64.

    The row of a query at (y, x) and a key at (v, u) is (y − v + window − 1)·(2·window − 1) + x − u + window − 1. The
    same tensor is returned for the same arguments: do not change it.
    """
    place = torch.arange(window, device=device)
    offset = place[:, None] - place[None, :] + window - 1
    rows = offset[:, None, :, None] * (2 * window - 1) + offset[None, :, None, :]
    return rows.reshape(window * window, window * window)


@_cached_by_size
def shifted_window_mask(height: int, width: int, window: int, shift: int, device: torch.device | str) -> Tensor:
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


@_cached_by_size
def window_kinds(height: int, width: int, window: int, device: torch.device | str) -> Tensor:
    """Return which mask each window (nW,) of an image needs after a shift, int64.

    There are four, those of ``shifted_window_mask`` for an image of 2 × 2 windows: 0 within the image, 1 at its right,
    2 at its bottom, 3 in the corner. So a large image needs no more masks than a small one. The same tensor is returned
    for the same arguments: do not change it.
    """
    rows, columns = height // window, width // window
    at_bottom = torch.arange(rows, device=device) == rows - 1
    at_right = torch.arange(columns, device=device) == columns - 1
    return (2 * at_bottom[:, None] + at_right[None, :].long()).flatten()


def split_heads(windows: Tensor, layer: nn.Linear, heads: int) -> tuple[Tensor, ...]:
    """Return the parts, like query, key and value, that a linear layer makes of windows, laid out for ``attend``.

    Args:
        windows: (B·nW, N, C).
        layer: from C channels to a multiple of C, one C a part.
        heads: how many attend side by side.

    Returns:
        each part as (B·nW, heads, N, d).
    """
    count, tokens, channels = windows.shape
    if not _in_columns(windows):
        parts: Tensor = layer(windows).view(count, tokens, -1, heads, channels // heads)
        return parts.permute(2, 0, 3, 1, 4).unbind()
    of_parts = zip(torch.split(layer.weight, channels), torch.split(layer.bias, channels), strict=True)
    columns = (torch.baddbmm(bias[:, None], weight.expand(count, -1, -1), windows.mT) for weight, bias in of_parts)
    return tuple(part.view(count, heads, channels // heads, tokens).mT for part in columns)


def join_heads(attended: Tensor, layer: nn.Linear) -> Tensor:
    """Return what a linear layer makes of (B·nW, heads, N, d), all heads of a token together: (B·nW, N, C)."""
    count, _, tokens, _ = attended.shape
    if not _in_columns(attended):
        joined: Tensor = layer(attended.transpose(1, 2).reshape(count, tokens, -1))
        return joined
    columns = attended.mT.reshape(count, -1, tokens)
    return torch.baddbmm(layer.bias, columns.mT, layer.weight.mT.expand(count, -1, -1))


def _in_columns(x: Tensor) -> bool:
    """Tell whether the channels of a window are best kept as rows of N tokens, heads apart without a copy."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and x.shape[-2] % _EVEN == 0
    )


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, kinds: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    """Return softmax(scale·QKᵀ + bias)·V of (B·nW, heads, N, d).

    Args:
        query: one for each token.
        key: one for each token.
        value: one for each token.
        bias: (heads, N, N), or several (K, heads, N, N): one for each window of an image, or as ``kinds`` says.
        kinds: which of the K each window (nW,) of an image takes, int64.
        scale: factor of the products.

    On a CPU the gradient has no gradient of its own (no penalties on gradients, no ``torch.func``).
    """
    assert bias.shape[-3:] == (query.shape[1], query.shape[2], query.shape[2])
    if bias.dim() == 4 and kinds is None:
        kinds = torch.arange(len(bias), device=bias.device)
    if query.device.type == "cuda" and not is_exporting():
        return _attend_fused(query, key, value, bias, kinds, scale)
    is_odd = query.shape[-2] % _EVEN != 0 and query.dtype == torch.float32
    if torch.compiler.is_compiling() or query.device.type != "cpu" or is_odd:
        return _attend_plainly(query, key, value, bias, kinds, scale)
    if kinds is not None:
        kinds = kinds.repeat(len(query) // len(kinds))
    attended: Tensor = _ChunkedAttention.apply(query, key, value, bias, kinds, scale)
    return attended


def _attend_plainly(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, kinds: Tensor | None, scale: float
) -> Tensor:
    scores = (scale * query) @ key.mT
    if kinds is None:
        scores = scores + bias
    else:
        images = scores.view(-1, kinds.shape[0], *scores.shape[1:])
        scores = (images + bias.index_select(0, kinds)).flatten(0, 1)
    return scores.softmax(-1) @ value


def _attend_fused(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, kinds: Tensor | None, scale: float
) -> Tensor:
    """Attend by a fused kernel; its fast forms want d as a multiple of 8, and take a bias that is expanded."""
    windows, heads, tokens, channels = query.shape
    if windows * heads > MOST_MATRICES and windows > 1:
        most = max(MOST_MATRICES // heads, 1)
        pieces = [torch.split(each, most) for each in (query, key, value)]
        of_each = [None] * len(pieces[0]) if kinds is None else torch.split(kinds.repeat(windows // len(kinds)), most)
        each_piece = zip(*pieces, of_each, strict=True)
        return torch.cat([_attend_fused(q, k, v, bias, own, scale) for q, k, v, own in each_piece])
    if channels % 8:
        query, key, value = (F.pad(each, (0, -channels % 8)) for each in (query, key, value))
    bias = bias.to(query.dtype)
    if kinds is not None:
        bias = bias.index_select(0, kinds).flatten(0, 1)
        query, key, value = (each.reshape(-1, len(bias), tokens, each.shape[-1]) for each in (query, key, value))
    attended = F.scaled_dot_product_attention(
        query, key, value, attn_mask=bias.expand(len(query), -1, -1, -1), scale=scale
    )
    return attended.reshape(windows, heads, tokens, -1)[..., :channels]


class _ChunkedAttention(torch.autograd.Function):
    """Attention of a few windows at a time; float32 within for shorter types."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, kinds: Tensor | None, scale: float
    ) -> Tensor:
        attended, kept = _empty_columns(value), None
        with torch.autocast("cpu", enabled=False):
            for part, weights in _weights(query, key, bias, kinds, scale):
                _fill(attended, part, torch.bmm(_columns(value[part]), weights.mT))
                kept = weights if part == slice(0, len(query)) else None
        ctx.save_for_backward(query, key, value, bias, kinds, kept)
        ctx.scale = scale
        return attended.mT

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias, kinds, kept = ctx.saved_tensors
        every = [(slice(0, len(query)), kept)] if kept is not None else _weights(query, key, bias, kinds, ctx.scale)
        of_query, of_key, of_value = (_empty_columns(each) for each in (query, key, value))
        of_bias = torch.zeros_like(bias)
        with torch.autocast("cpu", enabled=False):
            for part, weights in every:
                own = _columns(grad[part])
                _fill(of_value, part, torch.bmm(own, weights))
                of_scores = torch.bmm(own.mT, _columns(value[part])).mul_(weights)
                of_scores.addcmul_(weights, of_scores.sum(-1, keepdim=True), value=-1)
                _fill(of_query, part, torch.bmm(_columns(key[part]) * ctx.scale, of_scores.mT))
                _fill(of_key, part, torch.bmm(_columns(query[part]) * ctx.scale, of_scores))
                of_scores = of_scores.view(-1, *bias.shape[-3:])
                if kinds is None:
                    of_bias += of_scores.sum(0)
                else:
                    of_bias.index_add_(0, kinds[part], of_scores.to(bias.dtype))
        return of_query.mT, of_key.mT, of_value.mT, of_bias, None, None


def _weights(
    query: Tensor, key: Tensor, bias: Tensor, kinds: Tensor | None, scale: float
) -> Iterator[tuple[slice, Tensor]]:
    """Yield which windows come next, a few, and the softmax of their scores (n·heads, N, N), in memory used again."""
    windows, heads, tokens, _ = query.shape
    bias = _lengthened(bias)
    most = max(CACHED_SCORES * torch.get_num_threads() // (heads * tokens * tokens), 1)
    scores = torch.empty(min(windows, most), heads, tokens, tokens, dtype=bias.dtype)
    for first in range(0, windows, most):
        part = slice(first, min(first + most, windows))
        own = scores[: part.stop - first]
        if kinds is None:
            own.copy_(bias)
        else:
            torch.index_select(bias, 0, kinds[part], out=own)
        own = own.flatten(0, 1)
        own.baddbmm_(_columns(query[part]).mT, _columns(key[part]), alpha=scale)
        yield part, torch.softmax(own, -1, out=own)


def _columns(x: Tensor) -> Tensor:
    """Return (n, heads, N, d) as matrices (n·heads, d, N), copied only where it lies in memory otherwise."""
    return _lengthened(x.mT).reshape(-1, x.shape[-1], x.shape[-2])


def _empty_columns(x: Tensor) -> Tensor:
    return torch.empty_like(x.mT, memory_format=torch.contiguous_format)


def _fill(columns: Tensor, part: slice, values: Tensor) -> None:
    columns[part] = values.view_as(columns[part])


def _lengthened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
