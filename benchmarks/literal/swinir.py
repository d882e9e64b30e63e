"""Direct implementation of SwinIR's attention."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mcir.archs.swinir import SwinIR, WindowAttention


class LiteralWindowAttention(nn.Module):
    """softmax(q·kᵀ + bias + mask)·v, one operation after the other; weights are shared and masks cached."""

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

    def forward(self, windows: Tensor, masks: Tensor | None, mask_index: Tensor | None) -> Tensor:
        """Map windows (B·nW, N, C) to the same shape."""
        count, tokens, channels = windows.shape
        qkv = self.qkv(windows).reshape(count, tokens, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        scores = (query * self.scale) @ key.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.index.view(-1)].view(tokens, tokens, self.heads)
        scores = scores + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if masks is not None and mask_index is not None:
            if mask_index not in self._masks:
                self._masks[mask_index] = masks[mask_index]
            scores = (
                scores.view(-1, len(mask_index), self.heads, tokens, tokens) + self._masks[mask_index][None, :, None]
            )
            scores = scores.view(count, self.heads, tokens, tokens)
        attended = torch.softmax(scores, dim=-1) @ value
        projected: Tensor = self.proj(attended.transpose(1, 2).reshape(count, tokens, channels))
        return projected


def literal_swinir(net: SwinIR) -> SwinIR:
    """Return a copy of a SwinIR whose attention is computed directly."""
    literal = copy.deepcopy(net)
    for group in literal.layers:
        for block in group.residual_group.blocks:
            block.attn = LiteralWindowAttention(block.attn)
    return literal
