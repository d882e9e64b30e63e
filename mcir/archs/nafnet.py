"""NAFNet, a restoration network without non-linear activation functions, and its test-time local converter.

NAFNet: Chen et al., "Simple Baselines for Image Restoration", ECCV 2022, arXiv:2204.04676. A U-Net whose blocks
multiply two halves of the channels instead of applying an activation, with channel attention from the image's means.

NAFNetLocal: Chu et al., "Improving Image Restoration by Revisiting Global Information Aggregation", ECCV 2022,
arXiv:2112.04491. A network that was trained on patches knows only the statistics of patches. The means are therefore
computed over windows of about the patch size instead of the whole image.

Both have the keys and shapes of the published weights.

Features are in channels-last layout: normalization over channels then needs no copy, and takes a third of the time
(measured on a CPU, forward and backward).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import torch
from annotated_types import MaxLen
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.archs.network import Network, Shapes
from mcir.checks import check_unsupported
from mcir.domains import BatchSize, Count, CountOrZero, Side, Width
from mcir.errors import ArgumentError
from mcir.network_spec import NetworkSpec
from mcir.registry import ARCHS

Levels: TypeAlias = Annotated[Sequence[CountOrZero], MaxLen(8)]
"""Number of blocks of each level."""

Window = tuple[int, int]
"""Height and width of a window, in pixels of its feature map."""


class LayerNorm2d(nn.Module):
    """Layer normalization over the channels of each pixel, with a learned scale and offset per channel."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape; features in channels-last layout are not copied."""
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Mean2d(nn.Module):
    """Mean of each channel, over a window around each pixel, or over the whole feature map if ``window`` is None."""

    def __init__(self, window: Window | None = None) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H', W'), the means of all windows inside the feature map.

        H' is H − window + 1, or 1 if the window is at least as high as the feature map. The same holds for W'.
        """
        if self.window is None:
            return x.permute(0, 2, 3, 1).mean((1, 2), keepdim=True).permute(0, 3, 1, 2)
        height, width = self.window
        return _running_mean(_running_mean(x, 3, width), 2, height).to(x.dtype)


class NAFBlock(nn.Module):
    """Two residual branches: a gated depthwise convolution with channel attention, and gated 1×1 convolutions.

    ``y = x + beta · conv3(a · sca(a))`` with ``a = gate(conv2(conv1(norm1(x))))``, then
    ``y + gamma · conv5(gate(conv4(norm2(y))))``. ``beta`` and ``gamma`` are initialized to zero.
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
        gated = gated * expand_means(self.sca(gated), *gated.shape[2:])
        x = _scaled(self.conv3, self.beta, gated).add_(x)
        return _scaled(self.conv5, self.gamma, gate(self.conv4(self.norm2(x)))).add_(x)


