"""DehazeFormer (Song et al., "Vision Transformers for Single Image Dehazing", IEEE TIP 2023, arXiv:2204.03883).

A U-Net of five stages. Blocks mix pixels by a convolution of their values and, in the last blocks of a stage, by
attention within windows; there a normalisation over the whole image is undone after the attention. Windows at the edge
are filled up by mirroring, so shifted ones need no mask. Keys and shapes of the state dict are those of the published
weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.archs.attention import attend, relative_position_index
from mcir.archs.network import Blocks, Network, Shapes, is_exporting
from mcir.network_spec import NetworkSpec
from mcir.registry import ARCHS

META = 256
"""Hidden features of the network that makes the bias of the attention."""


class RescaledNorm(nn.Module):
    """Rescale layer normalisation, RLN: over a whole image, and what undoes it.

    Args:
        dim: channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dim, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, dim, 1, 1))
        self.meta1 = nn.Conv2d(1, dim, 1)
        self.meta2 = nn.Conv2d(1, dim, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, C, H, W) to the normalised images of that shape, and a factor and a summand (B, C, 1, 1)."""
        precise = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        # not torch.var_mean, which took ten times as long on a CPU
        mean = precise.mean((1, 2, 3), keepdim=True)
        centred = precise - mean
        std = (centred.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        normalised = torch.addcmul(self.bias, centred, self.weight / std).to(x.dtype)
        return normalised, self.meta1(std.to(self.weight.dtype)), self.meta2(mean.to(self.weight.dtype))


class WindowAttention(nn.Module):
    """Attention within windows, with a bias that a small network makes of the tokens' relative positions.

    The network is run once for each of the (2·window − 1)² positions, not for each pair of tokens.

    Args:
        heads: how many attend side by side.
        window: side of a window in pixels.
    """

    positions: Tensor
    relative_positions: Tensor

    def __init__(self, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        offset = torch.arange(1.0 - window, window)
        offset = offset.sign() * (1 + offset.abs()).log()
        positions = torch.stack(torch.meshgrid(offset, offset, indexing="ij"), -1).flatten(0, 1)
        index = relative_position_index(window, positions.device)
        self.register_buffer("positions", positions, persistent=False)
        self.register_buffer("relative_positions", positions[index])  # which published files hold
        self.meta = nn.Sequential(nn.Linear(2, META), nn.ReLU(inplace=True), nn.Linear(META, heads))

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return what each token of (B·nW, heads, N, d) attends to, in that shape."""
        index = relative_position_index(self.window, query.device)
        bias = self.meta(self.positions).mT.index_select(1, index.flatten()).view(-1, *index.shape)
        return attend(query, key, value, bias, scale=query.shape[-1] ** -0.5)


class Attention(nn.Module):
    """Mix pixels: a convolution of the values, with or without window attention beside it.

    Args:
        dim: channels in and out.
        heads: of the attention.
        window: side of a window in pixels.
        shift: how far the windows begin above and left of the image.
        use_attn: whether there is attention.
        conv_type: ``DWConv``, a depth-wise 5×5 convolution, or ``Conv``, two full 3×3 ones.
    """

    def __init__(self, dim: int, heads: int, window: int, shift: int, use_attn: bool, conv_type: str) -> None:
        super().__init__()
        self.heads, self.window, self.shift, self.use_attn = heads, window, shift, use_attn
        self.conv = _mirrored_conv(dim, conv_type)
        self.has_values = use_attn or conv_type == "DWConv"
        if self.has_values:
            self.V = nn.Conv2d(dim, dim, 1)
            self.proj = nn.Conv2d(dim, dim, 1)
        if use_attn:
            self.QK = nn.Conv2d(dim, 2 * dim, 1)
            self.attn = WindowAttention(heads, window)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        if not self.has_values:
            mixed: Tensor = self.conv(x)
            return mixed
        value = self.V(x)
        mixed = self.conv(value)
        if self.use_attn:
            mixed = mixed.add_(self.attended(self.QK(x), value))
        projected: Tensor = self.proj(mixed)
        return projected

    def attended(self, query_key: Tensor, value: Tensor) -> Tensor:
        """Return the attention's part (B, C, H, W) from queries and keys (B, 2·C, H, W) and values (B, C, H, W)."""
        height, width = value.shape[2:]
        top, bottom, rows = _edges(height, self.window, self.shift)
        left, right, columns = _edges(width, self.window, self.shift)
        query_key, value = (_mirror(x, (left, right, top, bottom)) for x in (query_key, value))
        grid = (rows, columns, self.window, self.heads)
        query, key = (_to_windows(x, *grid) for x in query_key.chunk(2, 1))
        image = _from_windows(self.attn(query, key, _to_windows(value, *grid)), rows, columns, self.window)
        if is_exporting():  # a view's layout would depend on how much is cut off
            return F.pad(image, (-left, -right, -top, -bottom))
        return image[..., top : top + height, left : left + width]


