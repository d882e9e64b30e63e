"""NAFNet, a restoration network without non-linear activation functions, and its test-time local converter.

NAFNet: Chen et al., "Simple Baselines for Image Restoration", ECCV 2022, arXiv:2204.04676. A U of blocks in which a
product of two halves of the channels stands for every activation, and the image's mean of each channel for attention.

NAFNetLocal: Chu et al., "Improving Image Restoration by Revisiting Global Information Aggregation", ECCV 2022,
arXiv:2112.04491. A network trained on patches meets the statistics of patches; so its means are taken over windows of
about their size instead of over the whole image.

Keys and shapes of the state dict are those of the published weights, of both.

The maps are held channels last: there the normalisation over channels needs no copy, and takes a third of the time
that it takes channels first (measured on a processor, forward and backward).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.archs.network import Network, Shapes
from mcir.network_spec import NetworkSpec
from mcir.registry import ARCHS

Window = tuple[int, int]
"""Height and width of a window, in pixels of the map that it lies on."""


class LayerNorm2d(nn.Module):
    """Normalise (B, C, H, W) over the channels of each pixel, with a learned scale and offset a channel.

    Args:
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape; a map that is held channels last is not copied."""
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Mean2d(nn.Module):
    """The mean of each channel, over the whole map or over a window around each place.

    Args:
        window: height and width of the window, None for the whole map.
    """

    def __init__(self, window: Window | None = None) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H', W'), the means of all windows that lie within the map.

        A side that is not longer than the window's is averaged whole: H' is then 1, else H − window + 1.
        """
        if self.window is None:
            return x.permute(0, 2, 3, 1).mean((1, 2), keepdim=True).permute(0, 3, 1, 2)
        height, width = self.window
        return _running_mean(_running_mean(x, 3, width), 2, height).to(x.dtype)


class NAFBlock(nn.Module):
    """Two residuals: a gated depthwise convolution with channel attention, then a gated pair of 1×1 convolutions.

    ``y = x + beta · conv3(a · sca(a))`` with ``a = gate(conv2(conv1(norm1(x))))``, then
    ``y + gamma · conv5(gate(conv4(norm2(y))))``. ``beta`` and ``gamma`` start at zero.

    Args:
        channels: channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.sca = nn.Sequential(Mean2d(), nn.Conv2d(channels, channels, 1))
        self.conv4 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.norm1 = LayerNorm2d(channels)
        self.norm2 = LayerNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        gated = gate(self.conv2(self.conv1(self.norm1(x))))
        gated = gated * spread(self.sca(gated), *gated.shape[2:])
        x = _scaled(self.conv3, self.beta, gated).add_(x)
        return _scaled(self.conv5, self.gamma, gate(self.conv4(self.norm2(x)))).add_(x)


@ARCHS.register()
class NAFNet(Network):
    """NAFNet: (B, img_channel, H, W) in [0, 1] to the same shape, not clamped.

    The published networks have ``width`` 32 or 64 and blocks ``(1, 1, 1, 28)``, 1, ``(1, 1, 1, 1)`` for deblurring
    (GoPro, the defaults here), ``(2, 2, 4, 8)``, 12, ``(2, 2, 2, 2)`` for denoising (SIDD).

    Args:
        img_channel: channels of an image.
        width: channels within, at full resolution; each level down has twice as many.
        middle_blk_num: blocks at the bottom.
        enc_blk_nums: blocks of each level on the way down, full resolution first.
        dec_blk_nums: blocks of each level on the way up, full resolution last.

    Raises:
        ValueError: a number that cannot be built, or not as many levels up as down.
    """

    def __init__(
        self,
        img_channel: int = 3,
        width: int = 32,
        middle_blk_num: int = 1,
        enc_blk_nums: Sequence[int] = (1, 1, 1, 28),
        dec_blk_nums: Sequence[int] = (1, 1, 1, 1),
    ) -> None:
        _check(type(self).__name__, img_channel, width, middle_blk_num, enc_blk_nums, dec_blk_nums)
        levels = len(enc_blk_nums)
        spec = NetworkSpec(
            in_channels=img_channel,
            size_multiple=2**levels,
            global_context=True,
            padding="zeros",
            last_layer="ending",
        )
        super().__init__(spec)
        self.intro = nn.Conv2d(img_channel, width, 3, padding=1)
        self.ending = nn.Conv2d(width, img_channel, 3, padding=1)
        self.encoders = nn.ModuleList(_blocks(count, width << level) for level, count in enumerate(enc_blk_nums))
        upwards = [width << level for level in reversed(range(levels))]
        self.decoders = nn.ModuleList(map(_blocks, dec_blk_nums, upwards))
        self.middle_blks = _blocks(middle_blk_num, width << levels)
        self.ups = nn.ModuleList(_up(channels) for channels in upwards)
        self.downs = nn.ModuleList(
            nn.Conv2d(width << level, width << (level + 1), 2, stride=2) for level in range(levels)
        )

    def restore(self, x: Tensor) -> Tensor:
        """Restore images whose sides are multiples of 2 to the number of levels."""
        deep = self.intro(x.contiguous(memory_format=torch.channels_last))
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encoder(deep))
            deep = down(skips[-1])
        deep = self.middle_blks(deep)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            deep = decoder(up(deep) + skips.pop())
        return torch.add(x, self.ending(deep))

    @classmethod
    def detect(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the arguments that a state dict tells: all of them.

        NAFNetLocal has the same keys and shapes and is told as NAFNet, which it is on images within its windows.
        """
        if not {"intro.weight", "ending.weight"} <= shapes.keys() or not any(
            key.startswith(("encoders.", "middle_blks.", "decoders.")) and key.endswith(".sca.1.weight")
            for key in shapes
        ):
            return None

        def count(prefix: str) -> int:
            return len({match[1] for key in shapes if (match := re.match(rf"{prefix}\.(\d+)\.", key))})

        levels = count("downs")
        width, img_channel = shapes["intro.weight"][:2]
        return {
            "img_channel": img_channel,
            "width": width,
            "middle_blk_num": count("middle_blks"),
            "enc_blk_nums": [count(rf"encoders\.{level}") for level in range(levels)],
            "dec_blk_nums": [count(rf"decoders\.{level}") for level in range(levels)],
        }


