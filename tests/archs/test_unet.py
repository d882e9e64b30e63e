from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from mcir.archs import UNet
from tests.archs.contract import ArchitectureContract


class TestContract(ArchitectureContract):
    section: ClassVar = {"type": "UNet", "num_feat": 4}
    reach = 110  # 62 from convolutions of the encoder, 30 from those of the decoder, 15 from pooling

    def images(self, net: Any, batch: int = 2, height: int = 9, width: int = 12, seed: int = 1) -> Tensor:
        """Return larger images in training, because single pixels have almost no variance for batch normalization."""
        return super().images(net, batch, height + 32 * net.training, width + 32 * net.training, seed)


class TestContractOfBilinear(TestContract):
    section: ClassVar = {"type": "UNet", "num_feat": 2, "num_in_ch": 1, "num_out_ch": 1, "bilinear": True}
    channels = 1
    reach = None  # aligned corners: sampling positions depend on the image size


class TestContractOfUpsampling(TestContract):
    section: ClassVar = {"type": "UNet", "num_feat": 4, "scale": 2}


# -- slow reference ---------------------------------------------------------------------------------------------------


def randomized(net: UNet) -> UNet:
    torch.manual_seed(1)
    for key, value in net.double().state_dict().items():
        if value.is_floating_point():
            torch.nn.init.uniform_(value, 0.5, 1.5) if key.endswith("running_var") else torch.nn.init.normal_(value)
    return net.requires_grad_(False).eval()


def plain_pair(state: dict[str, Tensor], x: Tensor) -> Tensor:
    for number in (1, 2):
        kernel = state[f"conv{number}.weight"]
        padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
        x = sum(
            torch.einsum(
                "dc,bchw->bdhw",
                kernel[:, :, row, column],
                padded[:, :, row : row + x.shape[2], column:][..., : x.shape[3]],
            )
            for row in range(3)
            for column in range(3)
        )
        weight, bias, mean, var = (
            state[f"norm{number}.{name}"].view(-1, 1, 1) for name in ("weight", "bias", "running_mean", "running_var")
        )
        x = ((x - mean) / (var + 1e-5).sqrt() * weight + bias).clamp(min=0)
    return x


def plain_up(state: dict[str, Tensor], features: Tensor, skip: Tensor) -> Tensor:
    """Upsample pixel by pixel; in odd sizes, the last row and column stay zero."""
    height, width = features.shape[2:]
    upsampled = torch.zeros_like(skip)
    for row in range(2 * height):
        for column in range(2 * width):
            if "up.weight" in state:
                kernel = state["up.weight"][:, :, row % 2, column % 2]
                upsampled[:, :, row, column] = features[:, :, row // 2, column // 2] @ kernel + state["up.bias"]
                continue
            down = row * (height - 1) / (2 * height - 1)
            right = column * (width - 1) / (2 * width - 1)
            for y in range(height):
                for x in range(width):
                    weight = max(0.0, 1 - abs(down - y)) * max(0.0, 1 - abs(right - x))
                    upsampled[:, :, row, column] += weight * features[:, :, y, x]
    return plain_pair(part(state, "pair."), torch.cat([skip, upsampled], dim=1))


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (19, 31)])
def test_equals_a_slow_reference(bilinear: bool, size: tuple[int, int]) -> None:
    net = randomized(UNet(2, 5, num_feat=2, bilinear=bilinear))
    state, images = net.state_dict(), torch.rand(2, 2, *size, dtype=torch.float64)
    features = [plain_pair(part(state, "encoder.0."), images)]
    for level in range(1, 5):
        previous = features[-1]
        halves = [previous[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
        height, width = previous.shape[2] // 2, previous.shape[3] // 2
        largest = torch.stack([half[:, :, :height, :width] for half in halves]).amax(0)
        features.append(plain_pair(part(state, f"encoder.{level}."), largest))
    x = features.pop()
    for step in range(4):
        x = plain_up(part(state, f"decoder.{step}."), x, features.pop())
    expected = torch.einsum("dc,bchw->bdhw", state["last.weight"][..., 0, 0], x) + state["last.bias"].view(-1, 1, 1)
    torch.testing.assert_close(net(images), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("bilinear", "parameters"), [(False, 31_037_763), (True, 17_263_107)])
def test_parameters(bilinear: bool, parameters: int) -> None:
    with torch.device("meta"):
        net = UNet(bilinear=bilinear)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    assert sum(parameter.numel() for parameter in net.last.parameters()) == 195


def test_upsampling_changes_only_the_last_layer() -> None:
    """Channel c·scale² + row·scale + column of the last layer is channel c at (row, column) of each output block."""
    net, plain = randomized(UNet(num_feat=4, scale=2)), UNet(num_feat=4).double().eval()
    state, plain_state = net.state_dict(), plain.state_dict()
    assert [key for key in state if state[key].shape != plain_state[key].shape] == ["last.weight", "last.bias"]
    assert state.keys() == plain_state.keys()
    images = torch.rand(1, 3, 16, 20, dtype=torch.float64)
    enlarged = net(images)
    for row in (0, 1):
        for column in (0, 1):
            head = {f"last.{name}": state[f"last.{name}"][2 * row + column :: 4] for name in ("weight", "bias")}
            plain.load_state_dict({**state, **head})
            torch.testing.assert_close(enlarged[..., row::2, column::2], plain(images))


def test_detection_of_upsampling() -> None:
    for arguments in ({"scale": 2}, {"scale": 3, "num_in_ch": 1, "num_out_ch": 1}, {"num_in_ch": 1, "num_out_ch": 3}):
        shapes = {key: tuple(value.shape) for key, value in UNet(num_feat=2, **arguments).state_dict().items()}
        found = UNet.detect(shapes)
        assert found is not None
        assert {key: found[key] for key in arguments} == arguments
