import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mcir.archs import EDSR
from mcir.registry import ARCHS
from tests.archs.contract import ArchitectureContract
from tests.golden.deterministic import deterministic_state_dict, uniform

GOLDEN = Path(__file__).parents[1] / "golden" / "edsr"
CONFIGS = ["light_x2", "light_x3", "light_x4", "large_x2", "large_x3", "large_x4"]


class TestContract(ArchitectureContract):
    section: ClassVar = {"type": "EDSR", "num_feat": 8, "num_block": 2, "upscale": 4, "res_scale": 0.5}


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


def manifest(config: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{config}.json").read_text())


def golden_network(config: str) -> EDSR:
    facts = manifest(config)
    net = ARCHS.build({"type": "EDSR", **facts["kwargs"]})
    net.load_state_dict(deterministic_state_dict(facts["shapes"], facts["gain"]), strict=True)
    return net.eval()


@pytest.mark.parametrize("config", CONFIGS)
def test_keys_shapes_parameters_and_work_are_the_official_ones(config: str) -> None:
    facts = manifest(config)
    with torch.device("meta"):
        net = ARCHS.build({"type": "EDSR", **facts["kwargs"]})
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == facts["shapes"]
    assert list(net.state_dict()) == list(facts["shapes"])
    assert sum(parameter.numel() for parameter in net.parameters()) == facts["param_count"]
    for work in facts["macs"]:
        with FlopCounterMode(display=False) as counter:
            net(torch.empty(work["input_shape"], device="meta"))
        assert counter.get_total_flops() // 2 == work["macs"]


@pytest.mark.parametrize("config", CONFIGS)
def test_outputs_are_the_official_ones(config: str) -> None:
    facts, net = manifest(config), golden_network(config)
    with np.load(GOLDEN / f"{config}.npz") as golden, torch.no_grad():
        for case in facts["cases"]:
            images, name = uniform(case["input_seed"], case["input_shape"]), case["name"]
            output = net.float()(images)
            assert list(output.shape) == case["output_shape"]
            error = output.flatten()[::5] - torch.from_numpy(golden[f"{name}.output"])
            assert error.abs().max() < 1e-5 * case["output_std"]
            if f"{name}.output_f64" in golden:
                exact = net.double()(images.double())
                error = exact.flatten()[::7] - torch.from_numpy(golden[f"{name}.output_f64"])
                assert error.abs().max() < 1e-12


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
