from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from mcir.archs import DehazeFormer
from mcir.archs.dehazeformer import Attention, RescaledNorm
from mcir.registry import ARCHS
from tests.archs.contract import ArchitectureContract

TINY = {
    "embed_dims": [4, 8, 8, 8, 4],
    "mlp_ratios": [2.0, 1.5, 2.0, 1.0, 2.0],
    "depths": [1, 2, 4, 1, 1],
    "num_heads": [2, 2, 4, 1, 1],
    "attn_ratio": [0.0, 1.0, 0.5, 0.0, 0.0],
}
SOFTMAX = {"*.attn.attn.meta.2.bias": "a constant for all scores of a head, which cancels in the softmax"}


class TestContract(ArchitectureContract):
    section: ClassVar = {"type": "DehazeFormer", **TINY}
    no_gradient: ClassVar = SOFTMAX


class TestContractOfConv(ArchitectureContract):
    section: ClassVar = {"type": "DehazeFormer", **TINY, "conv_type": "Conv", "in_chans": 1, "window_size": 4}
    channels = 1
    no_gradient: ClassVar = SOFTMAX

    @pytest.mark.slow
    def test_an_exported_program_accepts_any_size(self, net: Any) -> None:
        """The other class exports in every run."""
        super().test_an_exported_program_accepts_any_size(net)


# -- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "minimum"),
    [
        ({}, 28),  # 7 pixels at the lowest resolution; padding for shifted windows: 4 before and 5 after them
        ({"attn_ratio": [0, 0, 0.5, 0, 0]}, 28),
        ({"attn_ratio": [0, 0.5, 0, 0, 0]}, 16),
        (
            {"attn_ratio": [0, 0, 1, 0, 0], "depths": [1, 1, 1, 1, 1]},
            20,
        ),  # 5 pixels at the lowest resolution; padding for windows without shift: 3
        ({"attn_ratio": [0] * 5}, 12),  # 3 pixels at the lowest resolution; padding of a 5×5 kernel: 2
        ({"attn_ratio": [0] * 5, "conv_type": "Conv"}, 8),
        ({"window_size": 4}, 16),
    ],
)
def test_the_minimum_size_is_large_enough_for_reflection(arguments: dict[str, Any], minimum: int) -> None:
    net = DehazeFormer(**{**TINY, "depths": [2, 2, 2, 1, 1], **arguments}).eval()
    assert net.spec.min_size == minimum
    with torch.no_grad():
        for side in range(minimum, minimum + 40, 4):
            assert net.restore(torch.rand(1, 3, side, minimum)).shape == (1, 3, side, minimum)
        with pytest.raises(RuntimeError, match="adding size should be less than"):
            net.restore(torch.rand(1, 3, minimum - 4, 64))


# -- slow references from the paper -----------------------------------------------------------------------------------


