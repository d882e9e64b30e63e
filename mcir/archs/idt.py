"""IDT, the image deraining transformer (Xiao et al., "Image De-raining Transformer", IEEE TPAMI 2022).

A U-Net with window attention; windows are not shifted. They exchange information in one spatial transformer per level,
where a token is one channel of a whole window, and attention is computed between the windows of the image. The state
dict has the keys and shapes of the authors' weights, and the outputs equal theirs. This includes two quirks: a spatial
transformer writes its results window after window, not to the pixels of the windows, and "dowsample" is the official
spelling.

The number of windows determines the shapes of weights, so the network itself accepts only squares of ``img_size``.
Larger images are restored in overlapping tiles, averaged with the weight 1 / distance to the centre of the tile, as in
the authors' test code.

Shapes: B images, H × W pixels, C channels, nW windows per image, N = win_size² pixels per window. Features are
(B, H, W, C), which is channels-last for convolutions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Annotated, Any, TypeAlias

import torch
from annotated_types import Interval, Len
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.archs.attention import attend, from_windows, to_windows
from mcir.archs.network import (
    Blocks,
    ImageSize,
    MLPRatio,
    Network,
    Shapes,
    WindowSize,
    init_linear,
    is_exporting,
    stochastic_depth,
)
from mcir.domains import Count, NonNegative, Probability, Width
from mcir.errors import ArgumentError
from mcir.network_spec import NetworkSpec
from mcir.registry import ARCHS

LEVELS = 4
"""Number of times that the encoder halves the resolution."""

Stages: TypeAlias = Annotated[Sequence[Count], Len(2 * LEVELS + 1, 2 * LEVELS + 1)]
"""A number for each stage: four encoder levels, bottleneck, four decoder levels."""

WINDOW_BOUND = 8
"""Number of distances between pixels of a window that have a bias of their own."""

GRID_BOUNDS = (16, 8, 4, 2)
"""Number of distances between windows that have a bias of their own in the spatial transformers, by level."""

TILES_PER_BATCH = 8
"""Number of tiles of a large image that are restored as one batch."""


class RelativeAttention(nn.Module):
    """Attention over the tokens of a square grid, with a learned position bias and a position-extracting branch.

    The output is ``proj(softmax(q kᵀ / √d + bias) v + position(r))``. r is a fourth projection of the tokens, after
    query, key and value; ``position`` is a depthwise and a pointwise convolution (one group per head) over the grid.

    Args:
        dim: channels of a token.
        side: tokens along a side of the grid.
        num_heads: number of attention heads, a divisor of ``dim``.
        bound: number of distances with a bias of their own; larger distances have the bias of ``bound − 1``.
        qkv_bias: whether the projections to queries, keys and values have a bias.
        qk_scale: factor of the products of queries and keys; None or 0 means 1 / √d.
    """

    index: Tensor

    def __init__(
        self, dim: int, side: int, num_heads: int, bound: int, qkv_bias: bool, qk_scale: float | None = None
    ) -> None:
        super().__init__()
        self.side = side
        self.num_heads = num_heads
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * bound - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("index", _bias_index(side, bound), persistent=False)
        kernel = 2 * min(side - 1, 2) + 1
        self.Position_Extract = nn.Sequential(
            nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim), nn.Conv2d(dim, dim, 1, groups=num_heads)
        )
        self.qkv = nn.ModuleDict(
            {"to_q": nn.Linear(dim, dim, bias=qkv_bias), "to_kv": nn.Linear(dim, 3 * dim, bias=qkv_bias)}
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map grids (G, side², C) to the same shape."""
        split = (*x.shape[:2], self.num_heads, -1)
        query = self.qkv["to_q"](x)
        key, value, position = self.qkv["to_kv"](x).chunk(3, dim=-1)
        bias = self.relative_position_bias_table[self.index].view(x.shape[1], x.shape[1], -1).permute(2, 0, 1)
        query, key, value = (part.view(split).transpose(1, 2) for part in (query, key, value))
        output = attend(query, key, value, bias.contiguous(), scale=self.scale)
        position = position.unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        position = self.Position_Extract(position).permute(0, 2, 3, 1)
        projected: Tensor = self.proj((position.reshape(split) + output.transpose(1, 2)).flatten(2))
        return projected


