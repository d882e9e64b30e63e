"""The spec of a network, and what is measured without one."""

import pytest
import torch
from torch import nn

from mcir.archs import EDSR
from mcir.inference import Restorer
from mcir.network_spec import NetworkSpec, measured_spec


def enlarging(scale, channels=3):
    return nn.Sequential(nn.Conv2d(channels, channels * scale**2, 3, padding=1), nn.PixelShuffle(scale))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_channels_and_scale_are_measured(scale, channels):
    network = enlarging(scale, channels).train()
    assert measured_spec(network) == NetworkSpec(in_channels=channels, scale=scale)
    assert network.training and all(parameter.grad is None for parameter in network.parameters())


def test_the_first_convolution_may_see_other_channels_than_the_image():
    network = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 12, 3, padding=1), nn.PixelShuffle(2))
    assert measured_spec(network) == NetworkSpec()


def test_a_stated_spec_is_not_measured():
    network = EDSR(num_feat=4, num_block=1, upscale=2)
    assert measured_spec(network) is network.spec


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (nn.Conv2d(3, 3, 3), r"the output has the shape \(1, 3, 62, 62\)"),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten()), "the output has the shape"),
        (nn.Linear(7, 7), "mat1 and mat2"),
    ],
)
def test_other_networks_are_an_error_that_names_the_attribute(network, reason):
    with pytest.raises(ValueError, match=f"(?s){reason}.*'spec'"):
        measured_spec(network)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_plain_module_that_enlarges_restores_images(channels):
    network, image = enlarging(2, channels), torch.rand(channels, 20, 30)
    with torch.no_grad():
        expected = network(image[None])[0].clamp(0, 1)
    assert torch.allclose(Restorer(network).tensor(image), expected, atol=1e-6)
