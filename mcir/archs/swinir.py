"""SwinIR, image restoration with Swin Transformer blocks (Liang et al., ICCV workshops 2021, arXiv:2108.10257).

Groups of transformer blocks, each group followed by a convolution and a residual connection; every second block shifts
its windows by half a window. A convolution precedes the groups, and one of several upsampling heads follows them. The
state dict has the keys and shapes of the published weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import torch
from annotated_types import Len
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
    window_mask_index,
)
from mcir.archs.network import (
    Blocks,
    ImageSize,
    MLPRatio,
    Network,
    Shapes,
    WindowSize,
    init_linear,
    stochastic_depth,
)
from mcir.checks import check_unsupported
from mcir.domains import Count, NonNegative, Positive, Probability, Scale, Width
from mcir.errors import ArgumentError, suggestion
from mcir.network_spec import NetworkSpec
from mcir.registry import ARCHS

UPSAMPLERS = ("pixelshuffle", "pixelshuffledirect", "nearest+conv", "")
RGB_MEAN = (0.4488, 0.4371, 0.4040)

Groups: TypeAlias = Annotated[Sequence[Count], Len(1, 64)]
"""A number for each group of blocks."""


class WindowAttention(nn.Module):
    """Self-attention within windows, with a learned bias per relative position.

    Args:
        dim: channels of a token.
        window: height and width of a window.
        heads: number of attention heads.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        qk_scale: factor of the products of queries and keys; None or 0 means (dim / heads)^(-1/2).
        attn_drop: probability of dropping an attention weight in training.
        drop: probability of dropping an output value in training.
    """

    relative_position_index: Tensor

    def __init__(
        self,
        dim: int,
        window: int,
        heads: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.scale = qk_scale or (dim // heads) ** -0.5
        self.attn_drop = attn_drop
        self.drop = drop
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        device = self.relative_position_bias_table.device
        index = relative_position_index(window, device).clone()  # the function's result is cached
        self.register_buffer("relative_position_index", index)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, windows: Tensor, masks: Tensor | None, mask_index: Tensor | None) -> Tensor:
        """Map windows (B·nW, N, C) to the same shape.

        Args:
            windows: tokens of each window, in raster order.
            masks: masks to add to the scores, (4, N, N); None if windows are not shifted.
            mask_index: index of the mask of each window of an image, (nW,), int64.
        """
        query, key, value = split_heads(windows, self.qkv, self.heads)
        index = relative_position_index(self.window, windows.device)
        bias = self.relative_position_bias_table.mT.index_select(1, index.flatten()).view(-1, *index.shape)
        if masks is not None:
            bias = bias + masks[:, None].to(bias.dtype)
        dropout = self.attn_drop if self.training else 0.0
        output = join_heads(attend(query, key, value, bias, mask_index, self.scale, dropout), self.proj)
        return F.dropout(output, self.drop, self.training)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, applied to each token."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to the same shape."""
        hidden = F.dropout(F.gelu(self.fc1(x)), self.drop, self.training)
        return F.dropout(self.fc2(hidden), self.drop, self.training)


