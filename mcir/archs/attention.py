"""Attention within windows, shared by the windowed transformers and optimized for CPU and GPU.

Shapes: B images, H × W pixels, C channels, nW windows per image, N = window² tokens per window, d = C / heads.

On a CPU, the direct computation spends most of its time moving the scores (B·nW, heads, N, N) between memory and
processor. Here they are computed for a few windows at a time, so that they stay in the cache, and are recomputed in the
backward pass instead of being stored (unless all windows fit into one chunk). On a GPU, the fused kernels of
``scaled_dot_product_attention`` do the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.archs.network import is_exporting

SCORES_PER_CHUNK = 1 << 18
"""Number of scores that a CPU core processes at a time: 1 MiB in float32, about the size of its L2 cache."""

_ALIGNMENT = 8
"""Factor of N for which the chunked computation is faster on a CPU; matrix products with other row lengths are slow."""

MAX_MATRICES = 65535
"""Largest number of matrices in one call of a fused GPU kernel."""

P = ParamSpec("P")
R = TypeVar("R")


def _cached_by_size(function: Callable[P, R]) -> Callable[P, R]:
    """Cache the results of a function of sizes, except while a graph is traced or with fake tensors."""
    cached = functools.lru_cache(64)(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling() or torch._guards.detect_fake_mode() is not None:
            return function(*args, **kwargs)
        with torch.inference_mode(False):
            return cached(*args, **kwargs)  # type: ignore[arg-type]

    return call


def to_windows(x: Tensor, window: int) -> Tensor:
    """Split (B, H, W, C) into windows (B·nW, N, C) in raster order; H and W are multiples of ``window``."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


