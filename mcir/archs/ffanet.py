"""FFA-Net, the feature fusion attention network for dehazing (Qin et al., AAAI 2020, arXiv:1911.07559).

Groups of residual blocks with channel and pixel attention. The outputs of the groups are weighted by channel attention,
summed, and weighted by pixel attention. The state dict has the keys and shapes of the published weights.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.archs.network import Network, Shapes
from mcir.domains import Count
from mcir.network_spec import NetworkSpec
from mcir.registry import ARCHS

FEATURES = 64
"""Number of features."""


class ChannelAttention(nn.Module):
    """Channel attention: a factor in (0, 1) per channel, computed from the means of all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.ca = nn.Sequential(
            nn.Conv2d(FEATURES, FEATURES // 8, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(FEATURES // 8, FEATURES, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to factors (B, C, 1, 1)."""
        factors: Tensor = self.ca(x.mean((2, 3), keepdim=True))
        return factors


class PixelAttention(nn.Module):
    """Pixel attention: a factor in (0, 1) per pixel, computed from its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.pa = nn.Sequential(
            nn.Conv2d(FEATURES, FEATURES // 8, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(FEATURES // 8, 1, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to factors (B, 1, H, W)."""
        factors: Tensor = self.pa(x)
        return factors


class Block(nn.Module):
    """Residual block, ``x + PA(CA(conv2(x + relu(conv1(x)))))`` with 3×3 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(FEATURES, FEATURES, 3, padding=1)
        self.conv2 = nn.Conv2d(FEATURES, FEATURES, 3, padding=1)
        self.calayer = ChannelAttention()
        self.palayer = PixelAttention()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        features = self.conv2(F.relu_(self.conv1(x)) + x)
        features = features * self.calayer(features)
        return torch.addcmul(x, features, self.palayer(features))


class Group(nn.Module):
    """Residual group: blocks and a convolution, with a skip connection around them."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.gp = nn.Sequential(*(Block() for _ in range(blocks)), nn.Conv2d(FEATURES, FEATURES, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        features: Tensor = self.gp(x)
        return features.add_(x)


@ARCHS.register(aliases=["FFA"])
class FFANet(Network):
    """FFA-Net: RGB images (B, 3, H, W) in [0, 1] to the same shape, not clamped.

    The published network has 3 groups of 19 blocks. It was trained on normalized inputs and unnormalized targets, and
    adds its global residual to the normalized input. ``forward`` normalizes; ``restore`` is the published network.

    Args:
        gps: number of groups.
        blocks: number of blocks per group.

    Attributes:
        input_mean: mean that is subtracted from the input, per channel.
        input_std: standard deviation by which the input is divided, per channel.

    Raises:
        ArgumentError: fewer than one group or block.
    """

    input_mean: ClassVar[tuple[float, float, float]] = (0.64, 0.6, 0.58)
    input_std: ClassVar[tuple[float, float, float]] = (0.14, 0.15, 0.152)

    mean: Tensor
    std: Tensor

    def __init__(self, gps: Count = 3, blocks: Count = 19) -> None:
        super().__init__(NetworkSpec(global_context=True, last_layer="post.1"))
        self.register_buffer("mean", torch.tensor(self.input_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.input_std).view(1, 3, 1, 1), persistent=False)
        for group in range(gps):
            self.add_module(f"g{group + 1}", Group(blocks))
        self.ca = nn.Sequential(
            nn.Identity(),  # in place of the pooling of the published network, for the same keys
            nn.Conv2d(gps * FEATURES, FEATURES // 16, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(FEATURES // 16, gps * FEATURES, 1),
            nn.Sigmoid(),
        )
        self.palayer = PixelAttention()
        self.pre = nn.Sequential(nn.Conv2d(3, FEATURES, 3, padding=1))
        self.post = nn.Sequential(
            nn.Conv2d(FEATURES, FEATURES, 3, padding=1),
            nn.Conv2d(FEATURES, 3, 3, padding=1),
        )
        self.gps = gps

    def forward(self, x: Tensor) -> Tensor:
        """Dehaze images (B, 3, H, W) in [0, 1] of any size to the same shape, not clamped."""
        return super().forward((self.check_images(x) - self.mean) / self.std)

    def restore(self, x: Tensor) -> Tensor:
        """Dehaze normalized images of any size. The result is approximately in [0, 1]."""
        features = self.pre(_channels_last(x))
        groups = []
        for group in range(self.gps):
            features = self.get_submodule(f"g{group + 1}")(features)
            groups.append(features)
        weights = self.ca(torch.cat([group.mean((2, 3), keepdim=True) for group in groups], 1)).chunk(self.gps, 1)
        fused = groups[0] * weights[0]
        for features, weight in zip(groups[1:], weights[1:], strict=True):
            fused = torch.addcmul(fused, features, weight)
        return torch.add(x, self.post(fused * self.palayer(fused)))

    @classmethod
    def detect(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return all arguments."""
        blocks = {match.groups() for key in shapes if (match := re.match(r"g(\d+)\.gp\.(\d+)\.palayer\.", key))}
        if not blocks or not {"pre.0.weight", "post.1.weight", "ca.1.weight"} <= shapes.keys():
            return None
        gps = len({group for group, _ in blocks})
        return {"gps": gps, "blocks": len(blocks) // gps}


def _channels_last(x: Tensor) -> Tensor:
    """Convert images to channels-last layout where this was measured to be faster: on a CPU, without gradients."""
    if x.device.type == "cpu" and not torch.is_grad_enabled():
        return x.contiguous(memory_format=torch.channels_last)
    return x
