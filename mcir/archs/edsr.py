"""EDSR, the enhanced deep super-resolution network (Lim et al., CVPR workshops 2017, arXiv:1707.02921).

Residual blocks without normalisation at low resolution, one long skip over all of them, and sub-pixel convolutions at
the end. Keys and shapes of the state dict are those of the weights that BasicSR publishes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.archs.network import Network, Shapes
from mcir.network_spec import NetworkSpec
from mcir.registry import ARCHS


class ResidualBlock(nn.Module):
    """conv, ReLU, conv and a shortcut around the three: ``x + res_scale * conv2(relu(conv1(x)))``.

    Args:
        num_feat: channels in and out.
        res_scale: factor of the residual; the large networks use 0.1.
    """

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
        num_feat: channels within.
        num_block: residual blocks.
        upscale: 3 or a power of two; 1 keeps the size.
        res_scale: factor of each block's residual.
        img_range: the network works on ``(x - rgb_mean) * img_range``.
        rgb_mean: mean of the training images in [0, 1], one number a channel, or a single one for all.

    Raises:
        ValueError: a scale that cannot be built, an ``rgb_mean`` that does not fit the channels, or a size below 1.
    """

    mean: Tensor

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,
        num_block: int = 16,
        upscale: int = 4,
        res_scale: float = 1.0,
        img_range: float = 255.0,
        rgb_mean: Sequence[float] = (0.4488, 0.4371, 0.4040),
    ) -> None:
        if len(rgb_mean) != 1 and not len(rgb_mean) == num_in_ch == num_out_ch:
            raise ValueError(
                f"EDSR: rgb_mean has {len(rgb_mean)} numbers for {num_in_ch} input and {num_out_ch} output channels; "
                "give one number a channel, or a list of a single number for all, like [0.5]."
            )
        if min(num_in_ch, num_out_ch, num_feat) < 1 or num_block < 0 or img_range <= 0:
            raise ValueError(
                "EDSR: channels and features start at 1, blocks at 0 and img_range is above 0, not "
                f"{num_in_ch=}, {num_out_ch=}, {num_feat=}, {num_block=}, {img_range=}."
            )
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
        """Return the arguments that a state dict tells; the factor of the residuals goes with the published sizes."""
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
    """Return the sub-pixel convolutions that enlarge by ``scale``: one step of 3, or as many of 2 as it takes."""
    if scale != 3 and (scale < 1 or scale & (scale - 1)):
        raise ValueError(f"EDSR: upscale is 3 or a power of two (1, 2, 4, 8, …), not {scale}.")
    steps = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
    layers: list[nn.Module] = []
    for step in steps:
        layers += [nn.Conv2d(num_feat, step * step * num_feat, 3, padding=1), nn.PixelShuffle(step)]
    return layers
