"""Direct implementation of DehazeFormer.

Queries, keys and values are concatenated, padded by reflection and split into windows; softmax(QKᵀ/√d + bias)·V is
computed one operation after the other. Images keep their layout.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.archs.dehazeformer import Attention, Block, DehazeFormer, Fusion


def literal_dehazeformer(net: DehazeFormer) -> nn.Module:
    """Return a network with copies of the weights of ``net`` and the same outputs."""
    return _Network(copy.deepcopy(net))


class _Network(nn.Module):
    def __init__(self, net: DehazeFormer) -> None:
        super().__init__()
        self.net = net
        self.stages = nn.ModuleList(
            nn.Sequential(*(_Block(block) for block in stage.blocks))
            for stage in (net.layer1, net.layer2, net.layer3, net.layer4, net.layer5)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Dehaze (B, C, H, W) in [0, 1] of a size that needs no padding."""
        net, image = self.net, images * 2 - 1
        first = self.stages[0](net.patch_embed(image))
        second = self.stages[1](net.patch_merge1(first))
        x = net.patch_split1(self.stages[2](net.patch_merge2(second)))
        x = self.stages[3](_fused(net.fusion1, x, net.skip2(second)) + x)
        x = net.patch_split2(x)
        x = self.stages[4](_fused(net.fusion2, x, net.skip1(first)) + x)
        k, b = net.patch_unembed(x).split((1, image.shape[1]), 1)
        return (k * image - b + image) * 0.5 + 0.5


def _fused(fusion: Fusion, x: Tensor, skip: Tensor) -> Tensor:
    both = torch.stack((x, skip), 1)
    weights = fusion.mlp(both.sum(1).mean((2, 3), keepdim=True))
    return (both * weights.view(len(x), 2, -1, 1, 1).softmax(1)).sum(1)


class _Block(nn.Module):
    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        norm, shortcut = self.block.norm1, x
        if norm is None:
            x = shortcut + _attention(self.block.attn, x)
        else:
            mean = x.mean((1, 2, 3), keepdim=True)
            std = ((x - mean).pow(2).mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
            normalized = (x - mean) / std * norm.weight + norm.bias
            x = shortcut + (_attention(self.block.attn, normalized) * norm.meta1(std) + norm.meta2(mean))
        return x + self.block.mlp(x)


def _attention(attn: Attention, x: Tensor) -> Tensor:
    if not attn.has_projections:
        features: Tensor = attn.conv(x)
        return features
    value = attn.V(x)
    features = attn.conv(value)
    if attn.use_attn:
        features = features + _window_attention(attn, torch.cat((attn.QK(x), value), 1))
    projected: Tensor = attn.proj(features)
    return projected


def _window_attention(attn: Attention, qkv: Tensor) -> Tensor:
    window, shift, heads = attn.window, attn.shift, attn.heads
    height, width = qkv.shape[2:]
    qkv = F.pad(qkv, (shift, -(width + shift) % window, shift, -(height + shift) % window), mode="reflect")
    qkv = qkv.permute(0, 2, 3, 1)
    batch, rows, columns, channels = qkv.shape
    grid = (batch, rows // window, window, columns // window, window)
    windows = qkv.view(*grid, channels).permute(0, 1, 3, 2, 4, 5).reshape(-1, window**2, channels)
    parts = windows.view(len(windows), window**2, 3, heads, channels // (3 * heads)).permute(2, 0, 3, 1, 4)
    query, key, value = parts.unbind(0)
    bias = attn.attn.meta(attn.attn.relative_positions).permute(2, 0, 1)
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1) + bias.unsqueeze(0)
    windows = (scores.softmax(-1) @ value).transpose(1, 2).reshape(len(windows), window**2, channels // 3)
    image = windows.view(grid[0], grid[1], grid[3], window, window, channels // 3).permute(0, 1, 3, 2, 4, 5)
    image = image.reshape(batch, rows, columns, channels // 3)[:, shift : shift + height, shift : shift + width]
    return image.permute(0, 3, 1, 2)
