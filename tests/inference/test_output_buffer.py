"""Channels are adapted to the network, integers keep their precision, and alpha channels are enlarged."""

import numpy as np
import pytest
import torch

from mcir.data.resize import imresize
from mcir.inference.images import Picture
from mcir.inference.restorer import Restorer
from tests.inference.samples import Enlarge, edsr, grey_edsr, picture, run_network


def test_grey_image_through_a_colour_network():
    net, source = edsr(), picture(20, 71, channels=1)
    (made,) = Restorer(net, tile=48, overlap=24).pictures([source])
    grey = torch.from_numpy(source.pixels).permute(2, 0, 1)[None].float() / 255
    expected = run_network(net, grey.expand(-1, 3, -1, -1)).mean(1)[0].numpy() * 255
    assert made.pixels.shape == (40, 142, 1)
    assert np.abs(made.pixels[..., 0] - expected).max() <= 0.5 + 5e-3


def test_colour_image_through_a_grey_network():
    net, source = grey_edsr(), picture(20, 31)
    (made,) = Restorer(net).pictures([source])
    for channel in range(3):
        (alone,) = Restorer(net).pictures([Picture(source.pixels[:, :, channel : channel + 1])])
        assert np.abs(made.pixels[:, :, channel].astype(int) - alone.pixels[:, :, 0]).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (9, 700)])
def test_alpha_is_enlarged_by_bicubic_interpolation(dtype, size):
    source = picture(*size, dtype=dtype, alpha=True)
    (made,) = Restorer(Enlarge(3)).pictures([source])
    top = np.iinfo(dtype).max
    expected = imresize(torch.from_numpy(source.alpha.astype(np.float64)), 3).clamp(0, top).round().numpy()
    assert np.array_equal(made.alpha, expected.astype(dtype))


def test_every_16_bit_value_is_kept():
    source = Picture(np.arange(65536, dtype=np.uint16).reshape(256, 256, 1))
    (made,) = Restorer(Enlarge(), tile=100).pictures([source])  # the mean of three channels
    assert np.array_equal(made.pixels, source.pixels)