def from_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """Join windows (B·nW, N, C) to (B, H, W, C)."""
    window = math.isqrt(windows.shape[1])
    x = windows.view(-1, height // window, width // window, window, window, windows.shape[2])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[2])


@_cached_by_size
def relative_position_index(window: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the index of each pair of tokens in a table of (2·window − 1)² relative positions, (N, N), int64.

    The index of a query at (y, x) and a key at (v, u) is (y − v + window − 1)·(2·window − 1) + x − u + window − 1. The
    returned tensor is cached: do not modify it.
    """
    position = torch.arange(window, device=device)
    offset = position[:, None] - position[None, :] + window - 1
    rows = offset[:, None, :, None] * (2 * window - 1) + offset[None, :, None, :]
    return rows.reshape(window * window, window * window)


@_cached_by_size
def shifted_window_mask(height: int, width: int, window: int, shift: int, device: torch.device | str) -> Tensor:
    """Return the attention mask (nW, N, N) of cyclically shifted windows: 0, or −100 between different regions.

    Two tokens of a window belong to different regions if they are neighbours only because of the cyclic shift (Liu et
    al., "Swin Transformer", ICCV 2021). The returned tensor is cached: do not modify it.
    """

    def bands(side: int) -> Tensor:
        position = torch.arange(side, device=device)
        return (position >= side - window).long() + (position >= side - shift).long()

    regions = 3 * bands(height)[:, None] + bands(width)[None, :]
    regions = to_windows(regions[None, :, :, None], window).squeeze(-1)
    return (regions[:, :, None] != regions[:, None, :]) * -100.0


@_cached_by_size
def window_mask_index(height: int, width: int, window: int, device: torch.device | str) -> Tensor:
    """Return the index of the mask of each window of a shifted image, (nW,), int64.

    Images of any size need only the four masks of ``shifted_window_mask`` for an image of 2 × 2 windows: 0 inside the
    image, 1 at the right edge, 2 at the bottom edge, 3 in the corner. The returned tensor is cached: do not modify it.
    """
    rows, columns = height // window, width // window
    at_bottom = torch.arange(rows, device=device) == rows - 1
    at_right = torch.arange(columns, device=device) == columns - 1
    return (2 * at_bottom[:, None] + at_right[None, :].long()).flatten()


def split_heads(windows: Tensor, layer: nn.Linear, heads: int) -> tuple[Tensor, ...]:
    """Apply a linear layer to windows and split its output into k parts (query, key, value, …) for ``attend``.

    Args:
        windows: tokens of each window, (B·nW, N, C).
        layer: linear layer with k·C output channels.
        heads: number of attention heads.

    Returns:
        The k parts, each (B·nW, heads, N, d).
    """
    count, tokens, channels = windows.shape
    if not _is_faster_transposed(windows):
        parts: Tensor = layer(windows).view(count, tokens, -1, heads, channels // heads)
        return parts.permute(2, 0, 3, 1, 4).unbind()
    weights = [weight.expand(count, -1, -1) for weight in torch.split(layer.weight, channels)]
    biases = [None] * len(weights) if layer.bias is None else torch.split(layer.bias[:, None], channels)
    outputs = (
        torch.bmm(weight, windows.mT) if bias is None else torch.baddbmm(bias, weight, windows.mT)
        for bias, weight in zip(biases, weights, strict=True)
    )
    return tuple(part.view(count, heads, channels // heads, tokens).mT for part in outputs)


def join_heads(x: Tensor, layer: nn.Linear) -> Tensor:
    """Concatenate the heads of each token, (B·nW, heads, N, d) to (B·nW, N, C), and apply a linear layer."""
    count, _, tokens, _ = x.shape
    if not _is_faster_transposed(x):
        joined: Tensor = layer(x.transpose(1, 2).reshape(count, tokens, -1))
        return joined
    transposed = x.mT.reshape(count, -1, tokens)
    return torch.baddbmm(layer.bias, transposed.mT, layer.weight.mT.expand(count, -1, -1))


def _is_faster_transposed(x: Tensor) -> bool:
    """Return whether (C, N) matrices, whose heads can be split without a copy, are faster than (N, C) matrices."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and x.shape[-2] % _ALIGNMENT == 0
    )


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    mask_index: Tensor | None = None,
    scale: float = 1.0,
    dropout: float = 0.0,
) -> Tensor:
    """Return softmax(scale·QKᵀ + bias)·V, (B·nW, heads, N, d).

    On a CPU, the gradient cannot be differentiated again (no gradient penalties, no ``torch.func``).

    Args:
        query: queries, (B·nW, heads, N, d).
        key: keys, (B·nW, heads, N, d).
        value: values, (B·nW, heads, N, d).
        bias: bias of the scores, (heads, N, N); or K biases, (K, heads, N, N), assigned to the windows of an image by
            ``mask_index``. Without ``mask_index``, window i has bias i.
        mask_index: index of the bias of each window of an image, (nW,), int64.
        scale: factor of the products QKᵀ.
        dropout: probability of dropping an attention weight. Dropout disables the optimized computation.
    """
    assert bias.shape[-3:] == (query.shape[1], query.shape[2], query.shape[2])
    if bias.dim() == 4 and mask_index is None:
        mask_index = torch.arange(len(bias), device=bias.device)
    if dropout:
        return _attend_directly(query, key, value, bias, mask_index, scale, dropout)
    if query.device.type == "cuda" and not is_exporting():
        return _attend_fused(query, key, value, bias, mask_index, scale)
    is_misaligned = query.shape[-2] % _ALIGNMENT != 0 and query.dtype == torch.float32
    if torch.compiler.is_compiling() or query.device.type != "cpu" or is_misaligned:
        return _attend_directly(query, key, value, bias, mask_index, scale)
    if mask_index is not None:
        mask_index = mask_index.repeat(len(query) // len(mask_index))
    output: Tensor = _ChunkedAttention.apply(query, key, value, bias, mask_index, scale)
    return output


def _attend_directly(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    mask_index: Tensor | None,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """Compute the scores of all windows at once."""
    scores = (scale * query) @ key.mT
    if mask_index is None:
        scores = scores + bias
    else:
        images = scores.view(-1, mask_index.shape[0], *scores.shape[1:])
        scores = (images + bias.index_select(0, mask_index)).flatten(0, 1)
    weights = scores.softmax(-1)
    return (F.dropout(weights, dropout) if dropout else weights) @ value


def _attend_fused(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, mask_index: Tensor | None, scale: float
) -> Tensor:
    """Call a fused kernel. Its fast variants require that d is a multiple of 8, and accept an expanded bias."""
    windows, heads, tokens, channels = query.shape
    if windows * heads > MAX_MATRICES and windows > 1:
        limit = max(MAX_MATRICES // heads, 1)
        split = [torch.split(x, limit) for x in (query, key, value)]
        indices: Sequence[Tensor | None] = [None] * len(split[0])
        if mask_index is not None:
            indices = torch.split(mask_index.repeat(windows // len(mask_index)), limit)
        parts = zip(*split, indices, strict=True)
        return torch.cat([_attend_fused(q, k, v, bias, index, scale) for q, k, v, index in parts])
    if channels % 8:
        query, key, value = (F.pad(x, (0, -channels % 8)) for x in (query, key, value))
    bias = bias.to(query.dtype)
    if mask_index is not None:
        bias = bias.index_select(0, mask_index).flatten(0, 1)
        query, key, value = (x.reshape(-1, len(bias), tokens, x.shape[-1]) for x in (query, key, value))
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=bias.expand(len(query), -1, -1, -1), scale=scale
    )
    return output.reshape(windows, heads, tokens, -1)[..., :channels]


class _ChunkedAttention(torch.autograd.Function):
    """Compute attention for a few windows at a time, in float32 or higher precision."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, mask_index: Tensor | None, scale: float
    ) -> Tensor:
        output, stored = _empty_transposed(value), None
        with torch.autocast("cpu", enabled=False):
            for part, weights in _attention_weights(query, key, bias, mask_index, scale):
                _assign(output, part, torch.bmm(_transposed(value[part]), weights.mT))
                stored = weights if part == slice(0, len(query)) else None
        ctx.save_for_backward(query, key, value, bias, mask_index, stored)
        ctx.scale = scale
        return output.mT

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias, mask_index, stored = ctx.saved_tensors
        chunks: Iterable[tuple[slice, Tensor]] = [(slice(0, len(query)), stored)]
        if stored is None:
            chunks = _attention_weights(query, key, bias, mask_index, ctx.scale)
        grad_query, grad_key, grad_value = (_empty_transposed(x) for x in (query, key, value))
        grad_bias = torch.zeros_like(bias)
        with torch.autocast("cpu", enabled=False):
            for part, weights in chunks:
                grad_part = _transposed(grad[part])
                _assign(grad_value, part, torch.bmm(grad_part, weights))
                grad_scores = torch.bmm(grad_part.mT, _transposed(value[part])).mul_(weights)
                grad_scores.addcmul_(weights, grad_scores.sum(-1, keepdim=True), value=-1)
                _assign(grad_query, part, torch.bmm(_transposed(key[part]) * ctx.scale, grad_scores.mT))
                _assign(grad_key, part, torch.bmm(_transposed(query[part]) * ctx.scale, grad_scores))
                grad_scores = grad_scores.view(-1, *bias.shape[-3:])
                if mask_index is None:
                    grad_bias += grad_scores.sum(0)
                else:
                    grad_bias.index_add_(0, mask_index[part], grad_scores.to(bias.dtype))
        return grad_query.mT, grad_key.mT, grad_value.mT, grad_bias, None, None


def _attention_weights(
    query: Tensor, key: Tensor, bias: Tensor, mask_index: Tensor | None, scale: float
) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of a few windows each, and their attention weights (n·heads, N, N) in a buffer that is reused."""
    windows, heads, tokens, _ = query.shape
    bias = _at_least_float32(bias)
    limit = max(SCORES_PER_CHUNK * torch.get_num_threads() // (heads * tokens * tokens), 1)
    scores = torch.empty(min(windows, limit), heads, tokens, tokens, dtype=bias.dtype)
    for first in range(0, windows, limit):
        part = slice(first, min(first + limit, windows))
        chunk = scores[: part.stop - first]
        if mask_index is None:
            chunk.copy_(bias)
        else:
            torch.index_select(bias, 0, mask_index[part], out=chunk)
        chunk = chunk.flatten(0, 1)
        chunk.baddbmm_(_transposed(query[part]).mT, _transposed(key[part]), alpha=scale)
        yield part, torch.softmax(chunk, -1, out=chunk)


def _transposed(x: Tensor) -> Tensor:
    """Return (n, heads, N, d) as matrices (n·heads, d, N), copied only if their memory layout differs."""
    return _at_least_float32(x.mT).reshape(-1, x.shape[-1], x.shape[-2])


def _empty_transposed(x: Tensor) -> Tensor:
    """Return an uninitialized tensor (n, heads, d, N) for the shape (n, heads, N, d) of ``x``."""
    return torch.empty_like(x.mT, memory_format=torch.contiguous_format)


def _assign(x: Tensor, part: slice, values: Tensor) -> None:
    """Assign matrices to a slice of windows."""
    x[part] = values.view_as(x[part])


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
