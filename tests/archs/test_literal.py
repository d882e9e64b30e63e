"""The direct implementations of the benchmarks have the same outputs as the networks."""

import pytest
import torch

from benchmarks.literal import LITERAL
from mcir.registry import ARCHS

SMALL = {
    "DehazeFormer": {"embed_dims": [8, 8, 12, 8, 8], "depths": [2, 2, 2, 1, 1], "num_heads": [2, 2, 2, 1, 1]},
    "FFANet": {"gps": 3, "blocks": 1},
    "IDT": {"embed_dim": 8, "img_size": 64, "depths": [1] * 9, "num_heads": [1] * 9},
    "NAFNet": {"width": 4, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]},
    "NAFNetLocal": {"width": 4, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1], "train_size": [1, 3, 16, 16]},
    "SwinIR": {"embed_dim": 12, "depths": [2], "num_heads": [2], "upscale": 2, "upsampler": "pixelshuffle"},
}


@pytest.mark.parametrize("name", sorted(LITERAL))
def test_direct_implementations_are_equal(name: str) -> None:
    torch.manual_seed(0)
    net = ARCHS.build({"type": name, **SMALL[name]}).double().eval()
    for parameter in net.parameters():  # including those that are initialized to zero
        torch.nn.init.normal_(parameter, std=0.1)
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(LITERAL[name](net)(images), net(images), rtol=1e-7, atol=1e-9)