@ARCHS.register()
class NAFNet(Network):
    """NAFNet: (B, img_channel, H, W) in [0, 1] to the same shape, not clamped.

    The published networks have ``width`` 32 or 64. Their numbers of blocks (encoder, middle, decoder) are
    ``(1, 1, 1, 28)``, 1, ``(1, 1, 1, 1)`` for deblurring (GoPro, the defaults) and ``(2, 2, 4, 8)``, 12,
    ``(2, 2, 2, 2)`` for denoising (SIDD).

    Args:
        img_channel: channels of an image.
        width: number of features at full resolution; it doubles with each level.
        middle_blk_num: number of blocks at the lowest resolution.
        enc_blk_nums: number of blocks of each encoder level, full resolution first.
        dec_blk_nums: number of blocks of each decoder level, full resolution last.

    Raises:
        ArgumentError: a number is too small, or encoder and decoder have different numbers of levels.
    """

    def __init__(
        self,
        img_channel: Count = 3,
        width: Width = 32,
        middle_blk_num: CountOrZero = 1,
        enc_blk_nums: Levels = (1, 1, 1, 28),
        dec_blk_nums: Levels = (1, 1, 1, 1),
    ) -> None:
        if len(enc_blk_nums) != len(dec_blk_nums):
            raise ArgumentError(
                "dec_blk_nums",
                f"expected as many levels as enc_blk_nums ({len(enc_blk_nums)}), got {len(dec_blk_nums)}.",
            )
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
        decoder_widths = [width << level for level in reversed(range(levels))]
        self.decoders = nn.ModuleList(map(_blocks, dec_blk_nums, decoder_widths))
        self.middle_blks = _blocks(middle_blk_num, width << levels)
        self.ups = nn.ModuleList(_up(channels) for channels in decoder_widths)
        self.downs = nn.ModuleList(
            nn.Conv2d(width << level, width << (level + 1), 2, stride=2) for level in range(levels)
        )

    def restore(self, x: Tensor) -> Tensor:
        """Restore images whose height and width are multiples of 2 to the power of the number of levels."""
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
        """Return all arguments.

        A state dict of NAFNetLocal has the same keys and shapes, so it is detected as NAFNet.
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
    """NAFNet with the test-time local converter: means over windows instead of means over the image.

    A window is 1.5 times as high and wide as the training patches at the resolution of the level. On images that are
    not larger than the window, and therefore in training, the network equals NAFNet. On larger feature
    maps, each pixel uses the mean of the window around it, or of the nearest window inside the feature map. The weights
    are those of NAFNet.

    Args:
        img_channel: channels of an image.
        width: number of features at full resolution; it doubles with each level.
        middle_blk_num: number of blocks at the lowest resolution.
        enc_blk_nums: number of blocks of each encoder level, full resolution first.
        dec_blk_nums: number of blocks of each decoder level, full resolution last.
        train_size: shape of the training batches, (B, C, H, W); only H and W are used.
        fast_imp: must be False. True would select an approximation that no published result uses.

    Raises:
        ArgumentError: a number is too small, encoder and decoder have different numbers of levels, or ``fast_imp`` is
            True.
    """

    def __init__(
        self,
        img_channel: Count = 3,
        width: Width = 32,
        middle_blk_num: CountOrZero = 1,
        enc_blk_nums: Levels = (1, 1, 1, 28),
        dec_blk_nums: Levels = (1, 1, 1, 1),
        train_size: tuple[BatchSize, Count, Side, Side] = (1, 3, 256, 256),
        fast_imp: bool = False,
    ) -> None:
        super().__init__(img_channel, width, middle_blk_num, enc_blk_nums, dec_blk_nums)
        check_unsupported(fast_imp=(fast_imp, False, "no published result uses the approximation"))
        windows = _windows(train_size[2], train_size[3], len(enc_blk_nums))
        for block in self.modules():
            if isinstance(block, NAFBlock):
                level = (block.conv5.out_channels // width).bit_length() - 1
                block.sca[0] = Mean2d(windows[level])


def gate(x: Tensor) -> Tensor:
    """Return the product (B, C, H, W) of the two halves of the channels of (B, 2C, H, W)."""
    first, second = x.chunk(2, 1)
    return first * second


def expand_means(means: Tensor, height: int, width: int) -> Tensor:
    """Return the mean of the window around each pixel, or of the nearest window inside the feature map.

    Args:
        means: means (B, C, H', W') of all windows inside the feature map.
        height: height of the feature map.
        width: width of the feature map.

    Returns:
        Means, (B, C, H, W). If H' or W' is 1, it stays 1, because it can be broadcast.
    """
    sides = zip((height, width), means.shape[2:], strict=True)
    down, right = (0 if count == 1 else side - count for side, count in sides)
    if not down and not right:
        return means
    return F.pad(means, (right // 2, right - right // 2, down // 2, down - down // 2), mode="replicate")


def _running_mean(x: Tensor, axis: int, length: int) -> Tensor:
    """Return the means of all runs of ``length`` along an axis, or of the whole axis if it is not longer.

    The means are differences of cumulative sums along one axis. Cumulative sums over rectangles would be less precise.
    """
    size: Any = x.shape[axis]
    if isinstance(size, torch.SymInt):
        return _running_mean_of_any_size(x, axis, length)
    if size <= length:
        return x.mean(axis, keepdim=True)
    sums = _running_sum(x, axis)
    runs = sums.narrow(axis, length - 1, size - length + 1).clone()
    runs.narrow(axis, 1, size - length).sub_(sums.narrow(axis, 0, size - length))
    return runs.div_(length)


def _running_mean_of_any_size(x: Tensor, axis: int, length: int) -> Tensor:
    """Return the means of ``_running_mean``, expanded to the length of the axis, without branching on its size.

    This is for exported programs, whose sizes are symbolic. It is four times slower.
    """
    size = x.shape[axis]
    run: Any = torch.sym_min(size, length)
    sums = _running_sum(x, axis)
    sums = torch.cat([torch.zeros_like(sums.narrow(axis, 0, 1)), sums], axis)
    first = (torch.arange(size, device=x.device) - (run - 1) // 2).clamp(min=0).clamp(max=size - run)
    runs = sums.index_select(axis, first + run) - sums.index_select(axis, first)
    return runs.div_(run)


def _running_sum(x: Tensor, axis: int) -> Tensor:
    """Return the cumulative sums, in float32 or higher precision."""
    return x.cumsum(axis, dtype=torch.promote_types(x.dtype, torch.float32))


def _scaled(conv: nn.Conv2d, scale: Tensor, x: Tensor) -> Tensor:
    """Return ``scale * conv(x)`` for a 1×1 convolution. The weights are scaled because they are smaller than ``x``."""
    bias = None if conv.bias is None else conv.bias * scale.flatten()
    return F.conv2d(x, conv.weight * scale.view(-1, 1, 1, 1), bias)


def _blocks(count: int, channels: int) -> nn.Sequential:
    return nn.Sequential(*(NAFBlock(channels) for _ in range(count)))


def _up(channels: int) -> nn.Sequential:
    """Return the layers that double the resolution and halve the number of features to ``channels``."""
    return nn.Sequential(nn.Conv2d(2 * channels, 4 * channels, 1, bias=False), nn.PixelShuffle(2))


def _windows(height: int, width: int, levels: int) -> list[Window]:
    """Return the window of each level, full resolution first, for training patches of a height and width."""

    def length(side: int, level: int) -> int:
        padded = -(-side >> levels) << levels
        return (padded >> level) * (3 * side // 2) // side

    return [(length(height, level), length(width, level)) for level in range(levels + 1)]
