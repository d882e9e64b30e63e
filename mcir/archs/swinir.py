"""SwinIR, image restoration by windowed transformers (Liang et al., ICCV workshops 2021, arXiv:2108.10257).

Groups of transformer blocks, each group closed by a convolution and a shortcut; every other block cuts its windows half
a window further down and right. A convolution before them and one of several heads after them. Keys and shapes of the
state dict are those of the published weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.archs.attention import (
    attend,
    from_windows,
    join_heads,
    relative_position_index,
    shifted_window_mask,
    split_heads,
    to_windows,
    window_kinds,
)
from mcir.archs.network import Blocks, Network, Shapes, stochastic_depth
from mcir.network_spec import NetworkSpec
from mcir.registry import ARCHS, suggestion

UPSAMPLERS = ("pixelshuffle", "pixelshuffledirect", "nearest+conv", "")
RGB_MEAN = (0.4488, 0.4371, 0.4040)


class WindowAttention(nn.Module):
    """Self-attention within windows, with a learnt bias for each relative position.

    Args:
        dim: channels of a token.
        window: side of a window.
        heads: how many attend side by side.
    """

    relative_position_index: Tensor

    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.scale = (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(window).to(self._device(), copy=True))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def _device(self) -> torch.device:
        return self.relative_position_bias_table.device

    def forward(self, windows: Tensor, masks: Tensor | None, kinds: Tensor | None) -> Tensor:
        """Map windows (B·nW, N, C) to the same shape.

        Args:
            windows: row by row.
            masks: (4, N, N), added to the scores; None where nothing is hidden.
            kinds: which of the masks each window of an image takes.
        """
        query, key, value = split_heads(windows, self.qkv, self.heads)
        index = relative_position_index(self.window, windows.device)
        bias = self.relative_position_bias_table.mT.index_select(1, index.flatten()).view(-1, *index.shape)
        if masks is not None:
            bias = bias + masks[:, None].to(bias.dtype)
        return join_heads(attend(query, key, value, bias, kinds, self.scale), self.proj)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, on each token by itself."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to the same shape."""
        mixed: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return mixed


class Block(nn.Module):
    """A transformer block: attention within windows, then an MLP, each normalised first and added to its input.

    Args:
        dim: channels.
        heads: how many attend side by side.
        window: side of a window.
        shift: by how much the windows are cut further down and right.
        mlp_ratio: how many times more channels the MLP has within.
        drop_path: how often in training a sample does without a branch.
        mask: what official files call ``attn_mask``, for the size of the training images; not used.
    """

    attn_mask: Tensor | None

    def __init__(
        self,
        dim: int,
        heads: int,
        window: int,
        shift: int,
        mlp_ratio: float,
        drop_path: float,
        mask: Tensor | None,
    ) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.drop_path = drop_path
        self.register_buffer("attn_mask", mask)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape; H and W are multiples of the window."""
        height, width = x.shape[1:3]
        masks = kinds = None
        branch = self.norm1(x)
        if self.shift:
            masks = shifted_window_mask(2 * self.window, 2 * self.window, self.window, self.shift, x.device)
            kinds = window_kinds(height, width, self.window, x.device)
            branch = branch.roll((-self.shift, -self.shift), (1, 2))
        branch = from_windows(self.attn(to_windows(branch, self.window), masks, kinds), height, width)
        if self.shift:
            branch = branch.roll((self.shift, self.shift), (1, 2))
        x = x + stochastic_depth(branch, self.drop_path, self.training)
        return x + stochastic_depth(self.mlp(self.norm2(x)), self.drop_path, self.training)


class Group(nn.Module):
    """Transformer blocks, a convolution and a shortcut around them."""

    def __init__(self, blocks: Sequence[Block], conv: nn.Module) -> None:
        super().__init__()
        self.residual_group = Blocks(blocks)
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        mixed: Tensor = self.conv(self.residual_group(x).permute(0, 3, 1, 2))
        return mixed.permute(0, 2, 3, 1) + x


class _Norm(nn.Module):
    """A normalisation, under the name that official files give it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)


