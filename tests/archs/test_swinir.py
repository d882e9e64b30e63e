import copy
import math
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.literal import literal_swinir
from mcir.archs import SwinIR
from mcir.archs.swinir import Block
from tests.archs.contract import ArchitectureContract

SMALL: dict[str, Any] = {
    "img_size": 8,
    "embed_dim": 12,
    "depths": [2, 2],
    "num_heads": [2, 3],
    "window_size": 4,
    "mlp_ratio": 2.0,
}


class TestContract(ArchitectureContract):
    section: ClassVar = {"type": "SwinIR", **SMALL, "upscale": 4, "upsampler": "pixelshuffle"}


class TestContractOfLight(ArchitectureContract):
    section: ClassVar = {"type": "SwinIR", **SMALL, "upscale": 3, "upsampler": "pixelshuffledirect"}
    reach = 17  # three pixels per block, one per convolution


class TestContractOfNearestUpsampling(ArchitectureContract):
    section: ClassVar = {
        "type": "SwinIR",
        **SMALL,
        "upscale": 4,
        "upsampler": "nearest+conv",
        "resi_connection": "3conv",
    }


class TestContractOfGrayWithoutUpsampling(ArchitectureContract):
    section: ClassVar = {
        "type": "SwinIR",
        **SMALL,
        "img_size": 7,
        "window_size": 7,
        "in_chans": 1,
        "img_range": 255.0,
        "upsampler": None,
    }
    channels = 1


# -- slow reference --------------------------------------------------------------------------------------------------


def dense_attention(x: Tensor, state: dict[str, Tensor], key: str, heads: int, window: int, shift: int) -> Tensor:
    """Compute attention of (H, W, C) over all pixels, masked outside the window; the grid of windows is shifted."""
    height, width, channels = x.shape
    position = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1).flatten(0, 1)
    cell = (position - shift).div(window, rounding_mode="floor")
    is_masked = (cell[:, None] != cell[None, :]).any(-1)
    offset = (position[:, None] - position[None, :]).clamp(1 - window, window - 1) + window - 1
    rows = offset[..., 0] * (2 * window - 1) + offset[..., 1]
    qkv = x.flatten(0, 1) @ state[f"{key}.qkv.weight"].mT + state[f"{key}.qkv.bias"]
    query, keys, value = qkv.view(-1, 3, heads, channels // heads).unbind(1)
    scores = torch.einsum("ihc,jhc->hij", query, keys) / math.sqrt(channels // heads)
    scores = scores + state[f"{key}.relative_position_bias_table"][rows].permute(2, 0, 1)
    weights = scores.masked_fill(is_masked, -math.inf).softmax(-1)
    attended = torch.einsum("hij,jhc->ihc", weights, value).reshape(height, width, channels)
    return attended @ state[f"{key}.proj.weight"].mT + state[f"{key}.proj.bias"]


def reference(net: SwinIR, image: Tensor) -> Tensor:
    """Run the network with upsampler ``pixelshuffle`` on one image (C, H, W), in elementary operations."""
    state, arguments = net.state_dict(), net.hyperparameters

    def conv(x: Tensor, key: str) -> Tensor:
        return F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], padding=1)

    def norm(x: Tensor, key: str) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        scaled = centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{key}.weight"] + state[f"{key}.bias"]

    mean = torch.tensor([0.4488, 0.4371, 0.4040]).double().view(3, 1, 1)
    shallow = conv((image - mean) * net.img_range, "conv_first")
    x = norm(shallow.permute(1, 2, 0), "patch_embed.norm")
    for group, (depth, heads) in enumerate(zip(arguments["depths"], arguments["num_heads"], strict=True)):
        before = x
        for index in range(depth):
            key = f"layers.{group}.residual_group.blocks.{index}"
            shift = arguments["window_size"] // 2 if index % 2 else 0
            x = x + dense_attention(
                norm(x, f"{key}.norm1"), state, f"{key}.attn", heads, arguments["window_size"], shift
            )
            hidden = norm(x, f"{key}.norm2") @ state[f"{key}.mlp.fc1.weight"].mT + state[f"{key}.mlp.fc1.bias"]
            hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
            x = x + hidden @ state[f"{key}.mlp.fc2.weight"].mT + state[f"{key}.mlp.fc2.bias"]
        x = before + conv(x.permute(2, 0, 1), f"layers.{group}.conv").permute(1, 2, 0)
    deep = conv(norm(x, "norm").permute(2, 0, 1), "conv_after_body") + shallow
    deep = conv(deep, "conv_before_upsample.0")
    deep = torch.where(deep > 0, deep, 0.01 * deep)
    for key in ("upsample.0", "upsample.2"):
        deep = F.pixel_shuffle(conv(deep, key), 2)
    return conv(deep, "conv_last") / net.img_range + mean


