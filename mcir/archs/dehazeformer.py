"""DehazeFormer (Song et al., "Vision Transformers for Single Image Dehazing", IEEE TIP 2023, arXiv:2204.03883).

A U-Net of five stages. Every block has a convolution of the values; the last blocks of a stage also have window
attention. Blocks with attention normalize their input over the whole image, and undo this at their output. Windows at
the image border are filled by reflection, so shifted windows need no mask. The state dict has the keys and shapes of
the published weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast, get_args

import torch
from annotated_types import Interval, Len
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.archs.attention import attend, relative_position_index
from mcir.archs.network import Blocks, MLPRatio, Network, Shapes, is_exporting
from mcir.checks import check_unsupported
from mcir.domains import Count, Fraction, Width
from mcir.errors import ArgumentError
from mcir.network_spec import NetworkSpec
from mcir.registry import ARCHS

ConvType = Literal["DWConv", "Conv"]

STAGES = 5
FIVE = Len(STAGES, STAGES)

META_FEATURES = 256
"""Number of hidden features of the network that computes the attention bias."""


class RescaledNorm(nn.Module):
    """Rescale layer normalization (RLN) over a whole image, with a factor and an offset that undo it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dim, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, dim, 1, 1))
        self.meta1 = nn.Conv2d(1, dim, 1)
        self.meta2 = nn.Conv2d(1, dim, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the normalized features (B, C, H, W), and the factor and the offset (B, C, 1, 1) that undo it."""
        x_float = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        # torch.var_mean is ten times slower on a CPU
        mean = x_float.mean((1, 2, 3), keepdim=True)
        centered = x_float - mean
        std = (centered.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        normalized = torch.addcmul(self.bias, centered, self.weight / std).to(x.dtype)
        return normalized, self.meta1(std.to(self.weight.dtype)), self.meta2(mean.to(self.weight.dtype))


class WindowAttention(nn.Module):
    """Attention within windows, with a bias that a small network computes from the relative positions of the tokens.

    The network is evaluated once per relative position, (2·window − 1)² times, not once per pair of tokens.
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
        self.register_buffer("relative_positions", positions[index])  # for published weights, which contain it
        self.meta = nn.Sequential(nn.Linear(2, META_FEATURES), nn.ReLU(inplace=True), nn.Linear(META_FEATURES, heads))

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the attention output of queries, keys and values, all (B·nW, heads, N, d)."""
        index = relative_position_index(self.window, query.device)
        bias = self.meta(self.positions).mT.index_select(1, index.flatten()).view(-1, *index.shape)
        return attend(query, key, value, bias, scale=query.shape[-1] ** -0.5)


class Attention(nn.Module):
    """Convolution of the values, with window attention added in some blocks.

    Args:
        dim: number of features.
        heads: number of attention heads.
        window: height and width of a window.
        shift: pixels by which the windows are shifted to the top and left.
        use_attn: whether the block has window attention.
        conv_type: ``DWConv``, a depthwise 5×5 convolution, or ``Conv``, two full 3×3 convolutions.
    """

    def __init__(self, dim: int, heads: int, window: int, shift: int, use_attn: bool, conv_type: ConvType) -> None:
        super().__init__()
        self.heads, self.window, self.shift, self.use_attn = heads, window, shift, use_attn
        self.conv = _values_conv(dim, conv_type)
        self.has_projections = use_attn or conv_type == "DWConv"
        if self.has_projections:
            self.V = nn.Conv2d(dim, dim, 1)
            self.proj = nn.Conv2d(dim, dim, 1)
        if use_attn:
            self.QK = nn.Conv2d(dim, 2 * dim, 1)
            self.attn = WindowAttention(heads, window)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        if not self.has_projections:
            features: Tensor = self.conv(x)
            return features
        value = self.V(x)
        features = self.conv(value)
        if self.use_attn:
            features = features.add_(self.window_attention(self.QK(x), value))
        projected: Tensor = self.proj(features)
        return projected

    def window_attention(self, query_key: Tensor, value: Tensor) -> Tensor:
        """Return the attention output (B, C, H, W) of queries and keys (B, 2·C, H, W) and values (B, C, H, W)."""
        height, width = value.shape[2:]
        top, bottom, rows = _window_padding(height, self.window, self.shift)
        left, right, columns = _window_padding(width, self.window, self.shift)
        query_key, value = (_reflect(x, (left, right, top, bottom)) for x in (query_key, value))
        grid = (rows, columns, self.window, self.heads)
        query, key = (_to_windows(x, *grid) for x in query_key.chunk(2, 1))
        image = _from_windows(self.attn(query, key, _to_windows(value, *grid)), rows, columns, self.window)
        if is_exporting():  # the strides of a view would depend on the amount of padding
            return F.pad(image, (-left, -right, -top, -bottom))
        return image[..., top : top + height, left : left + width]


class MLP(nn.Module):
    """Two 1×1 convolutions with a ReLU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv2d(dim, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        features: Tensor = self.mlp(x)
        return features


class Block(nn.Module):
    """Block: ``x + attn(x)``, or ``x + attn(norm(x)) * factor + offset`` with attention; then ``x + mlp(x)``."""

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
            normalized, factor, offset = self.norm1(x)
            x = torch.addcmul(x, self.attn(normalized), factor).add_(offset)
        features: Tensor = self.mlp(x)
        return features.add_(x)


class Projection(nn.Module):
    """Layer whose keys start with ``proj.``, as in published weights."""

    def __init__(self, proj: nn.Module) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        projected: Tensor = self.proj(x)
        return projected


class Fusion(nn.Module):
    """Selective kernel fusion, ``x + a·x + (1 − a)·skip``, where a depends on the channel means of both inputs."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = max(dim // 8, 4)
        self.mlp = nn.Sequential(
            nn.Conv2d(dim, hidden, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, 2 * dim, 1, bias=False),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Fuse two feature maps (B, C, H, W) into one."""
        means = x.mean((2, 3), keepdim=True) + skip.mean((2, 3), keepdim=True)
        weight, skip_weight = self.mlp(means).unflatten(1, (2, -1)).softmax(1).unbind(1)
        return torch.addcmul(x, x, weight).addcmul_(skip, skip_weight)


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

    The defaults are those of S; ``mlp_ratios`` and ``num_heads`` are the same for all. The published network processes
    images in [-1, 1]: ``forward`` converts to and from this range; ``restore`` is the published network.

    Weights are initialized as in DeepNet (Wang et al., arXiv:2203.00555): Xavier's normal distribution, whose standard
    deviation is multiplied by (8·blocks)^(-1/4) within residual branches, except for queries and keys. Initially, the
    normalization is undone with a factor near 1 and an offset near 0, which depend only weakly on the image.

    Args:
        embed_dims: number of features of each of the five stages; stages 1 and 5, and 2 and 4, are connected by a skip
            connection and have the same number.
        mlp_ratios: hidden features of the MLPs divided by the features of the stage.
        depths: number of blocks of each stage.
        num_heads: number of attention heads of each stage.
        attn_ratio: fraction of each stage's blocks that have attention, counted from the last block.
        conv_type: convolution of the values, one name or one per stage: ``DWConv``, depthwise 5×5, or ``Conv``, two
            full 3×3.
        in_chans: channels of an image.
        window_size: height and width of a window.
        out_chans: channels of the last convolution; must be ``in_chans + 1`` or null, which means the same.

    Attributes:
        input_mean: mean that is subtracted from the input and added to the output.
        input_std: standard deviation by which the input is divided and the output is multiplied.

    Raises:
        ArgumentError: an argument is out of range or contradicts another argument.
    """

    input_mean: float = 0.5
    input_std: float = 0.5

    def __init__(
        self,
        embed_dims: Annotated[Sequence[Width], FIVE] = (24, 48, 96, 48, 24),
        mlp_ratios: Annotated[Sequence[MLPRatio], FIVE] = (2.0, 4.0, 4.0, 2.0, 2.0),
        depths: Annotated[Sequence[Count], FIVE] = (8, 8, 8, 4, 4),
        num_heads: Annotated[Sequence[Count], FIVE] = (2, 4, 6, 1, 1),
        attn_ratio: Annotated[Sequence[Fraction], FIVE] = (0.25, 0.5, 0.75, 0.0, 0.0),
        conv_type: ConvType | Annotated[Sequence[ConvType], FIVE] = "DWConv",
        in_chans: Count = 3,
        window_size: Annotated[int, Interval(ge=2, le=128)] = 8,
        out_chans: Annotated[int, Interval(ge=2, le=1025)] | None = None,
    ) -> None:
        conv_types = [conv_type] * STAGES if isinstance(conv_type, str) else list(conv_type)
        _check_stages(embed_dims, mlp_ratios, num_heads, attn_ratio, conv_types)
        out_chans = in_chans + 1 if out_chans is None else out_chans
        check_unsupported(out_chans=(out_chans, in_chans + 1, "one channel for K, the others for B"))
        spec = NetworkSpec(
            in_channels=in_chans,
            size_multiple=4,
            min_size=_min_size(depths, attn_ratio, conv_types[2], window_size),
            shift_period=4 * window_size,  # a window of the third stage, at a quarter of the resolution
            global_context=True,
            last_layer="patch_unembed.proj.0",
            derived_buffers=("relative_positions",),
        )
        super().__init__(spec)

        def stage(number: int) -> Blocks:
            dim, depth = embed_dims[number], depths[number]
            blocks = []
            for index in range(depth):
                use_attn = _has_attention(index, depth, attn_ratio[number])
                shift = window_size // 2 if index % 2 else 0
                attn = Attention(dim, num_heads[number], window_size, shift, use_attn, conv_types[number])
                blocks.append(Block(attn, dim, int(dim * mlp_ratios[number])))
            return Blocks(blocks)

        def upsample(num_in: int, num_out: int) -> Projection:
            return Projection(nn.Sequential(nn.Conv2d(num_in, 4 * num_out, 1), nn.PixelShuffle(2)))

        self.patch_embed = Projection(nn.Conv2d(in_chans, embed_dims[0], 3, padding=1, padding_mode="reflect"))
        self.layer1 = stage(0)
        self.patch_merge1 = Projection(nn.Conv2d(embed_dims[0], embed_dims[1], 2, stride=2))
        self.skip1 = nn.Conv2d(embed_dims[0], embed_dims[0], 1)
        self.layer2 = stage(1)
        self.patch_merge2 = Projection(nn.Conv2d(embed_dims[1], embed_dims[2], 2, stride=2))
        self.skip2 = nn.Conv2d(embed_dims[1], embed_dims[1], 1)
        self.layer3 = stage(2)
        self.patch_split1 = upsample(embed_dims[2], embed_dims[3])
        self.fusion1 = Fusion(embed_dims[3])
        self.layer4 = stage(3)
        self.patch_split2 = upsample(embed_dims[3], embed_dims[4])
        self.fusion2 = Fusion(embed_dims[4])
        self.layer5 = stage(4)
        self.patch_unembed = Projection(
            nn.Sequential(nn.Conv2d(embed_dims[4], in_chans + 1, 3, padding=1, padding_mode="reflect"))
        )
        self._init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Dehaze images (B, in_chans, H, W) in [0, 1] of any size to the same shape, not clamped."""
        restored = super().forward((self.check_images(x) - self.input_mean) / self.input_std)
        return restored * self.input_std + self.input_mean

    def restore(self, x: Tensor) -> Tensor:
        """Dehaze images in [-1, 1]: K·x − B + x, where the U-Net computes K (one channel) and B."""
        image = x
        if x.device.type == "cpu":  # measured: every layer is faster in this layout
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.layer1(self.patch_embed(x))
        skip1 = self.skip1(x)
        x = self.layer2(self.patch_merge1(x))
        skip2 = self.skip2(x)
        x = self.layer3(self.patch_merge2(x))
        x = self.layer4(self.fusion1(self.patch_split1(x), skip2))
        x = self.layer5(self.fusion2(self.patch_split2(x), skip1))
        k, b = self.patch_unembed(x).split((1, self.in_channels), 1)
        return torch.addcmul(image - b, k, image)

    @classmethod
    def detect(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return all arguments. Stages without attention get the number of heads of the published networks."""
        required = {"patch_embed.proj.weight", "patch_unembed.proj.0.weight", "fusion1.mlp.0.weight", "skip1.weight"}
        first_layers = [f"layer{stage}.blocks.0.mlp.mlp.0.weight" for stage in range(1, STAGES + 1)]
        if not {*required, *first_layers} <= shapes.keys():
            return None
        found: dict[str, Any] = {
            "embed_dims": [shapes[key][1] for key in first_layers],
            "mlp_ratios": [shapes[key][0] / shapes[key][1] for key in first_layers],
            "depths": [],
            "num_heads": [],
            "attn_ratio": [],
            "conv_type": [],
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
            is_full = f"layer{stage}.blocks.0.attn.conv.2.weight" in shapes
            found["conv_type"].append("Conv" if is_full else "DWConv")
        if len(set(found["conv_type"])) == 1:
            found["conv_type"] = found["conv_type"][0]
        tokens = [shape[0] for key, shape in shapes.items() if key.endswith(".attn.attn.relative_positions")]
        return {**found, "window_size": math.isqrt(tokens[0])} if tokens else found

    def _init_weights(self) -> None:
        """Initialize the weights of the blocks; the other layers keep PyTorch's initialization."""
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        gain = (8 * len(blocks)) ** -0.25
        for block in blocks:
            for name, parameter in block.named_parameters():
                if name in ("norm1.weight", "norm1.bias") or name.startswith("attn.attn."):
                    continue
                if name.endswith(".bias"):
                    nn.init.constant_(parameter, float(name == "norm1.meta1.bias"))
                elif name.startswith("norm1."):
                    nn.init.trunc_normal_(parameter, std=0.02)
                else:
                    nn.init.xavier_normal_(parameter, 1.0 if name == "attn.QK.weight" else gain)


def _has_attention(index: int, depth: int, attn_ratio: float) -> bool:
    """Return whether block ``index`` of a stage is among the last blocks, which have attention."""
    return index >= depth - attn_ratio * depth


def _min_size(depths: Sequence[int], attn_ratio: Sequence[float], conv_type: str, window: int) -> int:
    """Return the smallest image size for which every feature map is large enough for its padding by reflection.

    The result is a multiple of 4, and all larger multiples of 4 are large enough, too.

    Args:
        depths: number of blocks of each stage.
        attn_ratio: fraction of each stage's blocks that have attention.
        conv_type: convolution of the stage at a quarter of the resolution.
        window: height and width of a window.
    """
    kernel_minimum = 2 if conv_type == "Conv" else 3
    strides = (1, 2, 4, 2, 1)
    shifts = {
        (stride, window // 2 if index % 2 else 0)
        for stride, depth, ratio in zip(strides, depths, attn_ratio, strict=True)
        for index in range(depth)
        if _has_attention(index, depth, ratio)
    }

    def is_large_enough(size: int) -> bool:
        return size // 4 >= kernel_minimum and all(
            max(_window_padding(size // stride, window, shift)[:2]) < size // stride for stride, shift in shifts
        )

    return max(size for size in range(0, 4 * window + 8, 4) if not is_large_enough(size)) + 4


def _window_padding(side: int, window: int, shift: int) -> tuple[int, int, int]:
    """Return the padding before and after a side of a feature map, and the number of windows along it."""
    windows = (side + shift + window - 1) // window
    if is_exporting():  # a program traced with one window would be valid for one window only
        windows = cast(int, torch.sym_max(windows, 2))
    return shift, windows * window - side - shift, windows


def _reflect(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Pad (B, C, H, W) by reflection at the left, right, top and bottom."""
    if not is_exporting():
        return F.pad(x, padding, mode="reflect") if any(padding) else x
    for axis, before, after in ((3, *padding[:2]), (2, *padding[2:])):  # F.pad would branch on the size
        last = x.shape[axis] - 1
        index = (torch.arange(-before, last + 1 + after, device=x.device).abs() - last).abs()
        x = x.index_select(axis, (last - index).clamp(min=0))
    return x


def _to_windows(x: Tensor, rows: int, columns: int, window: int, heads: int) -> Tensor:
    """Split (B, heads·d, rows·window, columns·window) into (B·rows·columns, heads, window², d) with a single copy."""
    batch, depth = x.shape[0], x.shape[1] // heads
    x = x.view(batch, heads, depth, rows, window, columns, window)
    x = x.permute(0, 3, 5, 1, 4, 6, 2).clone(memory_format=torch.contiguous_format)
    return x.view(batch * rows * columns, heads, window * window, depth)


def _from_windows(windows: Tensor, rows: int, columns: int, window: int) -> Tensor:
    """Join (B·rows·columns, heads, window², d) to (B, heads·d, rows·window, columns·window)."""
    _, heads, _, depth = windows.shape
    batch = windows.shape[0] // (rows * columns)
    x = windows.view(batch, rows, columns, heads, window, window, depth).permute(0, 1, 4, 2, 5, 3, 6)
    x = x.clone(memory_format=torch.contiguous_format)
    return x.view(batch, rows * window, columns * window, heads * depth).permute(0, 3, 1, 2)


def _values_conv(dim: int, conv_type: ConvType) -> nn.Module:
    """Return the convolution of the values."""
    if conv_type == "DWConv":
        return nn.Conv2d(dim, dim, 5, padding=2, groups=dim, padding_mode="reflect")
    return nn.Sequential(
        nn.Conv2d(dim, dim, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(inplace=True),
        nn.Conv2d(dim, dim, 3, padding=1, padding_mode="reflect"),
    )


def _check_stages(
    embed_dims: Sequence[int],
    mlp_ratios: Sequence[float],
    num_heads: Sequence[int],
    attn_ratio: Sequence[float],
    conv_types: Sequence[str],
) -> None:
    """Check that the arguments that have one value per stage match one another."""
    if embed_dims[0] != embed_dims[4] or embed_dims[1] != embed_dims[3]:
        raise ArgumentError(
            "embed_dims",
            "expected the same number of features in stages 1 and 5, and 2 and 4, like "
            f"[24, 48, 96, 48, 24], got {list(embed_dims)}.",
        )
    for stage in range(STAGES):
        dim, ratio, heads, attn = embed_dims[stage], mlp_ratios[stage], num_heads[stage], attn_ratio[stage]
        if int(dim * ratio) < 1:
            raise ArgumentError(
                "mlp_ratios",
                f"stage {stage + 1}: expected at least one hidden feature, got the ratio {ratio} for {dim} features.",
            )
        if attn and dim % heads:
            raise ArgumentError(
                "num_heads", f"stage {stage + 1}: expected a divisor of the {dim} features in embed_dims, got {heads}."
            )
        if conv_types[stage] not in get_args(ConvType):
            raise ArgumentError("conv_type", f"expected 'DWConv' or 'Conv', got '{conv_types[stage]}'.")
