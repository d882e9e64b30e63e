"""U-Net (Ronneberger, Fischer and Brox, MICCAI 2015, arXiv:1505.04597) for restoration.

The network that residual contrastive learning trains. It has two 3×3 convolutions per level, half the resolution and
twice the features on each next level, skip connections, and a final 1×1 convolution, ``last``. Unlike in the paper, the
convolutions are padded and followed by batch normalization. The keys of the state dict are mcir's own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.archs.network import Network, Shapes
from mcir.domains import Count, Scale, Width
from mcir.network_spec import NetworkSpec
from mcir.registry import ARCHS

LEVELS = 4
"""Number of times that the resolution is halved."""


class ConvolutionPair(nn.Module):
    """Two layers, each a 3×3 convolution without bias, batch normalization and ReLU."""

    def __init__(self, num_in: int, num_mid: int, num_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_mid, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(num_mid)
        self.conv2 = nn.Conv2d(num_mid, num_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(num_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, num_in, H, W) to (B, num_out, H, W)."""
        x = F.relu_(self.norm1(self.conv1(x)))
        return F.relu_(self.norm2(self.conv2(x)))


class UpBlock(nn.Module):
    """Decoder level: upsample by two, concatenate with the skip connection, apply a pair of convolutions.

    Args:
        num_skip: channels of the skip connection, and of the upsampled features.
        num_out: output channels.
        bilinear: whether to upsample bilinearly with aligned corners, instead of with a transposed convolution that
            halves the number of channels.
    """

    def __init__(self, num_skip: int, num_out: int, bilinear: bool) -> None:
        super().__init__()
        self.up: nn.Module = (
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            if bilinear
            else nn.ConvTranspose2d(2 * num_skip, num_skip, 2, stride=2)
        )
        self.pair = ConvolutionPair(2 * num_skip, num_skip, num_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (B, C, ⌊H/2⌋, ⌊W/2⌋) and (B, num_skip, H, W) to (B, num_out, H, W).

        If H or W is odd, the upsampled features are padded with a row or column of zeros.
        """
        upsampled = self.up(x)
        bottom, right = skip.shape[2] - upsampled.shape[2], skip.shape[3] - upsampled.shape[3]
        if torch.compiler.is_compiling() or bottom or right:
            upsampled = F.pad(upsampled, (0, right, 0, bottom))
        features: Tensor = self.pair(torch.cat([skip, upsampled], dim=1))
        return features


@ARCHS.register()
class UNet(Network):
    """U-Net: (B, num_in_ch, H, W) in [0, 1] to (B, num_out_ch, scale·H, scale·W), not clamped; no residual.

    It has 31,037,763 parameters with the defaults, and 17,263,107 if ``bilinear``. For super-resolution, only the last
    convolution differs: it computes scale² output pixels per input pixel.

    At the lowest level, feature maps are 16 times smaller than the images. For the statistics of batch normalization,
    train on crops of at least 32 pixels, or on batches of several images.

    Args:
        num_in_ch: channels of the input.
        num_out_ch: channels of the output.
        num_feat: number of features at full resolution; it doubles with each level.
        bilinear: whether to upsample bilinearly instead of with transposed convolutions. The lowest level then has as
            many features as the level above.
        scale: upsampling factor.

    Raises:
        ArgumentError: a number is below 1.
    """

    def __init__(
        self,
        num_in_ch: Count = 3,
        num_out_ch: Count = 3,
        num_feat: Width = 64,
        bilinear: bool = False,
        scale: Scale = 1,
    ) -> None:
        spec = NetworkSpec(
            in_channels=num_in_ch,
            scale=scale,
            min_size=2**LEVELS,
            shift_period=2**LEVELS,
            global_context=bilinear,  # aligned corners: sampling positions depend on the image size
            last_layer="last",
            guessed=("num_out_ch", "scale"),
        )
        super().__init__(spec)
        widths = [num_feat << level for level in range(LEVELS + 1)]
        if bilinear:
            widths[LEVELS] = widths[LEVELS - 1]
        self.encoder = nn.ModuleList(
            ConvolutionPair(num_in, width, width)
            for num_in, width in zip([num_in_ch, *widths[:-1]], widths, strict=True)
        )
        self.decoder = nn.ModuleList(
            UpBlock(widths[level], widths[max(level - 1, 0)] if bilinear else widths[level], bilinear)
            for level in reversed(range(LEVELS))
        )
        self.last = nn.Conv2d(num_feat, num_out_ch * scale**2, 1)

    def restore(self, x: Tensor) -> Tensor:
        """Restore images of at least 16×16 pixels."""
        skips = [self.encoder[0](x)]
        for pair in self.encoder[1:]:
            skips.append(pair(F.max_pool2d(skips[-1], 2)))
        features = skips.pop()
        for block in self.decoder:
            features = block(features, skips.pop())
        restored: Tensor = self.last(features)
        return F.pixel_shuffle(restored, self.scale) if self.scale > 1 else restored

    @classmethod
    def detect(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the arguments that a state dict determines.

        ``scale`` is assumed to be above 1 if the output channels of the last convolution are a square times the input
        channels.
        """
        if not {"encoder.0.conv1.weight", "decoder.0.pair.conv1.weight", "last.weight"} <= shapes.keys():
            return None
        num_feat, num_in_ch = shapes["encoder.0.conv1.weight"][:2]
        outputs = shapes["last.weight"][0]
        scale = math.isqrt(outputs // num_in_ch)
        has_upsampling = scale > 1 and outputs == num_in_ch * scale**2
        return {
            "num_in_ch": num_in_ch,
            "num_out_ch": num_in_ch if has_upsampling else outputs,
            "num_feat": num_feat,
            "bilinear": "decoder.0.up.weight" not in shapes,
            "scale": scale if has_upsampling else 1,
        }