class LeFF(nn.Module):
    """Locally enhanced feed-forward network: Linear, GELU, ``h + gelu(depthwise 3×3(h))``, Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Sequential(nn.Linear(dim, hidden))
        self.dwconv = nn.Sequential(nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden))
        self.linear2 = nn.Sequential(nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        hidden = F.gelu(self.linear1(x))
        local = self.dwconv(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        features: Tensor = self.linear2(F.gelu(local).add_(hidden))
        return features


class WindowBlock(nn.Module):
    """Window attention, then LeFF, each with layer normalization before and a residual connection.

    Args:
        attn: attention over the pixels of a window.
        dim: number of features.
        hidden: hidden features of LeFF.
        drop_path: probability of dropping an image's residual branch in training.
    """

    def __init__(self, attn: RelativeAttention, dim: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.window = attn.side
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = LeFF(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        windows = self.attn(to_windows(self.norm1(x), self.window))
        x = x + stochastic_depth(from_windows(windows, *x.shape[1:3]), self.drop_path, self.training)
        return x + stochastic_depth(self.mlp(self.norm2(x)), self.drop_path, self.training)


class SpatialTransformer(nn.Module):
    """Attention between the windows of an image, in each channel separately, then LeFF.

    A token is one channel of a window. The results are added window after window: those of the first windows to the
    first rows of pixels, regardless of the positions of the windows.

    Args:
        attn: attention over the windows, with window² channels per token.
        dim: number of features.
        window: height and width of a window.
        hidden: hidden features of LeFF.
    """

    def __init__(self, attn: RelativeAttention, dim: int, window: int, hidden: int) -> None:
        super().__init__()
        self.window = window
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = LeFF(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        batch, height, width, channels = x.shape
        rows, columns = height // self.window, width // self.window
        tokens = x.reshape(batch, rows, self.window, columns, self.window, channels).permute(0, 5, 1, 3, 2, 4)
        tokens = self.attn(tokens.reshape(batch * channels, rows * columns, -1))
        x = x + tokens.view(batch, channels, height, width).permute(0, 2, 3, 1)
        features: Tensor = x + self.mlp(self.norm2(x))
        return features


class Convolution(nn.Module):
    """Convolution of features (B, H, W, C) and an optional activation. Keys start with ``name``, the official name."""

    def __init__(self, name: str, *layers: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H', W', C')."""
        features: Tensor = self.get_submodule(self.name)(x.permute(0, 3, 1, 2))
        return features.permute(0, 2, 3, 1)


