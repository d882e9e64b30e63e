"""Code that all architectures share: padding, stochastic depth, blocks, and the spec."""

import numpy as np
import pytest
import torch
from torch import nn

from mcir.archs import network
from mcir.archs.network import Blocks, Network, pad, stochastic_depth
from mcir.network_spec import NetworkSpec, Padding, derived_buffer_names, spec_of


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (2, 3), (4, 8), (5, 2), (7, 7), (11, 12), (12, 16)])
@pytest.mark.parametrize(("multiple", "minimum"), [(1, 1), (4, 1), (4, 10), (8, 8), (1, 13)])
def test_padding_equals_numpy(height: int, width: int, multiple: int, minimum: int) -> None:
    image = torch.rand(2, 3, height, width)
    for padding, mode in (("reflect", "reflect"), ("zeros", "constant")):
        padded = pad(image, multiple, minimum, padding)
        bottom, right = padded.shape[2] - height, padded.shape[3] - width
        assert np.array_equal(padded.numpy(), np.pad(image, ((0, 0), (0, 0), (0, bottom), (0, right)), mode))
        for side, original in zip(padded.shape[2:], (height, width), strict=True):
            assert side % multiple == 0 and side >= max(original, minimum)
            assert side - multiple < max(original, minimum)  # not more than necessary


@pytest.mark.parametrize("padding", ["reflect", "zeros"])
@pytest.mark.parametrize(("multiple", "minimum"), [(1, 1), (2, 1), (4, 10), (8, 8), (1, 13)])
def test_padding_of_exported_programs_is_the_same(
    monkeypatch: pytest.MonkeyPatch, multiple: int, minimum: int, padding: Padding
) -> None:
    for height, width in ((1, 1), (1, 9), (2, 3), (5, 8), (12, 16)):
        image = torch.rand(2, 3, height, width)
        expected = pad(image, multiple, minimum, padding)
        with monkeypatch.context() as traced:
            traced.setattr(network, "is_exporting", lambda: True)
            assert torch.equal(pad(image, multiple, minimum, padding), expected)


def test_images_that_need_no_padding_are_not_copied() -> None:
    image = torch.rand(1, 3, 8, 16)
    assert pad(image, 8, 8) is image
    assert pad(image, 8, 8, "zeros") is image


def test_a_network_pads_restores_and_crops() -> None:
    class Doubling(Network):
        def __init__(self) -> None:
            super().__init__(NetworkSpec(in_channels=1, scale=2, size_multiple=4, min_size=8))

        def restore(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[2:] == (8, 12)
            return nn.functional.interpolate(x, scale_factor=2, mode="nearest")

    image = torch.rand(1, 1, 5, 9)
    assert torch.equal(Doubling()(image), nn.functional.interpolate(image, scale_factor=2, mode="nearest"))


def test_residuals_are_dropped_per_image_and_only_in_training() -> None:
    branch = torch.ones(4000, 2, 3)
    torch.manual_seed(0)
    output = stochastic_depth(branch, 0.25, training=True)
    assert output.flatten(1).unique(dim=0).tolist() == [[0.0] * 6, [pytest.approx(4 / 3)] * 6]
    assert float(output.mean()) == pytest.approx(1.0, abs=0.05)
    assert stochastic_depth(branch, 0.25, training=False) is branch
    assert stochastic_depth(branch, 0.0, training=True) is branch


def test_blocks_run_in_sequence() -> None:
    blocks = Blocks([nn.Linear(2, 3), nn.Linear(3, 4)])
    assert list(blocks.state_dict()) == ["blocks.0.weight", "blocks.0.bias", "blocks.1.weight", "blocks.1.bias"]
    assert blocks(torch.rand(5, 2)).shape == (5, 4)


def test_the_spec_is_read_from_any_module() -> None:
    net = nn.Linear(1, 1)
    assert spec_of(net) is None
    net.spec = nn.Identity()  # a submodule of that name
    assert spec_of(net) is None
    net = nn.Linear(1, 1)
    net.spec = NetworkSpec(scale=2, size_multiple=8, derived_buffers=("mask",))  # type: ignore[assignment]
    spec = spec_of(net)
    assert spec is not None and (spec.scale, spec.shift_period) == (2, 8)
    assert spec_of(torch.compile(net)) is spec  # type: ignore[arg-type]
    assert derived_buffer_names(nn.Sequential(nn.ReLU(), net)) == {"mask"}
    with pytest.raises(AttributeError):
        Network().scale = 2  # type: ignore[misc]
