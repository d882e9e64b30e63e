"""Small networks and images for the tests in this folder."""

import numpy as np
import torch
from torch import nn

import mcir
from mcir.inference.images import Picture
from mcir.network_spec import NetworkSpec

RANDOM = np.random.default_rng(0)


def edsr(**arguments):
    torch.manual_seed(0)
    return mcir.build_network({"type": "EDSR", "num_feat": 6, "num_block": 1, "upscale": 2, **arguments}).eval()


def grey_edsr():
    return edsr(num_in_ch=1, num_out_ch=1, rgb_mean=[0.5])


class Enlarge(nn.Module):
    """Repeat pixels."""

    def __init__(self, scale=1, channels=3):
        super().__init__()
        self.spec = NetworkSpec(scale=scale, in_channels=channels)

    def forward(self, x):
        assert x.shape[1] == self.spec.in_channels
        return x.repeat_interleave(self.spec.scale, 2).repeat_interleave(self.spec.scale, 3)


def run_network(net, images):
    with torch.no_grad():
        return net.eval()(images).clamp(0, 1)


def picture(height, width, channels=3, dtype=np.uint8, alpha=False, **facts):
    top = np.iinfo(dtype).max + 1
    return Picture(
        RANDOM.integers(0, top, (height, width, channels), dtype=dtype),
        RANDOM.integers(0, top, (height, width), dtype=dtype) if alpha else None,
        **facts,
    )
