"""SwinIR with its attention as the paper writes it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mcir.archs.swinir import SwinIR, WindowAttention


class LiteralWindowAttention(nn.Module):
    """softmax(q·kᵀ + bias + mask)·v, one operation after the other; the masks of a size are kept.

    Args:
        attention: whose weights it takes over.
    """

    index: Tensor

    def __init__(self, attention: WindowAttention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.scale = attention.scale
        self.relative_position_bias_table = attention.relative_position_bias_table
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.register_buffer("index", attention.relative_position_index, persistent=False)
        self._masks: dict[Tensor, Tensor] = {}

    def forward(self, windows: Tensor, masks: Tensor | None, kinds: Tensor | None) -> Tensor:
        """Map windows (B·nW, N, C) to the same shape."""
        count, tokens, channels = windows.shape
        qkv = self.qkv(windows).reshape(count, tokens, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        scores = (query * self.scale) @ key.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.index.view(-1)].view(tokens, tokens, self.heads)
        scores = scores + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if masks is not None and kinds is not None:
            if kinds not in self._masks:
                self._masks[kinds] = masks[kinds]
            scores = scores.view(-1, len(kinds), self.heads, tokens, tokens) + self._masks[kinds][None, :, None]
            scores = scores.view(count, self.heads, tokens, tokens)
        attended = torch.softmax(scores, dim=-1) @ value
        mixed: Tensor = self.proj(attended.transpose(1, 2).reshape(count, tokens, channels))
        return mixed


def literal_swinir(net: SwinIR) -> SwinIR:
    """Return a copy of a SwinIR whose attention is computed in the plain way."""
    literal = copy.deepcopy(net)
    for group in literal.layers:
        for block in group.residual_group.blocks:
            block.attn = LiteralWindowAttention(block.attn)
    return literal
