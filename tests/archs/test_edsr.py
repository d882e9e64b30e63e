from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from mcir.archs import EDSR
from tests.archs.contract import ArchitectureContract


class TestContract(ArchitectureContract):
    section: ClassVar = {"type": "EDSR", "num_feat": 8, "num_block": 2, "upscale": 4, "res_scale": 0.5}
    reach = 10  # ten convolutions of 3×3, the last two at a finer scale


class TestContractOfGrey(ArchitectureContract):
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


@pytest.mark.parametrize("upscale", [0, -2, 5, 6, 12])
def test_other_scales_are_refused(upscale: int) -> None:
    with pytest.raises(ValueError, match=rf"upscale is 3 or a power of two \(1, 2, 4, 8, …\), not {upscale}"):
        EDSR(num_feat=4, num_block=1, upscale=upscale)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rgb_mean": (0.4, 0.4)}, "rgb_mean has 2 numbers for 3 input and 3 output channels"),
        ({"num_in_ch": 1}, "rgb_mean has 3 numbers for 1 input and 3 output channels"),
        ({"num_feat": 0}, "num_feat=0"),
        ({"num_block": -1}, "num_block=-1"),
        ({"img_range": 0.0}, "img_range=0.0"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EDSR(**arguments)


def test_the_mean_is_a_fixed_point() -> None:
    """With zero weights the network gives its mean for anything, so mean and range are undone at the end."""
    net = EDSR(num_feat=4, num_block=1, upscale=2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        output = net(torch.rand(1, 3, 2, 3))
    expected = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1).expand(1, 3, 4, 6)
    assert torch.equal(output, expected)


def test_agrees_with_the_equations() -> None:
    """The network written as one expression of convolutions, in float64."""
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