@ARCHS.register()
class IDT(Network):
    """IDT: (B, in_chans, H, W) in [0, 1] to the same shape, not clamped.

    Images of ``img_size`` are processed as a whole, as in training. Smaller ones are padded to it, and larger ones are
    cut into tiles. The published networks have the default sizes and ``img_size`` 128 or 64.

    Args:
        in_chans: channels of an image.
        embed_dim: number of features at full resolution; it doubles with each level.
        depths: number of window blocks of nine stages: four encoder levels, bottleneck, four decoder levels. (The
            authors' code uses these numbers only for stochastic depth; its number of blocks is always our default.)
        num_heads: number of attention heads of the same nine stages.
        win_size: height and width of a window; in the bottleneck, at most those of its feature maps.
        mlp_ratio: hidden features of the feed-forward networks divided by ``embed_dim``, or by ``win_size²`` in the
            spatial transformers.
        qkv_bias: whether the projections to queries, keys and values have a bias.
        img_size: height and width of the network's input, ``8 · win_size`` or a multiple of ``16 · win_size``.
        drop_path_rate: probability of dropping the residual branches of the bottleneck in training. It rises linearly
            from 0 in the encoder and falls to 0 in the decoder.
        overlap: smallest overlap of neighbouring tiles of a larger image, in pixels.
        qk_scale: factor of the products of queries and keys; null means 1 / √d with d channels per head.
        use_checkpoint: whether the backward pass recomputes the blocks, to save memory in training.
        patch_norm: argument without effect, as in the authors' code.

    Raises:
        ArgumentError: an argument is out of range or contradicts another argument.
    """

    def __init__(
        self,
        in_chans: Count = 3,
        embed_dim: Width = 32,
        depths: Stages = (3, 3, 2, 2, 1, 1, 2, 2, 3),
        num_heads: Stages = (1, 2, 4, 8, 16, 16, 8, 4, 2),
        win_size: WindowSize = 8,
        mlp_ratio: MLPRatio = 4.0,
        qkv_bias: bool = True,
        img_size: ImageSize = 128,
        drop_path_rate: Probability = 0.1,
        overlap: Annotated[int, Interval(ge=0, lt=2048)] = 20,
        qk_scale: NonNegative | None = None,
        use_checkpoint: bool = False,
        patch_norm: bool = True,
    ) -> None:
        _check_sizes(embed_dim, num_heads, win_size, img_size, overlap)
        spec = NetworkSpec(
            in_channels=in_chans,
            min_size=img_size,
            shift_period=img_size - overlap,  # distance between tiles
            tile_remainder=overlap,
            tiles_internally=True,
            last_layer="output_proj.proj.0",
        )
        super().__init__(spec)
        self.img_size, self.overlap = img_size, overlap

        def attention(channels: int, side: int, heads: int, bound: int) -> RelativeAttention:
            return RelativeAttention(channels, side, heads, bound, qkv_bias, qk_scale)

        def layer(number: int, dim: int) -> Blocks:
            level = min(number, 2 * LEVELS - number)
            heads, side = num_heads[number], img_size >> level
            blocks: list[nn.Module] = [
                WindowBlock(attention(dim, min(win_size, side), heads, WINDOW_BOUND), dim, int(dim * mlp_ratio), rate)
                for rate in _drop_rates(depths, number, drop_path_rate)
            ]
            if level < LEVELS:
                attn = attention(win_size**2, side // win_size, heads, GRID_BOUNDS[level])
                blocks.append(SpatialTransformer(attn, dim, win_size, int(win_size**2 * mlp_ratio)))
            return Blocks(blocks, use_checkpoint)

        self.input_proj = Convolution("proj", nn.Conv2d(in_chans, embed_dim, 3, padding=1), nn.LeakyReLU(inplace=True))
        self.output_proj = Convolution("proj", nn.Conv2d(2 * embed_dim, in_chans, 3, padding=1))
        for level in range(LEVELS):
            dim = embed_dim << level
            self.add_module(f"encoderlayer_{level}", layer(level, dim))
            self.add_module(f"dowsample_{level}", Convolution("conv", nn.Conv2d(dim, 2 * dim, 4, stride=2, padding=1)))
        dim = embed_dim << LEVELS
        self.bottle = layer(LEVELS, dim)
        for step in range(LEVELS):
            num_skip = embed_dim << LEVELS - 1 - step
            self.add_module(f"upsample_{step}", Convolution("deconv", nn.ConvTranspose2d(dim, num_skip, 2, stride=2)))
            dim = 2 * num_skip
            self.add_module(f"decoderlayer_{step}", layer(LEVELS + 1 + step, dim))
        self.apply(init_linear)

    def restore(self, x: Tensor) -> Tensor:
        """Restore images of at least ``img_size`` pixels in height and width.

        Tiles start every ``img_size − overlap`` pixels; the last one ends at the border. A pixel is the mean of the
        tiles that contain it, weighted by 1 / distance to their centers. A few tiles are restored at a time, so that
        memory grows only by the size of the images themselves.
        """
        if is_exporting():
            return self._restore_at_once(x)
        size, (height, width) = self.img_size, x.shape[-2:]
        assert min(height, width) >= size
        if height == width == size:
            return self.restore_tile(x)
        tile_corners = list(product(*(tile_starts(side, size, self.overlap) for side in (height, width))))
        dtype = torch.promote_types(x.dtype, torch.float32)
        tile_weights = center_weights(size, x.device).to(dtype)
        mean = torch.zeros_like(x, dtype=dtype)
        weight = mean.new_zeros(height, width)
        count = max(TILES_PER_BATCH // len(x), 1)
        for first in range(0, len(tile_corners), count):
            areas = [
                (..., slice(top, top + size), slice(left, left + size))
                for top, left in tile_corners[first : first + count]
            ]
            tiles = self.restore_tile(torch.cat([x[area] for area in areas])).to(dtype)
            for area, tile in zip(areas, tiles.view(-1, *x.shape[:2], size, size), strict=True):
                mean[area].addcmul_(tile, tile_weights)
                weight[area].add_(tile_weights)
        return mean.div_(weight).to(x.dtype)

    def _restore_at_once(self, x: Tensor) -> Tensor:
        """Do the same as ``restore`` with all tiles in one batch, which can be exported for any image size."""
        size, (batch, channels, height, width) = self.img_size, x.shape
        rows, columns = (_tile_positions(side, size, self.overlap, x.device) for side in (height, width))
        tiles = x[:, :, rows[:, None, :, None], columns[None, :, None, :]]
        down, right = rows.shape[0], columns.shape[0]
        tiles = self.restore_tile(tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels, size, size))
        tiles = tiles.view(batch, down, right, channels, size, size).permute(0, 3, 1, 4, 2, 5)
        tile_weights = center_weights(size, x.device).to(x.dtype)
        tile_weights = tile_weights[:, None].expand(down, size, right, size)

        def merge(parts: Tensor) -> Tensor:
            rows = _sum_tiles(parts, width, self.overlap)
            return _sum_tiles(rows.permute(*range(rows.dim() - 3), -1, -3, -2), height, self.overlap).mT

        return merge(tiles * tile_weights) / merge(tile_weights)

    def restore_tile(self, x: Tensor) -> Tensor:
        """Restore (B, in_chans, img_size, img_size) with the network of the paper."""
        features = self.input_proj(x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1))
        skips = []
        for level in range(LEVELS):
            features = self.get_submodule(f"encoderlayer_{level}")(features)
            skips.append(features)
            features = self.get_submodule(f"dowsample_{level}")(features)
        features = self.bottle(features)
        for step in range(LEVELS):
            features = self.get_submodule(f"upsample_{step}")(features)
            features = torch.cat([features, skips.pop()], dim=-1)
            features = self.get_submodule(f"decoderlayer_{step}")(features)
        restored: Tensor = x + self.output_proj(features).permute(0, 3, 1, 2)
        return restored

    @classmethod
    def detect(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the arguments that a state dict determines.

        The shapes are the same for all image sizes with more than two windows along a side of the lowest encoder level.
        In this case, the smallest of these image sizes is returned.
        """
        if (
            not {"input_proj.proj.0.weight", "dowsample_0.conv.0.weight", "bottle.blocks.0.norm1.weight"}
            <= shapes.keys()
        ):
            return None
        layers = [f"encoderlayer_{level}" for level in range(LEVELS)]
        layers += ["bottle", *(f"decoderlayer_{step}" for step in range(LEVELS))]
        depths = [
            sum(bool(re.fullmatch(rf"{layer}\.blocks\.\d+\.norm1\.weight", key)) for key in shapes) for layer in layers
        ]
        embed_dim, in_chans = shapes["input_proj.proj.0.weight"][:2]
        deepest = f"encoderlayer_3.blocks.{depths[3]}.attn"
        win_size = math.isqrt(shapes[f"{deepest}.qkv.to_q.weight"][0])
        kernel = shapes[f"{deepest}.Position_Extract.0.weight"][-1]
        return {
            "in_chans": in_chans,
            "embed_dim": embed_dim,
            "depths": depths,
            "num_heads": [shapes[f"{layer}.blocks.0.attn.relative_position_bias_table"][1] for layer in layers],
            "win_size": win_size,
            "mlp_ratio": shapes["encoderlayer_0.blocks.0.mlp.linear1.0.weight"][0] / embed_dim,
            "qkv_bias": "encoderlayer_0.blocks.0.attn.qkv.to_q.bias" in shapes,
            "img_size": {1: 8, 3: 16, 5: 32}[kernel] * win_size,
        }


def tile_starts(side: int, tile: int, overlap: int) -> list[int]:
    """Return the start positions of tiles along a side, ``tile − overlap`` apart; the last tile ends with the side."""
    return [*range(0, side - tile, tile - overlap), side - tile]


def _tile_positions(side: int, tile: int, overlap: int, device: torch.device) -> Tensor:
    """Return the positions of the pixels of each tile along a side, (tiles, tile), int64."""
    step = tile - overlap
    starts = torch.arange((side - tile + step - 1) // step + 1, device=device) * step
    return starts.clamp(max=side - tile)[:, None] + torch.arange(tile, device=device)


def _sum_tiles(tiles: Tensor, side: int, overlap: int) -> Tensor:
    """Return the sums (…, side) of tiles (…, tiles, tile) at the positions of ``_tile_positions``.

    Each pixel gathers values from the tiles that contain it. Exported programs cannot scatter tiles instead, because
    ONNX Runtime with several threads loses additions to repeated indices.
    """
    count, tile = tiles.shape[-2:]
    flat, position = tiles.flatten(-2), torch.arange(side, device=tiles.device)
    offset = position - (side - tile)  # position in the last tile
    total = torch.where(offset >= 0, flat.index_select(-1, (count - 1) * tile + offset.clamp(min=0)), 0)
    for back in range(-(-tile // (tile - overlap))):
        number = position // (tile - overlap) - back
        offset = position - number * (tile - overlap)
        is_inside = (number >= 0) & (number < count - 1) & (offset < tile)
        total = total + torch.where(is_inside, flat.index_select(-1, (number * tile + offset) * is_inside), 0)
    return total


def center_weights(tile: int, device: torch.device | None = None) -> Tensor:
    """Return the weight of each pixel of a tile, (tile, tile): 1 / √(distance² to the centre + 0.001), float32."""
    squared = (torch.arange(tile, device=device) - tile // 2).square()
    return (squared[:, None] + squared[None, :] + 1e-3).rsqrt()


def _bias_index(side: int, bound: int) -> Tensor:
    """Return the row of the bias table for each pair of tokens of a grid, in the order of the queries."""
    position = torch.arange(side)
    offset = (position[:, None] - position[None, :]).clamp(1 - bound, bound - 1) + bound - 1
    return (offset[:, None, :, None] * (2 * bound - 1) + offset[None, :, None, :]).flatten()


def _drop_rates(depths: Sequence[int], stage: int, highest: float) -> Iterator[float]:
    """Yield the stochastic-depth probability of each window block of a stage."""
    is_down = stage < LEVELS
    first, last = (0, LEVELS) if is_down else (LEVELS + 1, len(depths))
    before, total = sum(depths[first:stage]), sum(depths[first:last])
    for block in range(before, before + depths[stage]):
        if stage == LEVELS:
            yield highest
        else:
            yield highest * (block if is_down else total - 1 - block) / max(total - 1, 1)


def _check_sizes(embed_dim: int, num_heads: Sequence[int], win_size: int, img_size: int, overlap: int) -> None:
    """Check that the numbers match one another."""
    for number, heads in enumerate(num_heads):
        dim = embed_dim << (number if number <= LEVELS else 2 * LEVELS + 1 - number)
        if dim % heads or (number != LEVELS and win_size**2 % heads):
            pixels = f" and of {win_size**2} pixels per window" if number != LEVELS else ""
            raise ArgumentError(
                "num_heads",
                f"stage {number + 1}: expected a divisor of {dim} features{pixels}, got {heads}.",
            )
    if img_size % (16 * win_size) and (img_size != 8 * win_size or win_size % 2):
        nearest = 16 * win_size * max(round(img_size / (16 * win_size)), 1)
        smallest = f" or {8 * win_size}" if win_size % 2 == 0 else ""
        raise ArgumentError(
            "img_size",
            f"expected a multiple of 16 · win_size{smallest}, like {nearest}, got {img_size}.",
        )
    if overlap >= img_size:
        raise ArgumentError("overlap", f"expected 0 to img_size − 1 = {img_size - 1} pixels, got {overlap}.")
