"""A network of your own, as any project has one: only the decorator and the spec come from mcir."""

from torch import Tensor, nn
from torch.nn import functional as F

import mcir
from mcir.network_spec import NetworkSpec


@mcir.ARCHS.register()
class YourNetwork(nn.Module):
    """Enlarge (B, 3, H, W) images in [0, 1] to (B, 3, scale·H, scale·W).

    Args:
        num_feat: channels within.
        scale: how many times larger the result is.
    """

    def __init__(self, num_feat: int = 32, scale: int = 2) -> None:
        super().__init__()
        self.spec = NetworkSpec(scale=scale)
        self.body = nn.Sequential(
            nn.Conv2d(3, num_feat, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(num_feat, 3 * scale**2, 3, padding=1),
            nn.PixelShuffle(scale),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the enlarged images."""
        details: Tensor = self.body(x)
        return details + F.interpolate(x, scale_factor=self.spec.scale, mode="bilinear")
