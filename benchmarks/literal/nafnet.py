"""Direct implementation of NAFNet and NAFNetLocal."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn import functional as F

from mcir.archs.nafnet import LayerNorm2d, Mean2d, NAFBlock, NAFNet


def literal_nafnet(net: NAFNet) -> nn.Module:
    """Return a copy of the network that computes each equation directly, in the layout of its input."""
    return _Literal(copy.deepcopy(net))


class _Literal(nn.Module):
    def __init__(self, net: NAFNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        net, skips = self.net, []
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % net.spec.size_multiple, 0, -height % net.spec.size_multiple))
        deep = net.intro(x)
        for blocks, down in zip(net.encoders, net.downs, strict=True):
            deep = _stage(blocks, deep)
            skips.append(deep)
            deep = down(deep)
        deep = _stage(net.middle_blks, deep)
        for blocks, up in zip(net.decoders, net.ups, strict=True):
            deep = _stage(blocks, up(deep) + skips.pop())
        return (net.ending(deep) + x)[..., :height, :width]


def _stage(blocks: nn.Module, x: Tensor) -> Tensor:
    for block in blocks.children():
        assert isinstance(block, NAFBlock)
        x = _block(block, x)
    return x


def _block(block: NAFBlock, x: Tensor) -> Tensor:
    gated = _gate(block.conv2(block.conv1(_norm(block.norm1, x))))
    mean, conv = block.sca
    assert isinstance(mean, Mean2d)
    gated = gated * conv(_mean(gated, mean.window))
    x = x + block.conv3(gated) * block.beta
    return x + block.conv5(_gate(block.conv4(_norm(block.norm2, x)))) * block.gamma


def _gate(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=1)
    return first * second


def _norm(norm: LayerNorm2d, x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    normal = (x - mean) / (variance + norm.eps).sqrt()
    return norm.weight.view(1, -1, 1, 1) * normal + norm.bias.view(1, -1, 1, 1)


def _mean(x: Tensor, window: tuple[int, int] | None) -> Tensor:
    """Return the mean of the feature map, or of the window around each pixel from sums over rectangles."""
    height, width = x.shape[2:]
    if window is None or (window[0] >= height and window[1] >= width):
        return F.adaptive_avg_pool2d(x, 1)
    rows, columns = min(window[0], height), min(window[1], width)
    table = F.pad(x.cumsum(3).cumsum(2), (1, 0, 1, 0))
    upper, lower = table[:, :, :-rows], table[:, :, rows:]
    sums = lower[..., columns:] - lower[..., :-columns] - upper[..., columns:] + upper[..., :-columns]
    down, right = rows - 1, columns - 1
    padding = (right // 2, right - right // 2, down // 2, down - down // 2)
    return F.pad(sums / (rows * columns), padding, mode="replicate")
