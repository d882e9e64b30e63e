from typing import ClassVar

import pytest
import torch
from torch import Tensor

from mcir.archs import EDSR
from tests.archs.contract import ArchitectureContract


class TestContract(ArchitectureContract):
    section: ClassVar = {"type": "EDSR", "num_feat": 8, "num_block": 2, "upscale": 4, "res_scale": 0.5}
    reach = 10  # ten 3×3 convolutions, the last two at a higher resolution


class TestContractOfGray(ArchitectureContract):
    section: ClassVar = {
        "type": "EDSR",
        "num_in_ch": 1,
        "num_out_ch": 1,
        "num_feat": 6,
        "num_block": 1,
        "upscale": 3,
        "rgb_mean": [0.5],
    }
    channels = 1


@pytest.mark.parametrize("upscale", [1, 2, 3, 4, 8])
def test_scales(upscale: int) -> None:
    net = EDSR(num_feat=4, num_block=1, upscale=upscale)
    assert net.scale == upscale
    assert net(torch.rand(1, 3, 5, 4)).shape == (1, 3, 5 * upscale, 4 * upscale)


def test_zero_weights_output_the_mean() -> None:
    """The normalization of the input is undone at the output."""
    net = EDSR(num_feat=4, num_block=1, upscale=2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        output = net(torch.rand(1, 3, 2, 3))
    expected = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1).expand(1, 3, 4, 6)
    assert torch.equal(output, expected)


def test_equals_its_equations() -> None:
    """Compute the network from convolutions only, in float64."""
    torch.manual_seed(0)
    net = EDSR(num_feat=5, num_block=2, upscale=4, res_scale=0.3, img_range=2.0, rgb_mean=(0.1, 0.2, 0.3)).double()
    images, state = torch.rand(2, 3, 6, 7, dtype=torch.float64), net.state_dict()

    def conv(x: Tensor, key: str) -> Tensor:
        return torch.nn.functional.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], padding=1)

    mean = torch.tensor([0.1, 0.2, 0.3]).double().view(1, 3, 1, 1)
    shallow = deep = conv((images - mean) * 2, "conv_first")
    for block in range(2):
        deep = deep + 0.3 * conv(conv(deep, f"body.{block}.conv1").clamp(min=0), f"body.{block}.conv2")
    x = conv(deep, "conv_after_body") + shallow
    for key in ("upsample.0", "upsample.2"):
        x = conv(x, key)
        batch, channels, height, width = x.shape
        x = x.view(batch, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
        x = x.reshape(batch, channels // 4, 2 * height, 2 * width)
    torch.testing.assert_close(net(images), conv(x, "conv_last") / 2 + mean, rtol=0, atol=1e-12)