def with_large_weights(net: SwinIR) -> SwinIR:
    """Add noise to all parameters, so that all of them influence the output."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=1.0 if name.endswith("table") else 0.1)
    return net.double().eval()


@pytest.mark.parametrize("size", [(12, 8), (4, 4), (4, 12)])
def test_equals_its_equations(size: tuple[int, int]) -> None:
    net = with_large_weights(SwinIR(**SMALL, img_range=3.0, upscale=4, upsampler="pixelshuffle"))
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    expected = torch.stack([reference(net, image) for image in images])
    torch.testing.assert_close(net(images), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("size", [(8, 8), (20, 12)])
def test_equals_the_direct_implementation(size: tuple[int, int]) -> None:
    net = with_large_weights(SwinIR(**SMALL, upscale=2, upsampler="nearest+conv"))
    literal = literal_swinir(net)
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    outputs = [network(images) for network in (net, literal)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-11)
    gradients = []
    for output, network in zip(outputs, (net, literal), strict=True):
        names, parameters = zip(*network.named_parameters(), strict=True)
        gradients.append(dict(zip(names, torch.autograd.grad(output.square().mean(), parameters), strict=True)))
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-9, atol=1e-11, msg=name)


# -- variants ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("upsampler", "upscale"),
    [
        *(("pixelshuffle", upscale) for upscale in (2, 3, 4, 8)),
        *(("pixelshuffledirect", upscale) for upscale in (2, 3, 4, 5)),
        ("nearest+conv", 2),
        ("nearest+conv", 4),
        ("", 1),
        (None, 1),
    ],
)
def test_scales(upsampler: str | None, upscale: int) -> None:
    net = SwinIR(**{**SMALL, "depths": [1], "num_heads": [2]}, upscale=upscale, upsampler=upsampler)
    assert net.scale == upscale
    with torch.no_grad():
        assert net(torch.rand(1, 3, 5, 6)).shape == (1, 3, 5 * upscale, 6 * upscale)
    found = SwinIR.detect({key: tuple(value.shape) for key, value in net.state_dict().items()})
    assert found is not None and (found["upsampler"], found["upscale"]) == (upsampler or "", upscale)


def test_windows_are_not_shifted_if_training_images_are_one_window() -> None:
    shifted, whole = SwinIR(**{**SMALL, "img_size": 8}), SwinIR(**{**SMALL, "img_size": 4})
    assert any(name.endswith("attn_mask") for name, _ in shifted.named_buffers())
    assert not any(name.endswith("attn_mask") for name, _ in whole.named_buffers())
    whole.load_state_dict({key: value for key, value in shifted.state_dict().items() if not key.endswith("attn_mask")})
    images = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert not torch.allclose(shifted.eval()(images), whole.eval()(images))
    smaller = SwinIR(**{**SMALL, "img_size": 2})
    assert smaller.spec.size_multiple == 4 and smaller.layers[0].residual_group.blocks[1].window == 2


def test_stored_masks_and_index_tables_are_not_used() -> None:
    net = SwinIR(**SMALL).eval()
    damaged = copy.deepcopy(net)
    derived = [buffer for name, buffer in damaged.named_buffers() if name.endswith(damaged.spec.derived_buffers)]
    assert len(derived) == 4 + 1  # one table per block, and a mask that the shifted blocks share
    for buffer in derived:
        buffer.zero_()
    images = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(damaged(images), net(images))


def test_stochastic_depth_increases_with_depth() -> None:
    net = SwinIR(**SMALL, drop_path_rate=0.3)
    rates = [module.drop_path for module in net.modules() if isinstance(module, Block)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
