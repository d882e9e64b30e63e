"""IDT, the image deraining transformer (Xiao et al., "Image De-raining Transformer", IEEE TPAMI 2022).

A U-shaped network of window attention without shifts. What windows cannot tell each other is left to one spatial
transformer a level: there a whole window of one channel is a token, and attention runs over the windows of the image.
Keys, shapes and outputs are those of the authors' weights, including two habits of their code: the spatial
transformer's results come back window after window, not at the pixels they were taken from, and "dowsample" is how it
is spelt.

The number of windows is part of the weights, so the network itself takes squares of ``img_size`` only. Larger images
are restored in overlapping tiles that are averaged with the weight 1 / distance to the tile's centre, as the authors
test.

Shapes: B images, H × W pixels, C channels, nW windows an image, N = win_size² pixels a window. Within, pictures are
(B, H, W, C), which convolutions see as channels_last.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.archs.attention import attend, from_windows, to_windows
from mcir.archs.network import Blocks, Network, Shapes, is_exporting, stochastic_depth
from mcir.network_spec import NetworkSpec
from mcir.registry import ARCHS

LEVELS = 4
"""Times that the encoder halves the picture."""

WINDOW_BOUND = 8
"""Relative positions of pixels are told apart below this many rows and columns."""

GRID_BOUNDS = (16, 8, 4, 2)
"""The same for windows in the spatial transformers, by level."""

TILES_AT_ONCE = 8
"""Tiles of a large picture that are restored together: as much memory as a training batch of as many images."""


class RelativeAttention(nn.Module):
    """Attention of the tokens of a square grid, with learned relative positions and a position-extracting branch.

    ``proj(softmax(q kᵀ / √d + bias) v + position(r))``: r is a second value, and ``position`` a depthwise and a
    pointwise convolution (one group a head) over the grid.

    Args:
        dim: channels of a token.
        side: tokens along a side of the grid.
        num_heads: heads of the attention; they divide ``dim``.
        bound: relative positions this far or farther apart share the bias of those one nearer.
        qkv_bias: whether queries, keys and values have biases.
    """

    rows: Tensor

    def __init__(self, dim: int, side: int, num_heads: int, bound: int, qkv_bias: bool) -> None:
        super().__init__()
        self.side = side
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * bound - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("rows", _table_rows(side, bound), persistent=False)
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
        heads = (*x.shape[:2], self.num_heads, -1)
        query = self.qkv["to_q"](x)
        key, value, placed = self.qkv["to_kv"](x).chunk(3, dim=-1)
        bias = self.relative_position_bias_table[self.rows].view(x.shape[1], x.shape[1], -1).permute(2, 0, 1)
        query, key, value = (each.view(heads).transpose(1, 2) for each in (query, key, value))
        attended = attend(query, key, value, bias.contiguous(), scale=self.scale)
        placed = placed.unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        position: Tensor = self.Position_Extract(placed).permute(0, 2, 3, 1)
        mixed: Tensor = self.proj((position.reshape(heads) + attended.transpose(1, 2)).flatten(2))
        return mixed


class LeFF(nn.Module):
    """Locally enhanced feed-forward network: Linear, GELU, ``h + gelu(depthwise 3×3(h))``, Linear.

    Args:
        dim: channels in and out.
        hidden: channels within.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Sequential(nn.Linear(dim, hidden))
        self.dwconv = nn.Sequential(nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden))
        self.linear2 = nn.Sequential(nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        hidden = F.gelu(self.linear1(x))
        local = self.dwconv(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        mixed: Tensor = self.linear2(F.gelu(local).add_(hidden))
        return mixed


class WindowBlock(nn.Module):
    """Attention within windows, then LeFF, each behind a LayerNorm and with a shortcut around it.

    Args:
        dim: channels.
        window: side of a window in pixels.
        num_heads: heads of the attention.
        hidden: channels within LeFF.
        qkv_bias: whether queries, keys and values have biases.
        drop_path: probability of leaving a residual out, for each image of a batch on its own.
    """

    def __init__(self, dim: int, window: int, num_heads: int, hidden: int, qkv_bias: bool, drop_path: float) -> None:
        super().__init__()
        self.window = window
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = RelativeAttention(dim, window, num_heads, WINDOW_BOUND, qkv_bias)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = LeFF(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        windows = self.attn(to_windows(self.norm1(x), self.window))
        x = x + stochastic_depth(from_windows(windows, *x.shape[1:3]), self.drop_path, self.training)
        return x + stochastic_depth(self.mlp(self.norm2(x)), self.drop_path, self.training)


class SpatialTransformer(nn.Module):
    """Attention between the windows of a picture, each channel on its own, then LeFF behind a LayerNorm.

    A token is a window of one channel. The results are added window after window: the first row of windows' worth of
    pixels gets the first windows, whatever places they had.

    Args:
        dim: channels.
        grid: windows along a side of the picture.
        window: side of a window in pixels.
        num_heads: heads of the attention; they divide window².
        hidden: channels within LeFF.
        bound: relative positions of windows are told apart below it.
        qkv_bias: whether queries, keys and values have biases.
    """

    def __init__(
        self, dim: int, grid: int, window: int, num_heads: int, hidden: int, bound: int, qkv_bias: bool
    ) -> None:
        super().__init__()
        self.window = window
        self.attn = RelativeAttention(window * window, grid, num_heads, bound, qkv_bias)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = LeFF(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        batch, height, width, channels = x.shape
        rows, columns = height // self.window, width // self.window
        tokens = x.reshape(batch, rows, self.window, columns, self.window, channels).permute(0, 5, 1, 3, 2, 4)
        tokens = self.attn(tokens.reshape(batch * channels, rows * columns, -1))
        x = x + tokens.view(batch, channels, height, width).permute(0, 2, 3, 1)
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed


class Convolution(nn.Module):
    """A convolution of (B, H, W, C), under the name that its kind has in the official keys.

    Args:
        name: ``proj``, ``conv`` or ``deconv``.
        layers: the convolution, and an activation where there is one.
    """

    def __init__(self, name: str, *layers: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H', W', C')."""
        mapped: Tensor = self.get_submodule(self.name)(x.permute(0, 3, 1, 2))
        return mapped.permute(0, 2, 3, 1)


@ARCHS.register()
class IDT(Network):
    """IDT: (B, in_chans, H, W) in [0, 1] to the same shape, not clamped.

    An image of ``img_size`` goes straight through, as in training; smaller sides are padded to it, larger images are
    cut into tiles. The published sizes are the defaults and ``img_size`` 64.

    Args:
        in_chans: channels of an image.
        embed_dim: channels at full size; each level below has twice as many.
        depths: window blocks of the four encoder levels, the bottleneck and the four decoder levels. (The authors'
            code takes these numbers for stochastic depth only and always has the blocks of the defaults.)
        num_heads: heads of the attention of the same nine levels.
        win_size: side of a window in pixels; the bottleneck's are smaller where its picture is.
        mlp_ratio: channels within the feed-forward networks for each channel outside; the spatial transformers'
            networks have ``mlp_ratio · win_size²``.
        qkv_bias: whether queries, keys and values have biases.
        img_size: side of the squares that the network takes: ``8 · win_size``, or a multiple of ``16 · win_size``.
        drop_path_rate: stochastic depth in training: the probability of leaving out a window block's residuals grows
            from 0 at the first to this at the bottleneck and falls again to 0.
        overlap: pixels by which neighbouring tiles of a larger image overlap at least.

    Raises:
        ValueError: numbers that do not fit each other; the message says which.
    """

    def __init__(
        self,
        in_chans: int = 3,
        embed_dim: int = 32,
        depths: Sequence[int] = (3, 3, 2, 2, 1, 1, 2, 2, 3),
        num_heads: Sequence[int] = (1, 2, 4, 8, 16, 16, 8, 4, 2),
        win_size: int = 8,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        img_size: int = 128,
        drop_path_rate: float = 0.1,
        overlap: int = 20,
    ) -> None:
        _check(in_chans, embed_dim, depths, num_heads, win_size, mlp_ratio, img_size, drop_path_rate, overlap)
        spec = NetworkSpec(
            in_channels=in_chans,
            min_size=img_size,
            shift_period=img_size - overlap,  # the distance between tiles
            tile_remainder=overlap,
            tiles_internally=True,
            last_layer="output_proj.proj.0",
        )
        super().__init__(spec)
        self.img_size = img_size
        self.overlap = overlap
        rates = _drop_rates(depths, drop_path_rate)

        def layer(place: int, dim: int) -> Blocks:
            level = min(place, 2 * LEVELS - place)
            heads, side = num_heads[place], img_size >> level
            blocks: list[nn.Module] = [
                WindowBlock(dim, min(win_size, side), heads, int(dim * mlp_ratio), qkv_bias, rate)
                for rate in rates[place]
            ]
            if level < LEVELS:
                grid, hidden = side // win_size, int(win_size**2 * mlp_ratio)
                blocks.append(SpatialTransformer(dim, grid, win_size, heads, hidden, GRID_BOUNDS[level], qkv_bias))
            return Blocks(blocks)

        self.input_proj = Convolution("proj", nn.Conv2d(in_chans, embed_dim, 3, padding=1), nn.LeakyReLU(inplace=True))
        self.output_proj = Convolution("proj", nn.Conv2d(2 * embed_dim, in_chans, 3, padding=1))
        for level in range(LEVELS):
            dim = embed_dim << level
            self.add_module(f"encoderlayer_{level}", layer(level, dim))
            self.add_module(f"dowsample_{level}", Convolution("conv", nn.Conv2d(dim, 2 * dim, 4, stride=2, padding=1)))
        dim = embed_dim << LEVELS
        self.bottle = layer(LEVELS, dim)
        for step in range(LEVELS):
            skipped = embed_dim << LEVELS - 1 - step
            self.add_module(f"upsample_{step}", Convolution("deconv", nn.ConvTranspose2d(dim, skipped, 2, stride=2)))
            dim = 2 * skipped
            self.add_module(f"decoderlayer_{step}", layer(LEVELS + 1 + step, dim))
        self.apply(_initialise)

    def restore(self, x: Tensor) -> Tensor:
        """Restore images whose sides are at least ``img_size``: whole if they are as large, otherwise in tiles.

        Tiles lie ``img_size − overlap`` apart, the last at the edge. A pixel is the mean of the tiles that it lies in,
        weighted by 1 / distance to their centres. A few tiles are restored at a time, so that memory grows with the
        image only by what the image itself takes.
        """
        if is_exporting():
            return self._restore_at_once(x)
        size, (height, width) = self.img_size, x.shape[-2:]
        assert min(height, width) >= size
        if height == width == size:
            return self.restore_tile(x)
        corners = list(product(*(tile_starts(side, size, self.overlap) for side in (height, width))))
        dtype = torch.promote_types(x.dtype, torch.float32)
        closeness = centre_weights(size, x.device).to(dtype)
        mean = torch.zeros_like(x, dtype=dtype)
        weight = mean.new_zeros(height, width)
        together = max(TILES_AT_ONCE // len(x), 1)
        for first in range(0, len(corners), together):
            places = [
                (..., slice(top, top + size), slice(left, left + size))
                for top, left in corners[first : first + together]
            ]
            tiles = self.restore_tile(torch.cat([x[place] for place in places])).to(dtype)
            for place, tile in zip(places, tiles.view(-1, *x.shape[:2], size, size), strict=True):
                mean[place].addcmul_(tile, closeness)
                weight[place].add_(closeness)
        return mean.div_(weight).to(x.dtype)

    def _restore_at_once(self, x: Tensor) -> Tensor:
        """Restore the same with all tiles at a time, which a program that is traced for many sizes can do."""
        size, (batch, channels, height, width) = self.img_size, x.shape
        rows, columns = (_tile_places(side, size, self.overlap, x.device) for side in (height, width))
        tiles = x[:, :, rows[:, None, :, None], columns[None, :, None, :]]
        down, right = rows.shape[0], columns.shape[0]
        tiles = self.restore_tile(tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels, size, size))
        tiles = tiles.view(batch, down, right, channels, size, size).permute(0, 3, 1, 4, 2, 5)
        closeness = centre_weights(size, x.device).to(x.dtype)
        closeness = closeness[:, None].expand(down, size, right, size)

        def laid_out(parts: Tensor) -> Tensor:
            of_rows = _laid_out(parts, width, self.overlap)
            return _laid_out(of_rows.permute(*range(of_rows.dim() - 3), -1, -3, -2), height, self.overlap).mT

        return laid_out(tiles * closeness) / laid_out(closeness)

    def restore_tile(self, x: Tensor) -> Tensor:
        """Restore (B, in_chans, img_size, img_size): the network of the paper."""
        picture = self.input_proj(x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1))
        skipped = []
        for level in range(LEVELS):
            picture = self.get_submodule(f"encoderlayer_{level}")(picture)
            skipped.append(picture)
            picture = self.get_submodule(f"dowsample_{level}")(picture)
        picture = self.bottle(picture)
        for step in range(LEVELS):
            picture = self.get_submodule(f"upsample_{step}")(picture)
            picture = torch.cat([picture, skipped.pop()], dim=-1)
            picture = self.get_submodule(f"decoderlayer_{step}")(picture)
        restored: Tensor = x + self.output_proj(picture).permute(0, 3, 1, 2)
        return restored

    @classmethod
    def detect(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the arguments that a state dict tells.

        Of the image sizes with more than two windows at the deepest encoder level the smallest is taken: the shapes
        are the same for all of them.
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
    """Return where tiles begin along a side that is at least as long: ``tile − overlap`` apart, the last at the end."""
    return [*range(0, side - tile, tile - overlap), side - tile]


def _tile_places(side: int, tile: int, overlap: int, device: torch.device) -> Tensor:
    """Return the places along a side of the pixels of each tile (tiles, tile), int64."""
    step = tile - overlap
    starts = torch.arange((side - tile + step - 1) // step + 1, device=device) * step
    return starts.clamp(max=side - tile)[:, None] + torch.arange(tile, device=device)


def _laid_out(tiles: Tensor, side: int, overlap: int) -> Tensor:
    """Return the sums (…, side) of tiles (…, tiles, tile) that lie as ``_tile_places`` says.

    Each pixel looks up the tiles that it lies in. To add each tile where it lies is no way for a program: where places
    repeat, ONNX Runtime loses additions when it has several threads.
    """
    count, tile = tiles.shape[-2:]
    flat, here = tiles.flatten(-2), torch.arange(side, device=tiles.device)
    within = here - (side - tile)  # the last one
    total = torch.where(within >= 0, flat.index_select(-1, (count - 1) * tile + within.clamp(min=0)), 0)
    for back in range(-(-tile // (tile - overlap))):
        number = here // (tile - overlap) - back
        within = here - number * (tile - overlap)
        is_there = (number >= 0) & (number < count - 1) & (within < tile)
        total = total + torch.where(is_there, flat.index_select(-1, (number * tile + within) * is_there), 0)
    return total


def centre_weights(tile: int, device: torch.device | None = None) -> Tensor:
    """Return the weight of each pixel of a tile (tile, tile): 1 / √(distance² to the middle + 0.001), float32."""
    squared = (torch.arange(tile, device=device) - tile // 2).square()
    return (squared[:, None] + squared[None, :] + 1e-3).rsqrt()


def _table_rows(side: int, bound: int) -> Tensor:
    """Return for each pair of tokens of a grid the row of the bias table, flat: query after query."""
    place = torch.arange(side)
    offset = (place[:, None] - place[None, :]).clamp(1 - bound, bound - 1) + bound - 1
    return (offset[:, None, :, None] * (2 * bound - 1) + offset[None, :, None, :]).flatten()


def _drop_rates(depths: Sequence[int], most: float) -> list[list[float]]:
    """Return the probability of each window block of the nine levels."""
    down, up = sum(depths[:LEVELS]), sum(depths[LEVELS + 1 :])
    rates = [most * block / max(down - 1, 1) for block in range(down)]
    rates += [most] * depths[LEVELS]
    rates += [most * block / max(up - 1, 1) for block in reversed(range(up))]
    ends = [sum(depths[:place]) for place in range(len(depths) + 1)]
    return [rates[start:end] for start, end in pairwise(ends)]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check(
    in_chans: int,
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    win_size: int,
    mlp_ratio: float,
    img_size: int,
    drop_path_rate: float,
    overlap: int,
) -> None:
    for name, numbers in (("depths", depths), ("num_heads", num_heads)):
        if len(numbers) != 2 * LEVELS + 1 or min(numbers) < 1:
            raise ValueError(
                f"IDT: {name} are nine numbers from 1 on (four encoder levels, bottleneck, four decoder levels), "
                f"not {list(numbers)}."
            )
    if min(in_chans, embed_dim, win_size) < 1 or mlp_ratio <= 0:
        raise ValueError(
            "IDT: in_chans, embed_dim and win_size start at 1 and mlp_ratio is above 0, not "
            f"{in_chans=}, {embed_dim=}, {win_size=}, {mlp_ratio=}."
        )
    for place, heads in enumerate(num_heads):
        dim = embed_dim << (place if place <= LEVELS else 2 * LEVELS + 1 - place)
        if dim % heads or (place != LEVELS and win_size**2 % heads):
            raise ValueError(
                f"IDT: num_heads[{place}] must divide the level's {dim} channels"
                + (f" and a window's {win_size**2} pixels" if place != LEVELS else "")
                + f"; {heads} does not."
            )
    if img_size < 1 or (img_size % (16 * win_size) and (img_size != 8 * win_size or win_size % 2)):
        nearest = 16 * win_size * max(round(img_size / (16 * win_size)), 1)
        raise ValueError(
            "IDT: img_size is a multiple of 16 · win_size"
            + (f", or {8 * win_size}" if win_size % 2 == 0 else "")
            + f", not {img_size}; the nearest multiple is {nearest}."
        )
    if not 0 <= drop_path_rate < 1:
        raise ValueError(f"IDT: drop_path_rate is a probability below 1, not {drop_path_rate}.")
    if not 0 <= overlap < img_size:
        raise ValueError(f"IDT: overlap is from 0 to img_size − 1 = {img_size - 1} pixels, not {overlap}.")
