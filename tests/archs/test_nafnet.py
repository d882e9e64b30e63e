from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mcir.archs import NAFNet, NAFNetLocal
from mcir.archs.nafnet import LayerNorm2d, Mean2d, NAFBlock, expand_means
from mcir.archs.network import Network
from mcir.registry import ARCHS
from tests.archs.contract import ArchitectureContract

SMALL: dict[str, Any] = {"width": 4, "middle_blk_num": 1, "enc_blk_nums": [1, 2], "dec_blk_nums": [1, 1]}
GOPRO: dict[str, Any] = {"middle_blk_num": 1, "enc_blk_nums": [1, 1, 1, 28], "dec_blk_nums": [1, 1, 1, 1]}
SIDD: dict[str, Any] = {"middle_blk_num": 12, "enc_blk_nums": [2, 2, 4, 8], "dec_blk_nums": [2, 2, 2, 2]}


def with_active_blocks(net: Network) -> Network:
    """Set beta and gamma to random values. They are initialized to zero, so other parameters would get no gradient."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith(("beta", "gamma")):
                parameter.uniform_(0.5, 1)
    return net


class TestContract(ArchitectureContract):
    section: ClassVar = {"type": "NAFNet", **SMALL}

    @pytest.fixture
    def net(self) -> Network:
        torch.manual_seed(0)
        return with_active_blocks(ARCHS.build(self.section))


class TestContractOfGray(TestContract):
    section: ClassVar = {"type": "NAFNet", **SMALL, "img_channel": 1, "enc_blk_nums": [1], "dec_blk_nums": [0]}
    channels = 1


class TestContractOfLocal(TestContract):
    """The windows of 9, 4 and 2 pixels are smaller than some of the contract's images and larger than others."""

    section: ClassVar = {"type": "NAFNetLocal", **SMALL, "train_size": [1, 3, 6, 6]}
    detected_as = "NAFNet"


# -- the parts --------------------------------------------------------------------------------------------------------


