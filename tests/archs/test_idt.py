import functools
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mcir.archs import IDT, idt, network
from mcir.archs.idt import RelativeAttention, SpatialTransformer, WindowBlock, center_weights, tile_starts
from mcir.registry import ARCHS
from tests.archs.contract import ArchitectureContract
from tests.golden.deterministic import uniform

TILING = Path(__file__).parents[1] / "golden" / "tiling"
SMALL: dict[str, Any] = {
    "embed_dim": 4,
    "depths": [1] * 9,
    "num_heads": [1, 2, 2, 1, 2, 1, 1, 2, 1],
    "win_size": 2,
    "mlp_ratio": 2.0,
    "img_size": 32,
    "drop_path_rate": 0.0,
    "overlap": 12,
}


class TestContract(ArchitectureContract):
    section: ClassVar = {"type": "IDT", **SMALL}

    @pytest.mark.slow
    def test_compiled_equals_eager(self, net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Compile with a backend that generates no code: code for so many blocks would take ten minutes."""
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
        super().test_compiled_equals_eager(net)


class TestContractOfGrayWithSingleWindows(TestContract):
    section: ClassVar = {
        "type": "IDT",
        **SMALL,
        "in_chans": 1,
        "num_heads": [1] * 9,
        "win_size": 4,
        "qkv_bias": False,
        "drop_path_rate": 0.1,
    }
    channels = 1
    no_gradient: ClassVar = {
        f"{layer}.blocks.1.attn.{name}": "a grid with a single token, whose attention weight is always 1"
        for layer in ("encoderlayer_3", "decoderlayer_0")
        for name in ("relative_position_bias_table", "qkv.to_q.weight")
    }

    @pytest.mark.slow
    def test_an_exported_program_accepts_any_size(self, net: Any) -> None:
        """The other class exports in every run."""
        super().test_an_exported_program_accepts_any_size(net)


@pytest.fixture(params=[(2, 48, 32), (1, 33, 61)])
def images(request: pytest.FixtureRequest) -> Tensor:
    batch, height, width = request.param
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def net() -> IDT:
    torch.manual_seed(0)
    return IDT(**SMALL).eval()


# -- slow references --------------------------------------------------------------------------------------------------


def plain_attention(attention: RelativeAttention, tokens: Tensor, bound: int) -> Tensor:
    """Return the attention of one grid of tokens (side², C), with loops over heads, queries and keys."""
    state, side, heads = attention.state_dict(), attention.side, attention.num_heads
    count, dim = tokens.shape
    query = tokens @ state["qkv.to_q.weight"].T + state["qkv.to_q.bias"]
    key, value, position_values = (tokens @ state["qkv.to_kv.weight"].T + state["qkv.to_kv.bias"]).split(dim, dim=1)
    table = state["relative_position_bias_table"].view(2 * bound - 1, 2 * bound - 1, heads)
    attended = torch.empty_like(tokens)
    for head in range(heads):
        part = slice(head * dim // heads, (head + 1) * dim // heads)
        scores = torch.empty(count, count, dtype=tokens.dtype)
        for one in range(count):
            for other in range(count):
                down = max(1 - bound, min(bound - 1, one // side - other // side))
                right = max(1 - bound, min(bound - 1, one % side - other % side))
                product = query[one, part] @ key[other, part] / (dim / heads) ** 0.5
                scores[one, other] = product + table[down + bound - 1, right + bound - 1, head]
        attended[:, part] = scores.exp() / scores.exp().sum(1, keepdim=True) @ value[:, part]
    deep, mixing = state["Position_Extract.0.weight"], state["Position_Extract.1.weight"]
    reach = deep.shape[-1] // 2
    local = torch.empty_like(tokens)
    for one in range(count):
        local[one] = state["Position_Extract.0.bias"]
        for other in range(count):
            down, right = other // side - one // side, other % side - one % side
            if abs(down) <= reach and abs(right) <= reach:
                local[one] += deep[:, 0, down + reach, right + reach] * position_values[other]
    width = dim // heads
    position = torch.stack(
        [mixing[channel, :, 0, 0] @ local[:, channel // width * width :][:, :width].T for channel in range(dim)], dim=1
    )
    mixed = attended + position + state["Position_Extract.1.bias"]
    return mixed @ state["proj.weight"].T + state["proj.bias"]


def plain_leff(block: WindowBlock | SpatialTransformer, x: Tensor) -> Tensor:
    state = {key.removeprefix("mlp."): value for key, value in block.state_dict().items()}
    hidden = torch.einsum("bhwc,dc->bhwd", x, state["linear1.0.weight"]) + state["linear1.0.bias"]
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    padded = F.pad(hidden, (0, 0, 1, 1, 1, 1))
    local = state["dwconv.0.bias"] + sum(
        padded[:, row : row + x.shape[1], column : column + x.shape[2]] * state["dwconv.0.weight"][:, 0, row, column]
        for row in range(3)
        for column in range(3)
    )
    hidden = hidden + local * (1 + torch.erf(local / 2**0.5)) / 2
    return torch.einsum("bhwd,cd->bhwc", hidden, state["linear2.0.weight"]) + state["linear2.0.bias"]


def plain_norm(norm: torch.nn.Module, x: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def randomized(module: torch.nn.Module) -> Any:
    torch.manual_seed(1)
    for parameter in module.double().parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.requires_grad_(False).eval()


@pytest.mark.parametrize(("window", "bound"), [(4, 8), (9, 8), (1, 8), (2, 8)])
@pytest.mark.parametrize("heads", [1, 3])
def test_attention_equals_its_equations(window: int, bound: int, heads: int) -> None:
    """Distant positions share a bias if the grid is larger than the bound."""
    attention = randomized(RelativeAttention(6, window, heads, bound, qkv_bias=True))
    tokens = torch.rand(2, window * window, 6, dtype=torch.float64)
    expected = torch.stack([plain_attention(attention, grid, bound) for grid in tokens])
    torch.testing.assert_close(attention(tokens), expected, rtol=0, atol=1e-12)


def test_window_block_equals_its_equations() -> None:
    block = randomized(WindowBlock(RelativeAttention(6, 3, 2, 8, qkv_bias=True), 6, 8, drop_path=0.5))
    x = torch.rand(2, 6, 9, 6, dtype=torch.float64)
    normal, attended = plain_norm(block.norm1, x), torch.empty_like(x)
    for image in range(2):
        for top in range(0, 6, 3):
            for left in range(0, 9, 3):
                area = (image, slice(top, top + 3), slice(left, left + 3))
                attended[area] = plain_attention(block.attn, normal[area].reshape(9, 6), 8).view(3, 3, 6)
    expected = x + attended
    expected = expected + plain_leff(block, plain_norm(block.norm2, expected))
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


def test_spatial_transformer_equals_its_equations() -> None:
    """Windows are tokens. Their results are added window after window, not at the pixels of the windows."""
    block = randomized(SpatialTransformer(RelativeAttention(4, 4, 2, 2, qkv_bias=True), 3, 2, 8))
    x = torch.rand(2, 8, 8, 3, dtype=torch.float64)
    expected = x.clone()
    for image in range(2):
        for channel in range(3):
            windows = [
                x[image, top : top + 2, left : left + 2, channel].flatten()
                for top in range(0, 8, 2)
                for left in range(0, 8, 2)
            ]
            attended = plain_attention(block.attn, torch.stack(windows), 2)
            for position, value in enumerate(attended.flatten()):
                expected[image, position // 8, position % 8, channel] += value
    expected = expected + plain_leff(block, plain_norm(block.norm2, expected))
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


# -- any size ----------------------------------------------------------------------------------------------------------


def golden_tiling() -> dict[str, Any]:
    return json.loads((TILING / "idt.json").read_text())


@pytest.mark.parametrize("size", golden_tiling()["starts"])
def test_tiles_start_at_the_official_positions(size: str) -> None:
    height, width = (int(side) for side in size.split("x"))
    own = [[top, left] for top in tile_starts(height, 128, 20) for left in tile_starts(width, 128, 20)]
    assert own == golden_tiling()["starts"][size]


def test_a_side_of_exactly_a_tile_is_one_tile() -> None:
    assert tile_starts(128, 128, 20) == [0]


def patch_tiles(net: IDT, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make the network return tile · (1 + i/100) + i/1000 for the i-th tile, and record the batch sizes."""
    batches: list[int] = []

    def restore_tile(x: Tensor) -> Tensor:
        number = torch.arange(sum(batches), sum(batches) + len(x)).view(-1, 1, 1, 1)
        batches.append(len(x))
        return x * (1 + 0.01 * number) + 0.001 * number

    monkeypatch.setattr(net, "restore_tile", restore_tile)
    return batches


def test_merged_tiles_are_official(monkeypatch: pytest.MonkeyPatch) -> None:
    with np.load(TILING / "idt.npz") as golden:
        expected, weights = (torch.from_numpy(golden[key]) for key in ("merged", "weights_row64"))
    torch.testing.assert_close(center_weights(128)[64], weights, rtol=1e-6, atol=0)
    net = IDT(**{**SMALL, "img_size": 128, "overlap": 20})
    patch_tiles(net, monkeypatch)
    merged = net(uniform(8800, (1, 3, 150, 236)))
    torch.testing.assert_close(merged[..., ::3, ::3].flatten()[::3], expected, rtol=1e-6, atol=1e-7)


def test_merged_tiles_equal_a_loop_over_pixels(net: IDT, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = patch_tiles(net, monkeypatch)
    merged = net(images)
    corners = [
        (top, left) for top in tile_starts(images.shape[2], 32, 12) for left in tile_starts(images.shape[3], 32, 12)
    ]
    assert sum(batches) == len(images) * len(corners)
    for image, row, column in [(len(images) - 1, 20, 30), (0, 0, 0), (0, 32, 31), (0, 16, 16)]:
        total, value = 0.0, torch.zeros(3)
        for number, (top, left) in enumerate(corners):
            y, x = row - top, column - left
            if 0 <= y < 32 and 0 <= x < 32:
                weight = ((y - 16) ** 2 + (x - 16) ** 2 + 1e-3) ** -0.5
                index = number * len(images) + image
                total += weight
                value += weight * (images[image, :, row, column] * (1 + 0.01 * index) + 0.001 * index)
        torch.testing.assert_close(merged[image, :, row, column], value / total)


@pytest.mark.parametrize("size", [(32, 32), (33, 70), (91, 52)])
def test_exported_programs_merge_tiles_equally(
    net: IDT, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    """Exported programs restore all tiles in one batch, in the same order."""
    batches, image = patch_tiles(net, monkeypatch), torch.rand(1, 3, *size)
    expected, count = net(image), sum(batches)
    batches.clear()
    for module in (network, idt):
        monkeypatch.setattr(module, "is_exporting", lambda: True)
    torch.testing.assert_close(net(image), expected, rtol=1e-5, atol=1e-6)
    assert batches == [count]


def test_tiles_are_restored_in_small_batches(net: IDT, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = patch_tiles(net, monkeypatch)
    net(torch.rand(1, 3, 150, 90))
    assert sum(batches) == 7 * 4 and max(batches) <= 8
    batches.clear()
    net(torch.rand(3, 3, 150, 90))
    assert sum(batches) == 3 * 7 * 4 and max(batches) <= 8


def test_pixels_of_one_tile_are_those_of_the_network(net: IDT, images: Tensor) -> None:
    with torch.no_grad():
        restored = net(images)
        corner = net(images[..., :32, :32])
    top = slice(0, 1)  # the second tile starts at row 1 or later
    torch.testing.assert_close(restored[:, :, top, :20], corner[:, :, top, :20], rtol=1e-4, atol=1e-6)


def test_gradients_of_large_images(net: IDT, images: Tensor) -> None:
    images.requires_grad_()
    net.train()(images).square().mean().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert images.grad is not None and (images.grad != 0).all()


def test_half_precision_accumulates_tiles_in_float32(net: IDT, images: Tensor) -> None:
    with torch.no_grad():
        expected = net(images)
        restored = net.bfloat16()(images.bfloat16())
    assert restored.dtype == torch.bfloat16
    torch.testing.assert_close(restored.float(), expected, rtol=0, atol=0.03)


def test_a_single_tile_can_be_exported() -> None:
    net = IDT(**SMALL).eval()
    image = torch.rand(2, 3, 32, 32)
    program = torch.export.export(net, (image,)).module()
    with torch.no_grad():
        torch.testing.assert_close(program(image), net(image))


# -- training ----------------------------------------------------------------------------------------------------------


def test_stochastic_depth_drops_residuals_per_image() -> None:
    block = randomized(WindowBlock(RelativeAttention(4, 2, 1, 8, qkv_bias=True), 4, 4, drop_path=0.25)).train()
    torch.nn.init.zeros_(block.mlp.linear2[0].weight)
    torch.nn.init.zeros_(block.mlp.linear2[0].bias)
    x = torch.rand(1, 2, 2, 4, dtype=torch.float64).expand(400, 2, 2, 4)
    residual = block.eval()(x)[0] - x[0]
    residuals = block.train()(x) - x
    kept = residuals.flatten(1).abs().amax(1) > 0
    assert 0.65 < kept.double().mean() < 0.85
    torch.testing.assert_close(residuals[kept], (residual / 0.75).expand_as(residuals[kept]))


def test_stochastic_depth_increases_up_to_the_bottleneck() -> None:
    with torch.device("meta"):
        net = IDT()
    rates = [module.drop_path for module in net.modules() if isinstance(module, WindowBlock)]
    assert len(rates) == 19 and rates[0] == rates[-1] == 0 and max(rates) == rates[10] == 0.1
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    with torch.device("meta"):
        assert not any(block.drop_path for block in IDT(drop_path_rate=0.0).modules() if isinstance(block, WindowBlock))


@pytest.mark.parametrize("img_size", [64, 128, 256])
def test_image_sizes_for_training(img_size: int) -> None:
    with torch.device("meta"):
        net = ARCHS.build({"type": "IDT", "img_size": img_size})
        assert net(torch.empty(1, 3, img_size, img_size)).shape == (1, 3, img_size, img_size)