@ARCHS.register()
class NAFNetLocal(NAFNet):
    """NAFNet with the test-time local converter: each mean over the image becomes one over a window.

    The window is one and a half times as high and as wide as the training patches (on the maps of lower resolution in
    proportion): on an image that is not larger in either direction, and so in training, the network is NAFNet. Where
    the map is larger, each place has the mean of the window around it, and places near an edge that of the nearest
    window within the map. The weights are those of NAFNet.

    Args:
        img_channel: channels of an image.
        width: channels within, at full resolution; each level down has twice as many.
        middle_blk_num: blocks at the bottom.
        enc_blk_nums: blocks of each level on the way down, full resolution first.
        dec_blk_nums: blocks of each level on the way up, full resolution last.
        train_size: (B, C, H, W) of the batches that the network was trained with; only H and W count.
        fast_imp: False. The authors' code has a second, faster way that gives other numbers; no published result uses
            it and it is not built here, where the exact way takes little time.

    Raises:
        ValueError: a number that cannot be built, not as many levels up as down, or ``fast_imp``.
    """

    def __init__(
        self,
        img_channel: int = 3,
        width: int = 32,
        middle_blk_num: int = 1,
        enc_blk_nums: Sequence[int] = (1, 1, 1, 28),
        dec_blk_nums: Sequence[int] = (1, 1, 1, 1),
        train_size: Sequence[int] = (1, 3, 256, 256),
        fast_imp: bool = False,
    ) -> None:
        super().__init__(img_channel, width, middle_blk_num, enc_blk_nums, dec_blk_nums)
        if len(train_size) != 4 or min(train_size[2:]) < 1:
            raise ValueError(
                "NAFNetLocal: train_size is (B, C, H, W) of a training batch, for example [1, 3, 256, 256], "
                f"not {list(train_size)}."
            )
        if fast_imp:
            raise ValueError(
                "NAFNetLocal: fast_imp=True, an approximation that no published result uses, is not here: "
                "leave it at false."
            )
        windows = _windows(train_size[2], train_size[3], len(enc_blk_nums))
        for block in self.modules():
            if isinstance(block, NAFBlock):
                level = (block.conv5.out_channels // width).bit_length() - 1
                block.sca[0] = Mean2d(windows[level])


def gate(x: Tensor) -> Tensor:
    """Return (B, C, H, W), the product of the two halves of the channels of (B, 2C, H, W)."""
    one, other = x.chunk(2, 1)
    return one * other


def spread(means: Tensor, height: int, width: int) -> Tensor:
    """Give each pixel of a map H × W the mean of the window around it, or of the nearest one within the map.

    Args:
        means: (B, C, H', W'), one value for each window that lies within the map.
        height: H.
        width: W.

    Returns:
        (B, C, H, W); an H' or W' of 1 is left to broadcasting.
    """
    down, right = (0 if kept == 1 else side - kept for side, kept in zip((height, width), means.shape[2:], strict=True))
    if not down and not right:
        return means
    return F.pad(means, (right // 2, right - right // 2, down // 2, down - down // 2), mode="replicate")


def _running_mean(x: Tensor, axis: int, length: int) -> Tensor:
    """Return the means of all runs of ``length`` along an axis; of the whole axis where it is not longer.

    As differences of running sums, one axis after the other: the sums stay as short as a side is long, so that
    little is lost when they are subtracted.
    """
    size = x.shape[axis]
    if _is_symbol(size):
        return _running_mean_of_any_size(x, axis, length)
    if size <= length:
        return x.mean(axis, keepdim=True)
    sums = _running_sum(x, axis)
    runs = sums.narrow(axis, length - 1, size - length + 1).clone()
    runs.narrow(axis, 1, size - length).sub_(sums.narrow(axis, 0, size - length))
    return runs.div_(length)


def _running_mean_of_any_size(x: Tensor, axis: int, length: int) -> Tensor:
    """Return the same, already spread over the axis, without asking which of the two is longer.

    For a program that is traced with the size as a symbol; four times slower than the way above.
    """
    size = x.shape[axis]
    run: Any = torch.sym_min(size, length)
    sums = _running_sum(x, axis)
    sums = torch.cat([torch.zeros_like(sums.narrow(axis, 0, 1)), sums], axis)
    first = (torch.arange(size, device=x.device) - (run - 1) // 2).clamp(min=0).clamp(max=size - run)
    runs = sums.index_select(axis, first + run) - sums.index_select(axis, first)
    return runs.div_(run)


def _running_sum(x: Tensor, axis: int) -> Tensor:
    """Return the sums of all values up to each, in float32 at least."""
    return x.cumsum(axis, dtype=torch.promote_types(x.dtype, torch.float32))


def _is_symbol(size: object) -> bool:
    return isinstance(size, torch.SymInt)


def _scaled(conv: nn.Conv2d, scale: Tensor, x: Tensor) -> Tensor:
    """Return ``scale * conv(x)`` of a 1×1 convolution; the small weights are scaled, not the large map."""
    bias = None if conv.bias is None else conv.bias * scale.flatten()
    return F.conv2d(x, conv.weight * scale.view(-1, 1, 1, 1), bias)


def _blocks(count: int, channels: int) -> nn.Sequential:
    return nn.Sequential(*(NAFBlock(channels) for _ in range(count)))


def _up(channels: int) -> nn.Sequential:
    """Return the step up to ``channels``, from twice as many."""
    return nn.Sequential(nn.Conv2d(2 * channels, 4 * channels, 1, bias=False), nn.PixelShuffle(2))


def _windows(height: int, width: int, levels: int) -> list[Window]:
    """Return the windows of each level for training patches of that size, the full resolution first."""

    def length(side: int, level: int) -> int:
        whole = -(-side >> levels) << levels
        return (whole >> level) * (3 * side // 2) // side

    return [(length(height, level), length(width, level)) for level in range(levels + 1)]


def _check(
    name: str, img_channel: int, width: int, middle: int, encoder: Sequence[int], decoder: Sequence[int]
) -> None:
    """Refuse what cannot be built."""
    if len(encoder) != len(decoder):
        raise ValueError(
            f"{name}: enc_blk_nums has {len(encoder)} levels and dec_blk_nums {len(decoder)}; "
            "give as many numbers up as down."
        )
    if min(img_channel, width) < 1 or min([middle, *encoder, *decoder]) < 0:
        raise ValueError(
            f"{name}: channels and width start at 1 and numbers of blocks at 0, not img_channel={img_channel}, "
            f"width={width}, middle_blk_num={middle}, enc_blk_nums={list(encoder)}, dec_blk_nums={list(decoder)}."
        )