@ARCHS.register()
class SwinIR(Network):
    """SwinIR: (B, in_chans, H, W) in [0, 1] to (B, in_chans, upscale·H, upscale·W), not clamped.

    None of the published networks has the defaults: those of 11.9 M parameters have 180 channels, 6 groups of 6 blocks
    and ``mlp_ratio`` 2, the light ones 60 channels, 4 groups and ``mlp_ratio`` 2.

    Args:
        img_size: side of the training images. It gives the shape of a mask that official files hold and decides whether
            windows are shifted: not when an image is a single window. Any size can be restored.
        in_chans: channels of the images, 3 or 1.
        embed_dim: channels within.
        depths: how many blocks each group has; every second one shifts its windows.
        num_heads: heads of the attention in each group.
        window_size: side of a window.
        mlp_ratio: how many times more channels the MLPs have within.
        drop_path_rate: how often in training a sample does without the last branches; the first ones are always there,
            those between in proportion.
        upscale: how much larger the output is.
        img_range: the network works on ``(x - mean) * img_range``.
        upsampler: ``pixelshuffle`` (super-resolution: 3 or a power of two), ``pixelshuffledirect`` (light: any),
            ``nearest+conv`` (real photographs: 2 or 4), empty or null (no enlargement: noise, JPEG).
        resi_connection: what closes a group: ``1conv``, or ``3conv`` with a quarter of the channels between.

    Raises:
        ValueError: arguments that do not fit each other; the message says which.
    """

    mean: Tensor

    def __init__(
        self,
        img_size: int = 64,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (6, 6, 6, 6),
        num_heads: Sequence[int] = (6, 6, 6, 6),
        window_size: int = 8,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
        upscale: int = 1,
        img_range: float = 1.0,
        upsampler: str | None = "",
        resi_connection: str = "1conv",
    ) -> None:
        upsampler = upsampler or ""
        _check_sizes(img_size, in_chans, embed_dim, depths, num_heads, window_size, mlp_ratio, img_range)
        _check_head(upsampler, upscale)
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"SwinIR: drop_path_rate is at least 0 and below 1, not {drop_path_rate}.")
        spec = NetworkSpec(
            in_channels=in_chans,
            scale=upscale,
            size_multiple=window_size,
            last_layer="upsample.0" if upsampler == "pixelshuffledirect" else "conv_last",
            derived_buffers=("attn_mask", "relative_position_index"),
            guessed=("img_range",),
        )
        super().__init__(spec)
        self.upsampler = upsampler
        self.img_range = img_range
        mean = RGB_MEAN if in_chans == 3 else (0.0,)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, padding=1)
        self.patch_embed = _Norm(embed_dim)
        window, shift = min(window_size, img_size), window_size // 2 if img_size > window_size else 0
        mask = None
        if shift:
            mask = shifted_window_mask(img_size, img_size, window, shift, "cpu").to(self.mean.device, copy=True)
        drops = iter([drop_path_rate * block / max(sum(depths) - 1, 1) for block in range(sum(depths))])
        self.layers = nn.ModuleList()
        for depth, heads in zip(depths, num_heads, strict=True):
            blocks = [
                Block(
                    embed_dim,
                    heads,
                    window,
                    shift if place % 2 else 0,
                    mlp_ratio,
                    next(drops),
                    mask if place % 2 else None,
                )
                for place in range(depth)
            ]
            self.layers.append(Group(blocks, _closing(embed_dim, resi_connection)))
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = _closing(embed_dim, resi_connection)
        self._build_head(embed_dim, in_chans)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def _build_head(self, dim: int, channels: int) -> None:
        if self.upsampler == "pixelshuffledirect":
            wide = nn.Conv2d(dim, channels * self.scale**2, 3, padding=1)
            self.upsample = nn.Sequential(wide, nn.PixelShuffle(self.scale))
            return
        if self.upsampler:
            self.conv_before_upsample = nn.Sequential(nn.Conv2d(dim, 64, 3, padding=1), nn.LeakyReLU(inplace=True))
            dim = 64
        if self.upsampler == "pixelshuffle":
            steps = [3] if self.scale == 3 else [2] * (self.scale.bit_length() - 1)
            self.upsample = nn.Sequential()
            for step in steps:
                self.upsample.append(nn.Conv2d(dim, step * step * dim, 3, padding=1))
                self.upsample.append(nn.PixelShuffle(step))
        elif self.upsampler == "nearest+conv":
            self.conv_up1 = nn.Conv2d(dim, dim, 3, padding=1)
            if self.scale == 4:
                self.conv_up2 = nn.Conv2d(dim, dim, 3, padding=1)
            self.conv_hr = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv_last = nn.Conv2d(dim, channels, 3, padding=1)

    def restore(self, x: Tensor) -> Tensor:
        """Restore images whose sides are multiples of the window."""
        x = (x - self.mean) * self.img_range
        shallow = self.conv_first(x.contiguous(memory_format=torch.channels_last))
        deep = self.patch_embed.norm(shallow.permute(0, 2, 3, 1))
        for group in self.layers:
            deep = group(deep)
        deep = self.conv_after_body(self.norm(deep).permute(0, 3, 1, 2)) + shallow
        restored = self._enlarged(deep) if self.upsampler else x + self.conv_last(deep)
        return torch.add(self.mean, restored, alpha=1 / self.img_range)

    def _enlarged(self, deep: Tensor) -> Tensor:
        if self.upsampler == "pixelshuffledirect":
            enlarged: Tensor = self.upsample(deep)
            return enlarged
        deep = self.conv_before_upsample(deep)
        if self.upsampler == "pixelshuffle":
            deep = self.upsample(deep)
        else:
            for conv in [self.conv_up1, *([self.conv_up2] if self.scale == 4 else [])]:
                deep = F.leaky_relu_(conv(F.interpolate(deep, scale_factor=2, mode="nearest")), 0.2)
            deep = F.leaky_relu_(self.conv_hr(deep), 0.2)
        restored: Tensor = self.conv_last(deep)
        return restored

    @classmethod
    def detect(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the arguments that a state dict tells; an ``img_range`` of 255 goes with windows of 7 (JPEG)."""
        first_block = "layers.0.residual_group.blocks.0."
        table = shapes.get(f"{first_block}attn.relative_position_bias_table")
        if table is None or "conv_first.weight" not in shapes or f"{first_block}mlp.fc1.weight" not in shapes:
            return None
        window = (math.isqrt(table[0]) + 1) // 2
        embed_dim, in_chans = shapes["conv_first.weight"][:2]
        blocks = [
            (int(found[1]), shape[1])
            for key, shape in shapes.items()
            if (found := re.fullmatch(r"layers\.(\d+)\..*relative_position_bias_table", key))
        ]
        groups = range(1 + max(group for group, _ in blocks))
        mask = shapes.get("layers.0.residual_group.blocks.1.attn_mask")
        upsampler, upscale = _head_of(shapes, in_chans)
        return {
            "img_size": window if mask is None else window * math.isqrt(mask[0]),
            "in_chans": in_chans,
            "embed_dim": embed_dim,
            "depths": [sum(group == own for own, _ in blocks) for group in groups],
            "num_heads": [next(heads for own, heads in blocks if group == own) for group in groups],
            "window_size": window,
            "mlp_ratio": shapes[f"{first_block}mlp.fc1.weight"][0] / embed_dim,
            "upscale": upscale,
            "img_range": 255.0 if window == 7 else 1.0,
            "upsampler": upsampler,
            "resi_connection": "3conv" if "conv_after_body.0.weight" in shapes else "1conv",
        }


def _closing(dim: int, kind: str) -> nn.Module:
    """Return what closes a group: one convolution, or three with a quarter of the channels between."""
    if kind == "1conv":
        return nn.Conv2d(dim, dim, 3, padding=1)
    if kind == "3conv":
        return nn.Sequential(
            nn.Conv2d(dim, dim // 4, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(dim // 4, dim // 4, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(dim // 4, dim, 3, padding=1),
        )
    raise ValueError(f"SwinIR: resi_connection is '1conv' or '3conv', not '{kind}'.")


def _head_of(shapes: Shapes, channels: int) -> tuple[str, int]:
    """Return the upsampler and the scale that a state dict tells."""
    if "conv_hr.weight" in shapes:
        return "nearest+conv", 4 if "conv_up2.weight" in shapes else 2
    steps = [shape for key, shape in shapes.items() if re.fullmatch(r"upsample\.\d+\.weight", key)]
    if "conv_before_upsample.0.weight" in shapes:
        return "pixelshuffle", math.isqrt(math.prod(wide // narrow for wide, narrow, *_ in steps))
    if steps:
        return "pixelshuffledirect", math.isqrt(steps[0][0] // channels)
    return "", 1


def _check_sizes(
    img_size: int,
    in_chans: int,
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    window_size: int,
    mlp_ratio: float,
    img_range: float,
) -> None:
    if min(img_size, in_chans, embed_dim, window_size) < 1 or min(mlp_ratio, img_range) <= 0:
        raise ValueError(
            "SwinIR: sizes and channels start at 1, mlp_ratio and img_range are above 0, not "
            f"{img_size=}, {in_chans=}, {embed_dim=}, {window_size=}, {mlp_ratio=}, {img_range=}."
        )
    if not depths or len(depths) != len(num_heads) or min(*depths, *num_heads) < 1:
        raise ValueError(
            "SwinIR: depths and num_heads have a number of at least 1 for each group, not "
            f"{list(depths)} and {list(num_heads)}."
        )
    odd = [heads for heads in num_heads if embed_dim % heads]
    if odd:
        raise ValueError(f"SwinIR: embed_dim is a multiple of num_heads, but {embed_dim} is none of {odd[0]}.")
    if img_size > window_size and img_size % window_size:
        raise ValueError(
            f"SwinIR: img_size is a multiple of window_size, but {img_size} is none of {window_size}; the nearest are "
            f"{img_size // window_size * window_size} and {-(-img_size // window_size) * window_size}."
        )


def _check_head(upsampler: str, upscale: int) -> None:
    if upsampler not in UPSAMPLERS:
        raise ValueError(
            f"SwinIR: upsampler is one of {', '.join(repr(name) for name in UPSAMPLERS)}, not '{upsampler}'."
            f"{suggestion(upsampler, [name for name in UPSAMPLERS if name])}"
        )
    is_power = upscale >= 1 and not upscale & (upscale - 1)
    fits, expected = {
        "pixelshuffle": (upscale == 3 or is_power, "3 or a power of two (1, 2, 4, 8, …)"),
        "pixelshuffledirect": (upscale >= 1, "at least 1"),
        "nearest+conv": (upscale in (2, 4), "2 or 4"),
        "": (upscale == 1, "1; to enlarge, choose an upsampler, like 'pixelshuffle'"),
    }[upsampler]
    if not fits:
        raise ValueError(f"SwinIR: upscale with upsampler '{upsampler}' is {expected}, not {upscale}.")
