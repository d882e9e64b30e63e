"""Example of your own network. Only the decorator and the spec belong to mcir."""

from torch import Tensor, nn
from torch.nn import functional as F

import mcir
from mcir.network_spec import NetworkSpec


@mcir.ARCHS.register()
class YourNetwork(nn.Module):
    """Enlarge images (B, 3, H, W) in [0, 1] to (B, 3, scale·H, scale·W).

    Args:
        num_feat: number of features.
        scale: upsampling factor.
    """

    def __init__(self, num_feat: int = 32, scale: int = 2) -> None:
        super().__init__()
        self.spec = NetworkSpec(scale=scale)  # used to check options and to restore images; optional if scale is 1
        self.body = nn.Sequential(
            nn.Conv2d(3, num_feat, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(num_feat, 3 * scale**2, 3, padding=1),
            nn.PixelShuffle(scale),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the enlarged images."""
        residual: Tensor = self.body(x)
        return residual + F.interpolate(x, scale_factor=self.spec.scale, mode="bilinear")
