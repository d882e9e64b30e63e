from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mcir.archs import FFANet
from mcir.archs.network import Network
from mcir.registry import ARCHS
from tests.archs.contract import ArchitectureContract


class TestContract(ArchitectureContract):
    section: ClassVar = {"type": "FFANet", "gps": 2, "blocks": 1}


@pytest.mark.parametrize(("gps", "blocks"), [(3, 2), (2, 1), (1, 1)])
def test_equals_its_equations(gps: int, blocks: int) -> None:
    """Compute the network from the equations of the paper, in float64."""
    torch.manual_seed(0)
    net = FFANet(gps, blocks).double()
    images, state = torch.rand(2, 3, 6, 7, dtype=torch.float64), net.state_dict()

    def conv(x: Tensor, key: str) -> Tensor:
        weight = state[f"{key}.weight"]
        return F.conv2d(x, weight, state[f"{key}.bias"], padding=weight.shape[-1] // 2)

    def factors(x: Tensor, first: str, second: str) -> Tensor:
        return 1 / (1 + torch.exp(-conv(conv(x, first).clamp(min=0), second)))

    def mean(x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)[..., None, None]

    mean_of_colors = torch.tensor([0.64, 0.6, 0.58]).double().view(1, 3, 1, 1)
    std_of_colors = torch.tensor([0.14, 0.15, 0.152]).double().view(1, 3, 1, 1)
    normalized = (images - mean_of_colors) / std_of_colors
    x = conv(normalized, "pre.0")
    groups = []
    for group in range(1, gps + 1):
        group_input = x
        for block in range(blocks):
            key = f"g{group}.gp.{block}"
            inner = conv(conv(x, f"{key}.conv1").clamp(min=0) + x, f"{key}.conv2")
            inner = inner * factors(mean(inner), f"{key}.calayer.ca.0", f"{key}.calayer.ca.2")
            x = inner * factors(inner, f"{key}.palayer.pa.0", f"{key}.palayer.pa.2") + x
        x = conv(x, f"g{group}.gp.{blocks}") + group_input
        groups.append(x)
    weights = factors(mean(torch.cat(groups, 1)), "ca.1", "ca.3").unflatten(1, (gps, 64))
    fused = torch.stack([weights[:, index] * x for index, x in enumerate(groups)]).sum(0)
    fused = fused * factors(fused, "palayer.pa.0", "palayer.pa.2")
    expected = conv(conv(fused, "post.0"), "post.1") + normalized
    torch.testing.assert_close(net(images), expected, rtol=0, atol=1e-7)  # mean and std are float32
    torch.testing.assert_close(net.restore(normalized), expected, rtol=0, atol=1e-12)


def test_normalizes_the_input_but_not_the_output() -> None:
    net = FFANet(1, 1)
    for parameter in net.post[1].parameters():
        torch.nn.init.zeros_(parameter)
    images = torch.tensor([0.64 + 0.14, 0.6 - 0.15, 0.58]).view(1, 3, 1, 1).expand(1, 3, 4, 5)
    expected = torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 5)
    torch.testing.assert_close(net(images), expected, rtol=0, atol=1e-6)
    assert torch.equal(Network.forward(net, images), images)


def test_the_layout_without_gradients_does_not_change_the_output() -> None:
    torch.manual_seed(0)
    net, images = FFANet(2, 1), torch.rand(2, 3, 6, 7)
    with torch.no_grad():
        output = net(images)
    assert output.is_contiguous()
    torch.testing.assert_close(output, net(images).detach(), rtol=1e-4, atol=1e-5)


def test_the_official_class_name_is_an_alias() -> None:
    assert ARCHS.get("FFA") is FFANet