def plain_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).square().mean(1, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt() * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


def test_normalizes_over_the_channels_of_each_pixel() -> None:
    torch.manual_seed(0)
    norm = LayerNorm2d(5).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = 1e-3 * torch.randn(2, 5, 3, 4, dtype=torch.float64)  # small values, for which eps matters
    torch.testing.assert_close(norm(x), plain_norm(x, norm.weight, norm.bias), rtol=0, atol=1e-12)


def plain_local_mean(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Compute the means of all windows inside the feature map in a loop, and repeat them at the border."""
    height, width = x.shape[2:]
    rows, columns = min(window[0], height), min(window[1], width)
    means = torch.empty(*x.shape[:2], height - rows + 1, width - columns + 1, dtype=x.dtype)
    for top in range(means.shape[2]):
        for left in range(means.shape[3]):
            means[:, :, top, left] = x[:, :, top : top + rows, left : left + columns].mean((2, 3))
    output = torch.empty_like(x)
    for row in range(height):
        for column in range(width):
            top = min(max(row - (rows - 1) // 2, 0), height - rows)
            left = min(max(column - (columns - 1) // 2, 0), width - columns)
            output[:, :, row, column] = means[:, :, top, left]
    return output


@pytest.mark.parametrize("window", [(1, 1), (2, 3), (3, 2), (4, 20), (20, 4), (5, 6), (6, 7), (7, 9), (30, 30)])
def test_local_means_equal_a_loop(window: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    means = expand_means(Mean2d(window)(x), 7, 9).expand_as(x)
    torch.testing.assert_close(means, plain_local_mean(x, window), rtol=0, atol=1e-13)
    channels_last = Mean2d(window)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(expand_means(channels_last, 7, 9).expand_as(x), means, rtol=0, atol=1e-13)


def test_gradients_of_local_means() -> None:
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: expand_means(Mean2d((2, 3))(x), 4, 5), x)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 3e-6), (torch.bfloat16, 4e-3)])
def test_local_means_of_large_maps_are_precise(dtype: torch.dtype, error: float) -> None:
    """With cumulative sums over rectangles, the error would be 4e-5 in float32."""
    x = torch.rand(1, 2, 600, 900, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = Mean2d((48, 32))(x.double())
    assert ((Mean2d((48, 32))(x) - exact).abs() / exact).max() < error


def test_block_equals_its_equations() -> None:
    torch.manual_seed(0)
    block = NAFBlock(3).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    x, p = torch.randn(2, 3, 4, 5, dtype=torch.float64), dict(block.named_parameters())

    def pointwise(x: Tensor, key: str) -> Tensor:
        mixed = torch.einsum("bchw,dc->bdhw", x, p[f"{key}.weight"].flatten(1))
        return mixed + p[f"{key}.bias"].view(1, -1, 1, 1)

    wide = pointwise(plain_norm(x, p["norm1.weight"], p["norm1.bias"]), "conv1")
    padded = F.pad(wide, (1, 1, 1, 1))
    depthwise = p["conv2.bias"].view(1, -1, 1, 1) + sum(
        p["conv2.weight"][:, 0, row, column].view(1, -1, 1, 1) * padded[:, :, row : row + 4, column : column + 5]
        for row in range(3)
        for column in range(3)
    )
    gated = depthwise[:, :3] * depthwise[:, 3:]
    gated = gated * pointwise(gated.mean((2, 3), keepdim=True), "sca.1")
    y = x + p["beta"] * pointwise(gated, "conv3")
    wide = pointwise(plain_norm(y, p["norm2.weight"], p["norm2.bias"]), "conv4")
    expected = y + p["gamma"] * pointwise(wide[:, :3] * wide[:, 3:], "conv5")
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


# -- the networks -----------------------------------------------------------------------------------------------------


def test_an_initialized_block_is_the_identity() -> None:
    x = torch.rand(1, 4, 5, 6)
    assert torch.equal(NAFBlock(4)(x), x)


def test_has_a_global_residual_connection() -> None:
    net = NAFNet(**SMALL)
    torch.nn.init.zeros_(net.ending.weight)
    torch.nn.init.zeros_(net.ending.bias)
    images = torch.rand(1, 3, 5, 7)
    assert torch.equal(net(images), images)


@pytest.mark.parametrize(
    ("train_size", "blocks", "windows"),
    [
        ([1, 3, 256, 256], GOPRO, [(384, 384), (192, 192), (96, 96), (48, 48), (24, 24)]),
        ([1, 3, 32, 32], SIDD, [(48, 48), (24, 24), (12, 12), (6, 6), (3, 3)]),
        ([8, 3, 64, 128], GOPRO, [(96, 192), (48, 96), (24, 48), (12, 24), (6, 12)]),
        ([1, 3, 33, 31], SMALL, [(53, 47), (26, 23), (13, 11)]),  # 33 is padded to 36, and 31 to 32
    ],
)
def test_windows_follow_from_the_training_size(train_size: list[int], blocks: Any, windows: Any) -> None:
    """A window is the size of a padded training patch on its level, times the ratio of window to patch."""
    with torch.device("meta"):
        net = NAFNetLocal(**{"width": 2, **blocks}, train_size=train_size)
    stages = [[*stage.children()] for stage in (*net.encoders, net.middle_blks)]
    for level, window in enumerate(windows):
        assert all(block.sca[0].window == window for block in stages[level])
        if level < len(net.decoders):
            assert all(block.sca[0].window == window for block in net.decoders[-1 - level].children())


@pytest.mark.parametrize(("size", "equal"), [((24, 24), True), ((7, 13), True), ((24, 28), False), ((28, 4), False)])
def test_local_equals_global_on_images_within_the_window(size: tuple[int, int], equal: bool) -> None:
    torch.manual_seed(0)
    net, local = with_active_blocks(NAFNet(**SMALL)), NAFNetLocal(**SMALL, train_size=[1, 3, 16, 16])
    local.load_state_dict(net.state_dict(), strict=True)
    images = torch.rand(2, 3, *size)
    with torch.no_grad():
        assert torch.allclose(local(images), net(images), rtol=1e-5, atol=1e-6) == equal


def test_local_can_be_exported_for_any_size() -> None:
    """One program is valid for feature maps that are smaller than the window, or larger in one or both directions."""
    torch.manual_seed(0)
    net = with_active_blocks(NAFNetLocal(**SMALL, train_size=[1, 3, 16, 16])).eval()
    height, width = (torch.export.Dim(name, min=2, max=64) for name in ("height", "width"))
    dynamic = {2: 4 * height, 3: 4 * width}
    program = torch.export.export(net, (torch.rand(1, 3, 40, 44),), dynamic_shapes=(dynamic,)).module()
    for size in ((8, 8), (8, 40), (24, 24), (28, 24), (60, 64)):
        images = torch.rand(1, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(program(images), net(images), rtol=1e-4, atol=1e-5)