class Block(nn.Module):
    """Transformer block: window attention and an MLP, each with layer normalization before and a residual connection.

    Args:
        attn: attention within the windows.
        mlp: MLP that is applied to each token.
        dim: channels of a token.
        drop_path: probability of dropping a residual branch in training.
        shift: pixels by which the windows are shifted to the bottom and right.
        mask: value of the buffer ``attn_mask`` of official weights; ``forward`` does not use it.
    """

    attn_mask: Tensor | None

    def __init__(
        self, attn: WindowAttention, mlp: Mlp, dim: int, drop_path: float, shift: int, mask: Tensor | None
    ) -> None:
        super().__init__()
        self.window = attn.window
        self.shift = shift
        self.drop_path = drop_path
        self.register_buffer("attn_mask", mask)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape; H and W are multiples of the window."""
        height, width = x.shape[1:3]
        masks = mask_index = None
        branch = self.norm1(x)
        if self.shift:
            masks = shifted_window_mask(2 * self.window, 2 * self.window, self.window, self.shift, x.device)
            mask_index = window_mask_index(height, width, self.window, x.device)
            branch = branch.roll((-self.shift, -self.shift), (1, 2))
        branch = from_windows(self.attn(to_windows(branch, self.window), masks, mask_index), height, width)
        if self.shift:
            branch = branch.roll((self.shift, self.shift), (1, 2))
        x = x + stochastic_depth(branch, self.drop_path, self.training)
        return x + stochastic_depth(self.mlp(self.norm2(x)), self.drop_path, self.training)


class Group(nn.Module):
    """Residual group: transformer blocks and a convolution."""

    def __init__(self, blocks: Blocks, conv: nn.Module) -> None:
        super().__init__()
        self.residual_group = blocks
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        features: Tensor = self.conv(self.residual_group(x).permute(0, 3, 1, 2))
        return features.permute(0, 2, 3, 1) + x


class _PatchNorm(nn.Module):
    """Layer normalization (or the identity) under its official name ``norm``."""

    def __init__(self, dim: int, patch_norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim) if patch_norm else nn.Identity()


@ARCHS.register()
class SwinIR(Network):
    """SwinIR: (B, in_chans, H, W) in [0, 1] to (B, in_chans, upscale·H, upscale·W), not clamped.

    No published network has the default sizes. Those with 11.9 M parameters have 180 features, 6 groups of 6 blocks and
    ``mlp_ratio`` 2; the lightweight ones 60 features, 4 groups and ``mlp_ratio`` 2.

    Args:
        img_size: height and width of the training images. It determines the shape of ``attn_mask`` in official weights;
            if it is at most ``window_size``, windows are not shifted. Images of any size can be restored.
        in_chans: channels of an image, 3 or 1.
        embed_dim: number of features.
        depths: number of blocks of each group; every second block shifts its windows.
        num_heads: number of attention heads of each group.
        window_size: height and width of a window.
        mlp_ratio: hidden features of the MLPs divided by ``embed_dim``.
        drop_path_rate: probability of dropping the residual branches of the last block in training. It rises linearly
            from 0 at the first block.
        upscale: upsampling factor.
        img_range: scale of the images that the layers process, ``(x - mean) * img_range``.
        upsampler: ``pixelshuffle`` (super-resolution; upscale 3 or a power of two), ``pixelshuffledirect`` (lightweight
            super-resolution; any upscale), ``nearest+conv`` (real-world super-resolution; upscale 2 or 4), empty or
            null (denoising, JPEG artefacts; upscale 1).
        resi_connection: convolutions at the end of a group: ``1conv``, or ``3conv`` with a bottleneck of a quarter of
            the features.
        qkv_bias: whether the projections to queries, keys and values have a bias.
        qk_scale: factor of the products of queries and keys; null means (embed_dim / heads)^(-1/2).
        drop_rate: dropout probability before the first group, at the attention outputs and in the MLPs.
        attn_drop_rate: dropout probability of the attention weights.
        patch_norm: whether layer normalization precedes the first group.
        use_checkpoint: whether the backward pass recomputes the blocks, to save memory in training.
        patch_size: must be 1, as in every published network.
        ape: must be False. An absolute position embedding would fix the image size.

    Raises:
        ArgumentError: an argument is out of range or contradicts another argument.
    """

    mean: Tensor

    def __init__(
        self,
        img_size: ImageSize = 64,
        in_chans: Count = 3,
        embed_dim: Width = 96,
        depths: Groups = (6, 6, 6, 6),
        num_heads: Groups = (6, 6, 6, 6),
        window_size: WindowSize = 8,
        mlp_ratio: MLPRatio = 4.0,
        drop_path_rate: Probability = 0.1,
        upscale: Scale = 1,
        img_range: Positive = 1.0,
        upsampler: str | None = "",
        resi_connection: str = "1conv",
        qkv_bias: bool = True,
        qk_scale: NonNegative | None = None,
        drop_rate: Probability = 0.0,
        attn_drop_rate: Probability = 0.0,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        patch_size: Literal[1] = 1,
        ape: bool = False,
    ) -> None:
        check_unsupported(patch_size=(patch_size, 1, "tokens are pixels"), ape=(ape, False, "it fixes the image size"))
        _check_sizes(img_size, embed_dim, depths, num_heads, window_size)
        upsampler = _check_head(upsampler or "", upscale, resi_connection)
        spec = NetworkSpec(
            in_channels=in_chans,
            scale=upscale,
            size_multiple=window_size,
            last_layer="upsample.0" if upsampler == "pixelshuffledirect" else "conv_last",
            derived_buffers=("attn_mask", "relative_position_index"),
            guessed=("img_range",),
        )
        super().__init__(spec)
        self.upsampler, self.img_range, self.drop_rate = upsampler, img_range, drop_rate
        mean = RGB_MEAN if in_chans == 3 else (0.0,)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, padding=1)
        self.patch_embed = _PatchNorm(embed_dim, patch_norm)
        window, shift = min(window_size, img_size), window_size // 2 if img_size > window_size else 0
        mask = shifted_window_mask(img_size, img_size, window, shift, self.mean.device) if shift else None
        mask = None if mask is None else mask.clone()  # the function's result is cached
        drop_paths = (drop_path_rate * block / max(sum(depths) - 1, 1) for block in range(sum(depths)))

        def block(index: int, heads: int) -> Block:
            attn = WindowAttention(embed_dim, window, heads, qkv_bias, qk_scale, attn_drop_rate, drop_rate)
            mlp = Mlp(embed_dim, int(embed_dim * mlp_ratio), drop_rate)
            return Block(attn, mlp, embed_dim, next(drop_paths), *((shift, mask) if index % 2 else (0, None)))

        self.layers = nn.ModuleList()
        for depth, heads in zip(depths, num_heads, strict=True):
            blocks = Blocks((block(index, heads) for index in range(depth)), use_checkpoint)
            self.layers.append(Group(blocks, _residual_conv(embed_dim, resi_connection)))
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = _residual_conv(embed_dim, resi_connection)
        self._build_head(embed_dim, in_chans)
        self.apply(init_linear)

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
        """Restore images whose height and width are multiples of the window."""
        x = (x - self.mean) * self.img_range
        shallow = self.conv_first(x.contiguous(memory_format=torch.channels_last))
        deep = self.patch_embed.norm(shallow.permute(0, 2, 3, 1))
        deep = F.dropout(deep, self.drop_rate, self.training)
        for group in self.layers:
            deep = group(deep)
        deep = self.conv_after_body(self.norm(deep).permute(0, 3, 1, 2)) + shallow
        restored = self._upsample(deep) if self.upsampler else x + self.conv_last(deep)
        return torch.add(self.mean, restored, alpha=1 / self.img_range)

    def _upsample(self, deep: Tensor) -> Tensor:
        """Map features (B, C, H, W) to the output image, not yet denormalized."""
        if self.upsampler == "pixelshuffledirect":
            upsampled: Tensor = self.upsample(deep)
            return upsampled
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
        """Return the arguments that a state dict determines; networks with windows of 7 (JPEG) get img_range 255."""
        first_block = "layers.0.residual_group.blocks.0."
        table = shapes.get(f"{first_block}attn.relative_position_bias_table")
        if table is None or "conv_first.weight" not in shapes or f"{first_block}mlp.fc1.weight" not in shapes:
            return None
        window = (math.isqrt(table[0]) + 1) // 2
        embed_dim, in_chans = shapes["conv_first.weight"][:2]
        blocks = [
            (int(match[1]), shape[1])
            for key, shape in shapes.items()
            if (match := re.fullmatch(r"layers\.(\d+)\..*relative_position_bias_table", key))
        ]
        groups = range(1 + max(group for group, _ in blocks))
        mask = shapes.get("layers.0.residual_group.blocks.1.attn_mask")
        upsampler, upscale = _detect_head(shapes, in_chans)
        return {
            "img_size": window if mask is None else window * math.isqrt(mask[0]),
            "in_chans": in_chans,
            "embed_dim": embed_dim,
            "depths": [sum(number == group for number, _ in blocks) for group in groups],
            "num_heads": [next(heads for number, heads in blocks if number == group) for group in groups],
            "window_size": window,
            "mlp_ratio": shapes[f"{first_block}mlp.fc1.weight"][0] / embed_dim,
            "upscale": upscale,
            "img_range": 255.0 if window == 7 else 1.0,
            "upsampler": upsampler,
            "resi_connection": "3conv" if "conv_after_body.0.weight" in shapes else "1conv",
            **({} if f"{first_block}attn.qkv.bias" in shapes else {"qkv_bias": False}),
            **({} if "patch_embed.norm.weight" in shapes else {"patch_norm": False}),
        }


def _residual_conv(dim: int, resi_connection: str) -> nn.Module:
    """Return the layers at the end of a group: one convolution, or three with a bottleneck."""
    if resi_connection == "1conv":
        return nn.Conv2d(dim, dim, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(dim, dim // 4, 3, padding=1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(dim // 4, dim // 4, 1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(dim // 4, dim, 3, padding=1),
    )


def _detect_head(shapes: Shapes, channels: int) -> tuple[str, int]:
    """Return the upsampler and the scale of a state dict."""
    if "conv_hr.weight" in shapes:
        return "nearest+conv", 4 if "conv_up2.weight" in shapes else 2
    steps = [shape for key, shape in shapes.items() if re.fullmatch(r"upsample\.\d+\.weight", key)]
    if "conv_before_upsample.0.weight" in shapes:
        return "pixelshuffle", math.isqrt(math.prod(wide // narrow for wide, narrow, *_ in steps))
    if steps:
        return "pixelshuffledirect", math.isqrt(steps[0][0] // channels)
    return "", 1


def _check_sizes(
    img_size: int, embed_dim: int, depths: Sequence[int], num_heads: Sequence[int], window_size: int
) -> None:
    """Check that the numbers match one another."""
    if len(depths) != len(num_heads):
        raise ArgumentError(
            "num_heads",
            f"expected one number per group ({len(depths)}, as in depths), got {list(num_heads)}.",
        )
    for heads in num_heads:
        if embed_dim % heads:
            raise ArgumentError("num_heads", f"expected divisors of embed_dim {embed_dim}, got {heads}.")
    if img_size > window_size and img_size % window_size:
        raise ArgumentError(
            "img_size",
            f"expected a multiple of window_size {window_size}, like "
            f"{img_size // window_size * window_size} or {-(-img_size // window_size) * window_size}, got {img_size}.",
        )


def _check_head(upsampler: str, upscale: int, resi_connection: str) -> str:
    """Check the names, and whether the head supports ``upscale``. Return the upsampler."""
    if upsampler not in UPSAMPLERS:
        raise ArgumentError(
            "upsampler",
            f"expected one of {', '.join(map(repr, UPSAMPLERS))}, got '{upsampler}'."
            f"{suggestion(upsampler, [name for name in UPSAMPLERS if name])}",
        )
    if resi_connection not in ("1conv", "3conv"):
        raise ArgumentError("resi_connection", f"expected '1conv' or '3conv', got '{resi_connection}'.")
    is_power = upscale >= 1 and not upscale & (upscale - 1)
    is_valid, expected = {
        "pixelshuffle": (upscale == 3 or is_power, "3 or a power of two (1, 2, 4, 8, …)"),
        "pixelshuffledirect": (upscale >= 1, "a number of at least 1"),
        "nearest+conv": (upscale in (2, 4), "2 or 4"),
        "": (upscale == 1, "1 (set an upsampler, like 'pixelshuffle', to upsample)"),
    }[upsampler]
    if not is_valid:
        raise ArgumentError("upscale", f"expected {expected} for upsampler '{upsampler}', got {upscale}.")
    return upsampler