def test_norm_equals_the_equations() -> None:
    torch.manual_seed(0)
    norm, images = RescaledNorm(3).double(), 5 + torch.rand(2, 3, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_()
        normalized, factor, offset = norm(images)
    assert factor.shape == offset.shape == (2, 3, 1, 1)
    for index, image in enumerate(images):
        mean = sum(image.flatten().tolist()) / image.numel()
        std = (sum((value - mean) ** 2 for value in image.flatten().tolist()) / image.numel() + 1e-5) ** 0.5
        for channel in range(3):
            weight, bias = norm.weight[0, channel].item(), norm.bias[0, channel].item()
            expected = (image[channel] - mean) / std * weight + bias
            torch.testing.assert_close(normalized[index, channel], expected, rtol=0, atol=1e-12)
            for meta, value, output in ((norm.meta1, std, factor), (norm.meta2, mean, offset)):
                expected_value = meta.weight[channel].item() * value + meta.bias[channel].item()
                assert output[index, channel].item() == pytest.approx(expected_value, abs=1e-12)


def reflected(position: int, side: int) -> int:
    """Return the position of the pixel that is reflected to a position outside the image."""
    return -position if position < 0 else 2 * (side - 1) - position if position >= side else position


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 8), (5, 7)])
def test_attention_equals_a_loop_over_pixels(shift: int, size: tuple[int, int]) -> None:
    """Each pixel attends to the pixels of its window; outside the image, they are reflected."""
    torch.manual_seed(0)
    window, heads, dim = 4, 2, 6
    depth, (height, width) = dim // heads, size
    attn = Attention(dim, heads, window, shift, True, "DWConv").double()
    image = torch.randn(1, dim, height, width, dtype=torch.float64)
    with torch.no_grad():
        query_key, value = attn.QK(image), attn.V(image)
        query, key = query_key[0, :dim], query_key[0, dim:]
        expected = torch.zeros(dim, height, width, dtype=torch.float64)
        for y in range(height):
            for x in range(width):
                top, left = ((position + shift) // window * window - shift for position in (y, x))
                window_pixels = [(v, u) for v in range(top, top + window) for u in range(left, left + window)]
                for head in range(heads):
                    part = slice(head * depth, (head + 1) * depth)
                    scores, values = [], []
                    for v, u in window_pixels:
                        distance = torch.tensor([y - v, x - u], dtype=torch.float64)
                        hidden = attn.attn.meta[0](distance.sign() * (1 + distance.abs()).log()).clamp(min=0)
                        bias = attn.attn.meta[2](hidden)[head]
                        index = (part, reflected(v, height), reflected(u, width))
                        scores.append(query[part, y, x] @ key[index] / depth**0.5 + bias)
                        values.append(value[0][index])
                    expected[part, y, x] = torch.stack(scores).softmax(0) @ torch.stack(values)
        torch.testing.assert_close(attn.window_attention(query_key, value)[0], expected, rtol=0, atol=1e-6)
        whole = attn.proj(attn.conv(value) + expected)
        torch.testing.assert_close(attn(image), whole, rtol=0, atol=1e-6)


def test_network_equals_the_composition_of_its_parts() -> None:
    """Compose the U-Net with its fusions, residuals and head as in the figures of the paper."""
    torch.manual_seed(0)
    net = DehazeFormer(**TINY).double()
    image = torch.rand(2, 3, 32, 28, dtype=torch.float64) * 2 - 1

    def stage(x: Tensor, layer: Any) -> Tensor:
        for block in layer.blocks:
            if block.norm1 is None:
                x = x + block.attn(x)
            else:
                normalized, factor, offset = block.norm1(x)
                x = x + (block.attn(normalized) * factor + offset)
            x = x + block.mlp.mlp[2](block.mlp.mlp[0](x).clamp(min=0))
        return x

    def fused(x: Tensor, skip: Tensor, fusion: Any) -> Tensor:
        means = (x + skip).mean((2, 3), keepdim=True)
        scores = fusion.mlp[2](fusion.mlp[0](means).clamp(min=0)).view(2, 2, -1, 1, 1)
        weight, skip_weight = scores.softmax(1).unbind(1)
        return x * weight + skip * skip_weight + x

    with torch.no_grad():
        first = stage(net.patch_embed.proj(image), net.layer1)
        second = stage(net.patch_merge1.proj(first), net.layer2)
        x = net.patch_split1.proj(stage(net.patch_merge2.proj(second), net.layer3))
        x = stage(fused(x, net.skip2(second), net.fusion1), net.layer4)
        x = stage(fused(net.patch_split2.proj(x), net.skip1(first), net.fusion2), net.layer5)
        head = net.patch_unembed.proj(x)
        expected = head[:, :1] * image - head[:, 1:] + image
        torch.testing.assert_close(net.restore(image), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(net(image / 2 + 0.5), expected / 2 + 0.5, rtol=0, atol=1e-12)


# -- weights ----------------------------------------------------------------------------------------------------------


def test_the_last_blocks_have_attention_and_every_second_window_is_shifted() -> None:
    net = DehazeFormer(**{**TINY, "depths": [5, 8, 1, 1, 3], "attn_ratio": [0.5, 0.25, 0, 1, 1]})
    layers = (net.layer1, net.layer2, net.layer3, net.layer4, net.layer5)
    assert [[block.attn.use_attn for block in layer.blocks] for layer in layers] == [
        [False, False, False, True, True],
        [False] * 6 + [True] * 2,
        [False],
        [True],
        [True] * 3,
    ]
    assert [block.attn.shift for block in net.layer2.blocks] == [0, 4] * 4


def test_initial_weights_follow_the_published_scheme() -> None:
    torch.manual_seed(0)
    net = DehazeFormer()
    blocks, block = 32, net.layer3.blocks[-1]
    for name, fans, width in (("QK", 96 + 192, 1.0), ("V", 96 + 96, (8 * blocks) ** -0.25)):
        layer = block.attn.get_submodule(name)
        assert layer.weight.std().item() == pytest.approx(width * (2 / fans) ** 0.5, rel=0.05)
        assert not layer.bias.any()
    assert (block.norm1.meta1.bias == 1).all() and not block.norm1.meta2.bias.any()
    assert block.norm1.meta1.weight.std().item() == pytest.approx(0.02, rel=0.3)
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert 0.1 < net(images).std() < 1


def test_a_state_dict_without_attention_is_detected() -> None:
    arguments = {**TINY, "attn_ratio": [0.0] * 5}
    found = DehazeFormer.detect(
        {key: tuple(value.shape) for key, value in DehazeFormer(**arguments).state_dict().items()}
    )
    assert found == {**arguments, "num_heads": [2, 4, 6, 1, 1], "conv_type": "DWConv", "in_chans": 3}


def test_num_heads_of_stages_without_attention_is_ignored() -> None:
    net = ARCHS.build({"type": "DehazeFormer", **TINY, "num_heads": [3, 2, 4, 3, 3]})
    assert net(torch.rand(1, 3, 28, 28)).shape == (1, 3, 28, 28)