class MLP(nn.Module):
    """Two convolutions of single pixels with a ReLU between.

    Args:
        dim: channels in and out.
        hidden: channels between.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv2d(dim, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        mapped: Tensor = self.mlp(x)
        return mapped


class Block(nn.Module):
    """``x + attn(x)``, or ``x + attn(norm(x)) * factor + summand`` with attention; then ``x + mlp(x)``.

    Args:
        attn: what mixes the pixels.
        dim: channels in and out.
        hidden: channels within the MLP.
    """

    def __init__(self, attn: Attention, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = RescaledNorm(dim) if attn.use_attn else None
        self.attn = attn
        self.mlp = MLP(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        if self.norm1 is None:
            x = self.attn(x).add_(x)
        else:
            normalised, factor, summand = self.norm1(x)
            x = torch.addcmul(x, self.attn(normalised), factor).add_(summand)
        mapped: Tensor = self.mlp(x)
        return mapped.add_(x)


class Projection(nn.Module):
    """A layer under the name that the published weights give it.

    Args:
        proj: the layer.
    """

    def __init__(self, proj: nn.Module) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, x: Tensor) -> Tensor:
        """Map what the layer maps."""
        projected: Tensor = self.proj(x)
        return projected


class Fusion(nn.Module):
    """Selective kernel fusion: ``x + a·x + (1 − a)·skip``, where a weighs each channel by the means of both.

    Args:
        dim: channels of each.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = max(dim // 8, 4)
        self.mlp = nn.Sequential(
            nn.Conv2d(dim, hidden, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, 2 * dim, 1, bias=False),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Fuse two (B, C, H, W) to one."""
        means = x.mean((2, 3), keepdim=True) + skip.mean((2, 3), keepdim=True)
        own, other = self.mlp(means).unflatten(1, (2, -1)).softmax(1).unbind(1)
        return torch.addcmul(x, x, own).addcmul_(skip, other)


@ARCHS.register()
class DehazeFormer(Network):
    """DehazeFormer: (B, in_chans, H, W) in [0, 1] to the same shape, not clamped.

    ======  =======================  ========================  ===================  =======
    name    embed_dims               depths                    attn_ratio           conv
    ======  =======================  ========================  ===================  =======
    T       24, 48, 96, 48, 24       4, 4, 4, 2, 2             0, ½, 1, 0, 0        DWConv
    S       24, 48, 96, 48, 24       8, 8, 8, 4, 4             ¼, ½, ¾, 0, 0        DWConv
    B       24, 48, 96, 48, 24       16, 16, 16, 8, 8          ¼, ½, ¾, 0, 0        DWConv
    D       24, 48, 96, 48, 24       32, 32, 32, 16, 16        ¼, ½, ¾, 0, 0        DWConv
    W       48, 96, 192, 96, 48      16, 16, 16, 8, 8          ¼, ½, ¾, 0, 0        DWConv
    M       24, 48, 96, 48, 24       12, 12, 12, 6, 6          ¼, ½, ¾, 0, 0        Conv
    L       48, 96, 192, 96, 48      16, 16, 16, 12, 12        ¼, ½, ¾, 0, 0        Conv
    ======  =======================  ========================  ===================  =======

    The defaults are those of S; ``mlp_ratios`` and ``num_heads`` are the same in all. The published network works on
    images in [-1, 1]: ``forward`` maps there and back, ``restore`` is the published network.

    Weights start as in DeepNet (Wang et al., arXiv:2203.00555): Xavier's normal distribution, within residual branches
    (8·blocks)^(-1/4) times as wide but for queries and keys. A normalisation starts undone by the factor 1 and the
    summand 0, save for small weights on the image's own deviation and mean.

    Args:
        embed_dims: channels of each of the five stages; those that meet over a skip are equal (1 and 5, 2 and 4).
        mlp_ratios: channels within each stage's MLPs as a multiple of its own.
        depths: blocks of each stage.
        num_heads: heads of each stage's attention.
        attn_ratio: share of each stage's blocks, its last ones, that have attention.
        conv_type: convolution beside the attention: ``DWConv``, depth-wise 5×5, or ``Conv``, two full 3×3 ones.
        in_chans: channels of an image.
        window_size: side of an attention window in pixels.

    Attributes:
        input_mean: what is subtracted from the input, and added to the output at last …
        input_std: … and what the rest is divided by, and the output multiplied with.

    Raises:
        ValueError: a list without five numbers, channels that do not meet or do not divide among the heads, a share
            outside 0 … 1, another ``conv_type``, or a size below 1.
    """

    input_mean: float = 0.5
    input_std: float = 0.5

    def __init__(
        self,
        embed_dims: Sequence[int] = (24, 48, 96, 48, 24),
        mlp_ratios: Sequence[float] = (2.0, 4.0, 4.0, 2.0, 2.0),
        depths: Sequence[int] = (8, 8, 8, 4, 4),
        num_heads: Sequence[int] = (2, 4, 6, 1, 1),
        attn_ratio: Sequence[float] = (0.25, 0.5, 0.75, 0.0, 0.0),
        conv_type: Literal["DWConv", "Conv"] = "DWConv",
        in_chans: int = 3,
        window_size: int = 8,
    ) -> None:
        _check(embed_dims, mlp_ratios, depths, num_heads, attn_ratio, conv_type, in_chans, window_size)
        spec = NetworkSpec(
            in_channels=in_chans,
            size_multiple=4,
            min_size=_smallest_side(depths, attn_ratio, conv_type, window_size),
            shift_period=4 * window_size,  # a window of the stage at a quarter of the resolution
            global_context=True,
            last_layer="patch_unembed.proj.0",
            derived_buffers=("relative_positions",),
        )
        super().__init__(spec)
        dims = embed_dims

        def stage(place: int) -> Blocks:
            dim, depth = dims[place], depths[place]
            blocks = []
            for index in range(depth):
                use_attn = _has_attention(index, depth, attn_ratio[place])
                shift = window_size // 2 if index % 2 else 0
                attn = Attention(dim, num_heads[place], window_size, shift, use_attn, conv_type)
                blocks.append(Block(attn, dim, int(dim * mlp_ratios[place])))
            return Blocks(blocks)

        def enlarge(dim: int, to: int) -> Projection:
            return Projection(nn.Sequential(nn.Conv2d(dim, 4 * to, 1), nn.PixelShuffle(2)))

        self.patch_embed = Projection(nn.Conv2d(in_chans, dims[0], 3, padding=1, padding_mode="reflect"))
        self.layer1 = stage(0)
        self.patch_merge1 = Projection(nn.Conv2d(dims[0], dims[1], 2, stride=2))
        self.skip1 = nn.Conv2d(dims[0], dims[0], 1)
        self.layer2 = stage(1)
        self.patch_merge2 = Projection(nn.Conv2d(dims[1], dims[2], 2, stride=2))
        self.skip2 = nn.Conv2d(dims[1], dims[1], 1)
        self.layer3 = stage(2)
        self.patch_split1 = enlarge(dims[2], dims[3])
        self.fusion1 = Fusion(dims[3])
        self.layer4 = stage(3)
        self.patch_split2 = enlarge(dims[3], dims[4])
        self.fusion2 = Fusion(dims[4])
        self.layer5 = stage(4)
        self.patch_unembed = Projection(
            nn.Sequential(nn.Conv2d(dims[4], in_chans + 1, 3, padding=1, padding_mode="reflect"))
        )
        self._start()

    def forward(self, x: Tensor) -> Tensor:
        """Dehaze images (B, in_chans, H, W) in [0, 1], of any size, to the same shape, not clamped."""
        restored = super().forward((self.checked(x) - self.input_mean) / self.input_std)
        return restored * self.input_std + self.input_mean

    def restore(self, x: Tensor) -> Tensor:
        """Dehaze images in [-1, 1] to that range: K·x − B + x with the K (one channel) and B that the U-Net makes."""
        image = x
        if x.device.type == "cpu":  # where every layer here is faster on it
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.layer1(self.patch_embed(x))
        skip1 = self.skip1(x)
        x = self.layer2(self.patch_merge1(x))
        skip2 = self.skip2(x)
        x = self.layer3(self.patch_merge2(x))
        x = self.layer4(self.fusion1(self.patch_split1(x), skip2))
        x = self.layer5(self.fusion2(self.patch_split2(x), skip1))
        factor, summand = self.patch_unembed(x).split((1, self.in_channels), 1)
        return torch.addcmul(image - summand, factor, image)

    @classmethod
    def detect(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the arguments that a state dict tells: all, but for the heads of stages without attention."""
        known = {"patch_embed.proj.weight", "patch_unembed.proj.0.weight", "fusion1.mlp.0.weight", "skip1.weight"}
        firsts = [f"layer{stage}.blocks.0.mlp.mlp.0.weight" for stage in range(1, 6)]
        if not {*known, *firsts} <= shapes.keys():
            return None
        found: dict[str, Any] = {
            "embed_dims": [shapes[key][1] for key in firsts],
            "mlp_ratios": [shapes[key][0] / shapes[key][1] for key in firsts],
            "depths": [],
            "num_heads": [],
            "attn_ratio": [],
            "conv_type": "Conv" if "layer1.blocks.0.attn.conv.2.weight" in shapes else "DWConv",
            "in_chans": shapes["patch_embed.proj.weight"][1],
        }
        for stage, published in enumerate((2, 4, 6, 1, 1), 1):
            blocks = [key for key in shapes if key.startswith(f"layer{stage}.") and key.endswith(".mlp.mlp.0.weight")]
            heads = [
                shape[0]
                for key, shape in shapes.items()
                if key.startswith(f"layer{stage}.") and key.endswith(".attn.attn.meta.2.bias")
            ]
            found["depths"].append(len(blocks))
            found["num_heads"].append(heads[0] if heads else published)
            found["attn_ratio"].append(len(heads) / len(blocks))
        tokens = [shape[0] for key, shape in shapes.items() if key.endswith(".attn.attn.relative_positions")]
        return {**found, "window_size": math.isqrt(tokens[0])} if tokens else found

    def _start(self) -> None:
        """Set the weights that training starts from."""
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        narrow = (8 * len(blocks)) ** -0.25
        for block in blocks:
            for name, parameter in block.named_parameters():
                if name in ("norm1.weight", "norm1.bias") or name.startswith("attn.attn."):
                    continue
                if name.endswith(".bias"):
                    nn.init.constant_(parameter, float(name == "norm1.meta1.bias"))
                elif name.startswith("norm1."):
                    nn.init.trunc_normal_(parameter, std=0.02)
                else:
                    nn.init.xavier_normal_(parameter, 1.0 if name == "attn.QK.weight" else narrow)


def _has_attention(index: int, depth: int, attn_ratio: float) -> bool:
    """Return whether block ``index`` of a stage has attention: the last ``attn_ratio`` of the blocks do."""
    return index >= depth - attn_ratio * depth


def _smallest_side(depths: Sequence[int], attn_ratio: Sequence[float], conv_type: str, window: int) -> int:
    """Return the smallest multiple of 4 such that, from it on, no layer mirrors more of an image than it has."""
    least = 2 if conv_type == "Conv" else 3
    stages = (1, 2, 4, 2, 1)  # factors by which the stages' images are smaller
    shifts = {
        (factor, window // 2 if index % 2 else 0)
        for factor, depth, ratio in zip(stages, depths, attn_ratio, strict=True)
        for index in range(depth)
        if _has_attention(index, depth, ratio)
    }

    def fits(side: int) -> bool:
        return side // 4 >= least and all(
            max(_edges(side // factor, window, shift)[:2]) < side // factor for factor, shift in shifts
        )

    return max(side for side in range(0, 4 * window + 8, 4) if not fits(side)) + 4


def _edges(side: int, window: int, shift: int) -> tuple[int, int, int]:
    """Return how many pixels complete a side's windows before and after it, and how many windows there are then."""
    windows = (side + shift + window - 1) // window
    if is_exporting():  # a program for one window is another than for many; what is too much is cut off
        windows = cast(int, torch.sym_max(windows, 2))
    return shift, windows * window - side - shift, windows


def _mirror(x: Tensor, edges: tuple[int, int, int, int]) -> Tensor:
    """Continue (B, C, H, W) at the left, right, top and bottom by its mirror image."""
    if not is_exporting():
        return F.pad(x, edges, mode="reflect") if any(edges) else x
    for axis, before, after in ((3, *edges[:2]), (2, *edges[2:])):  # F.pad would ask whether a free size is enough
        last = x.shape[axis] - 1
        place = (torch.arange(-before, last + 1 + after, device=x.device).abs() - last).abs()
        x = x.index_select(axis, (last - place).clamp(min=0))
    return x


def _to_windows(x: Tensor, rows: int, columns: int, window: int, heads: int) -> Tensor:
    """Cut (B, heads·d, rows·window, columns·window) into (B·rows·columns, heads, window², d) with a single copy."""
    batch, depth = x.shape[0], x.shape[1] // heads
    x = x.view(batch, heads, depth, rows, window, columns, window)
    x = x.permute(0, 3, 5, 1, 4, 6, 2).clone(memory_format=torch.contiguous_format)
    return x.view(batch * rows * columns, heads, window * window, depth)


def _from_windows(windows: Tensor, rows: int, columns: int, window: int) -> Tensor:
    """Put (B·rows·columns, heads, window², d) back together to (B, heads·d, rows·window, columns·window)."""
    _, heads, _, depth = windows.shape
    batch = windows.shape[0] // (rows * columns)
    x = windows.view(batch, rows, columns, heads, window, window, depth).permute(0, 1, 4, 2, 5, 3, 6)
    x = x.clone(memory_format=torch.contiguous_format)
    return x.view(batch, rows * window, columns * window, heads * depth).permute(0, 3, 1, 2)


def _mirrored_conv(dim: int, conv_type: str) -> nn.Module:
    if conv_type == "DWConv":
        return nn.Conv2d(dim, dim, 5, padding=2, groups=dim, padding_mode="reflect")
    return nn.Sequential(
        nn.Conv2d(dim, dim, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(inplace=True),
        nn.Conv2d(dim, dim, 3, padding=1, padding_mode="reflect"),
    )


def _check(
    embed_dims: Sequence[int],
    mlp_ratios: Sequence[float],
    depths: Sequence[int],
    num_heads: Sequence[int],
    attn_ratio: Sequence[float],
    conv_type: str,
    in_chans: int,
    window_size: int,
) -> None:
    """Refuse what cannot be built."""
    lists = {
        "embed_dims": embed_dims,
        "mlp_ratios": mlp_ratios,
        "depths": depths,
        "num_heads": num_heads,
        "attn_ratio": attn_ratio,
    }
    for name, numbers in lists.items():
        if len(numbers) != 5:
            raise ValueError(
                f"DehazeFormer: {name} has {len(numbers)} numbers; give one for each of the five stages, "
                "like depths: [8, 8, 8, 4, 4]."
            )
    if min(*embed_dims, *depths, *num_heads, in_chans) < 1 or window_size < 2:
        raise ValueError(
            "DehazeFormer: channels, blocks and heads start at 1 and windows at 2 pixels, not "
            f"{embed_dims=}, {depths=}, {num_heads=}, {in_chans=}, {window_size=}."
        )
    if embed_dims[0] != embed_dims[4] or embed_dims[1] != embed_dims[3]:
        raise ValueError(
            "DehazeFormer: stages 1 and 5, and 2 and 4, meet over a skip and need the same embed_dims, not "
            f"{list(embed_dims)}; the published are [24, 48, 96, 48, 24] and [48, 96, 192, 96, 48]."
        )
    for stage, (dim, ratio, heads, share) in enumerate(zip(embed_dims, mlp_ratios, num_heads, attn_ratio, strict=True)):
        if int(dim * ratio) < 1:
            raise ValueError(
                f"DehazeFormer: mlp_ratios[{stage}] = {ratio} leaves no channel of {dim}; 2 and 4 are usual."
            )
        if not 0 <= share <= 1:
            raise ValueError(f"DehazeFormer: attn_ratio[{stage}] is a share of the blocks from 0 to 1, not {share}.")
        if share and dim % heads:
            raise ValueError(
                f"DehazeFormer: embed_dims[{stage}] = {dim} channels do not divide among num_heads[{stage}] = {heads}."
            )
    if conv_type not in ("DWConv", "Conv"):
        raise ValueError(f"DehazeFormer: conv_type is 'DWConv' or 'Conv', not {conv_type!r}.")
