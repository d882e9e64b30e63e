"""EDSR, the enhanced deep super-resolution network (Lim et al., CVPR workshops 2017, arXiv:1707.02921).

Residual blocks without normalization at low resolution, a skip connection around all of them, and sub-pixel
convolutions for upsampling. The state dict has the keys and shapes of the weights that BasicSR publishes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from annotated_types import Len
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.archs.network import Network, Shapes
from mcir.domains import Count, CountOrZero, Fraction, Positive, Scale, Width
from mcir.errors import ArgumentError
from mcir.network_spec import NetworkSpec
from mcir.registry import ARCHS


class ResidualBlock(nn.Module):
    """Residual block, ``x + res_scale * conv2(relu(conv1(x)))``."""

    def __init__(self, num_feat: int, res_scale: float = 1.0) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        residual = self.conv2(F.relu_(self.conv1(x)))
        return torch.add(x, residual, alpha=self.res_scale)


@ARCHS.register()
class EDSR(Network):
    """EDSR: (B, num_in_ch, H, W) in [0, 1] to (B, num_out_ch, upscale·H, upscale·W), not clamped.

    The published sizes are 64 features with 16 blocks (``res_scale`` 1) and 256 features with 32 blocks (``res_scale``
    0.1).

    Args:
        num_in_ch: channels of the input.
        num_out_ch: channels of the output.
        num_feat: number of features.
        num_block: number of residual blocks.
        upscale: upsampling factor, 3 or a power of two; 1 keeps the size.
        res_scale: factor of each block's residual.
        img_range: scale of the images that the layers process, ``(x - rgb_mean) * img_range``.
        rgb_mean: mean of the training images in [0, 1], one number per channel or a single number for all channels.

    Raises:
        ArgumentError: ``upscale`` is not supported, ``rgb_mean`` does not match the channels, or a number is too small.
    """

    mean: Tensor

    def __init__(
        self,
        num_in_ch: Count = 3,
        num_out_ch: Count = 3,
        num_feat: Width = 64,
        num_block: CountOrZero = 16,
        upscale: Scale = 4,
        res_scale: Positive = 1.0,
        img_range: Positive = 255.0,
        rgb_mean: Annotated[Sequence[Fraction], Len(1, 1024)] = (0.4488, 0.4371, 0.4040),
    ) -> None:
        is_rgb = num_in_ch == num_out_ch == 3
        if not len(rgb_mean) == num_in_ch == num_out_ch and (is_rgb or len(rgb_mean) != 1):
            single = "" if is_rgb else " or a single number for all channels, like [0.5]"
            raise ArgumentError(
                "rgb_mean",
                f"expected one number per channel{single}, got {len(rgb_mean)} for {num_in_ch} input and {num_out_ch} "
                "output channels.",
            )
        if upscale != 3 and (upscale < 1 or upscale & (upscale - 1)):
            raise ArgumentError("upscale", f"expected 3 or a power of two (1, 2, 4, 8, …), got {upscale}.")
        guessed = ("res_scale", "rgb_mean")
        super().__init__(NetworkSpec(in_channels=num_in_ch, scale=upscale, last_layer="conv_last", guessed=guessed))
        self.img_range = img_range
        self.register_buffer(
            "mean", torch.tensor([float(mean) for mean in rgb_mean]).view(1, -1, 1, 1), persistent=False
        )
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(num_feat, res_scale) for _ in range(num_block)))
        self.conv_after_body = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.upsample = nn.Sequential(*_upsampling(num_feat, upscale))
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)

    def restore(self, x: Tensor) -> Tensor:
        """Restore images of any size."""
        shallow = self.conv_first((x - self.mean) * self.img_range)
        deep = self.conv_after_body(self.body(shallow)).add_(shallow)
        return torch.add(self.mean, self.conv_last(self.upsample(deep)), alpha=1 / self.img_range)

    @classmethod
    def detect(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the arguments that a state dict determines, and ``res_scale`` of the published network of its size."""
        if not {"conv_first.weight", "conv_after_body.weight", "body.0.conv1.weight"} <= shapes.keys():
            return None
        num_feat, num_in_ch = shapes["conv_first.weight"][:2]
        num_out_ch = shapes["conv_last.weight"][0]
        steps = [shape[0] // num_feat for key, shape in shapes.items() if re.fullmatch(r"upsample\.\d+\.weight", key)]
        return {
            "num_in_ch": num_in_ch,
            "num_out_ch": num_out_ch,
            "num_feat": num_feat,
            "num_block": sum(key.endswith(".conv1.weight") for key in shapes),
            "upscale": math.isqrt(math.prod(steps)),
            "res_scale": 0.1 if num_feat == 256 else 1.0,
            **({} if num_in_ch == num_out_ch == 3 else {"rgb_mean": [0.5]}),
        }


def _upsampling(num_feat: int, scale: int) -> list[nn.Module]:
    """Return the sub-pixel convolutions that upsample by ``scale``, in one step of 3 or several steps of 2."""
    steps = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
    layers: list[nn.Module] = []
    for step in steps:
        layers += [nn.Conv2d(num_feat, step * step * num_feat, 3, padding=1), nn.PixelShuffle(step)]
    return layers
