"""U-Net (Ronneberger, Fischer and Brox, MICCAI 2015, arXiv:1505.04597) for restoration.

The four-level network that residual contrastive learning trains: two 3×3 convolutions at each level, half the size and
twice the channels a level down, back up with what was skipped, and a 1×1 convolution, ``last``, that makes the image.
Other than the paper's its convolutions are padded and normalised over the batch. The names of the keys are our own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.archs.network import Network, Shapes
from mcir.network_spec import NetworkSpec
from mcir.registry import ARCHS

LEVELS = 4
"""Times that the picture is halved."""


class ConvolutionPair(nn.Module):
    """Twice: 3×3 convolution without bias, batch normalisation, ReLU.

    Args:
        num_in: channels in.
        num_mid: channels between the two.
        num_out: channels out.
    """

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


class Rise(nn.Module):
    """One level up: enlarge by two, join with the picture that was skipped, a pair of convolutions.

    Args:
        num_skipped: channels of the skipped picture; the enlarged one has as many.
        num_out: channels out.
        bilinear: enlarge by interpolation, corners on corners; otherwise by a transposed convolution that halves the
            channels.
    """

    def __init__(self, num_skipped: int, num_out: int, bilinear: bool) -> None:
        super().__init__()
        self.up: nn.Module = (
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            if bilinear
            else nn.ConvTranspose2d(2 * num_skipped, num_skipped, 2, stride=2)
        )
        self.pair = ConvolutionPair(2 * num_skipped, num_skipped, num_out)

    def forward(self, below: Tensor, skipped: Tensor) -> Tensor:
        """Map (B, C, ⌊H/2⌋, ⌊W/2⌋) and (B, num_skipped, H, W) to (B, num_out, H, W).

        Where a side is odd, the enlarged picture is a row or column short; it gets one of zeros.
        """
        raised = self.up(below)
        bottom, right = skipped.shape[2] - raised.shape[2], skipped.shape[3] - raised.shape[3]
        if torch.compiler.is_compiling() or bottom or right:
            raised = F.pad(raised, (0, right, 0, bottom))
        mixed: Tensor = self.pair(torch.cat([skipped, raised], dim=1))
        return mixed


@ARCHS.register()
class UNet(Network):
    """U-Net: (B, num_in_ch, H, W) in [0, 1] to (B, num_out_ch, scale·H, scale·W), not clamped; no residual.

    With the defaults it has 31,037,763 parameters, and 17,263,107 when ``bilinear``. All of it works at the size of the
    input: to enlarge, the last convolution makes scale² pixels of each, and nothing else changes.

    In training the lowest level normalises over a sixteenth of the sides: take crops of 32 pixels and more, or several
    images in a batch.

    Args:
        num_in_ch: channels of the input.
        num_out_ch: channels of the output.
        num_feat: channels at full size; each level below has twice as many.
        bilinear: rise a level by interpolation instead of transposed convolutions; then the lowest level has no more
            channels than the one above.
        scale: how much larger the output is.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(
        self, num_in_ch: int = 3, num_out_ch: int = 3, num_feat: int = 64, bilinear: bool = False, scale: int = 1
    ) -> None:
        if min(num_in_ch, num_out_ch, num_feat, scale) < 1:
            raise ValueError(
                "UNet: channels, features and scale start at 1, not "
                f"{num_in_ch=}, {num_out_ch=}, {num_feat=}, {scale=}."
            )
        spec = NetworkSpec(
            in_channels=num_in_ch,
            scale=scale,
            min_size=2**LEVELS,
            shift_period=2**LEVELS,
            global_context=bilinear,  # corners are aligned with corners
            last_layer="last",
            guessed=("num_out_ch", "scale"),
        )
        super().__init__(spec)
        widths = [num_feat << level for level in range(LEVELS + 1)]
        if bilinear:
            widths[LEVELS] = widths[LEVELS - 1]
        self.encoder = nn.ModuleList(
            ConvolutionPair(above, width, width) for above, width in zip([num_in_ch, *widths[:-1]], widths, strict=True)
        )
        self.decoder = nn.ModuleList(
            Rise(widths[level], widths[max(level - 1, 0)] if bilinear else widths[level], bilinear)
            for level in reversed(range(LEVELS))
        )
        self.last = nn.Conv2d(num_feat, num_out_ch * scale**2, 1)

    def restore(self, x: Tensor) -> Tensor:
        """Restore images of at least 16×16."""
        skipped = [self.encoder[0](x)]
        for pair in self.encoder[1:]:
            skipped.append(pair(F.max_pool2d(skipped[-1], 2)))
        picture = skipped.pop()
        for rise in self.decoder:
            picture = rise(picture, skipped.pop())
        restored: Tensor = self.last(picture)
        return F.pixel_shuffle(restored, self.scale) if self.scale > 1 else restored

    @classmethod
    def detect(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the arguments that a state dict tells; an output of the input's channels is taken to be enlarged."""
        if not {"encoder.0.conv1.weight", "decoder.0.pair.conv1.weight", "last.weight"} <= shapes.keys():
            return None
        num_feat, num_in_ch = shapes["encoder.0.conv1.weight"][:2]
        made = shapes["last.weight"][0]
        scale = math.isqrt(made // num_in_ch)
        enlarges = scale > 1 and made == num_in_ch * scale**2
        return {
            "num_in_ch": num_in_ch,
            "num_out_ch": num_in_ch if enlarges else made,
            "num_feat": num_feat,
            "bilinear": "decoder.0.up.weight" not in shapes,
            "scale": scale if enlarges else 1,
        }
