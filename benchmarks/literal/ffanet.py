"""Direct implementation of FFA-Net."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.archs.ffanet import FEATURES, Block, ChannelAttention, FFANet, Group, PixelAttention


def literal_ffanet(net: FFANet) -> nn.Module:
    """Return a copy of the network that computes each equation directly, in the layout of its input."""
    return _Literal(copy.deepcopy(net))


class _Literal(nn.Module):
    def __init__(self, net: FFANet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        net = self.net
        x = (x - net.mean) / net.std
        deep, groups = net.pre(x), []
        for index in range(net.gps):
            group = net.get_submodule(f"g{index + 1}")
            assert isinstance(group, Group)
            deep = _group(group, deep)
            groups.append(deep)
        weights = net.ca(F.adaptive_avg_pool2d(torch.cat(groups, dim=1), 1)).view(-1, net.gps, FEATURES)[
            :, :, :, None, None
        ]
        fused = sum(weights[:, index] * deep for index, deep in enumerate(groups))
        return net.post(_by_pixel(net.palayer, fused)) + x


def _group(group: Group, x: Tensor) -> Tensor:
    deep = x
    for layer in group.gp:
        deep = _block(layer, deep) if isinstance(layer, Block) else layer(deep)
    return deep + x


def _block(block: Block, x: Tensor) -> Tensor:
    deep = F.relu(block.conv1(x)) + x
    return _by_pixel(block.palayer, _by_channel(block.calayer, block.conv2(deep))) + x


def _by_channel(attention: ChannelAttention, x: Tensor) -> Tensor:
    return x * attention.ca(F.adaptive_avg_pool2d(x, 1))


def _by_pixel(attention: PixelAttention, x: Tensor) -> Tensor:
    return x * attention.pa(x)
