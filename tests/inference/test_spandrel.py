"""spandrel loads checkpoints of mcir without conversion, and restores the same images."""

import pytest
import torch

from mcir.engine.checkpoint import NetworkFile, write_network
from mcir.inference.export import export
from mcir.registry import ARCHS
from mcir.weights import load_network

spandrel = pytest.importorskip("spandrel", reason="spandrel is not installed")

SWINIR = {
    "type": "SwinIR",
    "img_size": 16,
    "embed_dim": 12,
    "depths": [2, 2],
    "num_heads": [2, 3],
    "window_size": 8,
    "mlp_ratio": 2,
}
NAFNET = {"width": 4, "middle_blk_num": 1, "enc_blk_nums": [1, 2], "dec_blk_nums": [1, 1]}
NETWORKS = {
    "SwinIR ×4": {**SWINIR, "upscale": 4, "upsampler": "pixelshuffle"},
    "SwinIR light ×2": {**SWINIR, "upscale": 2, "upsampler": "pixelshuffledirect"},
    "SwinIR real-world ×4": {**SWINIR, "upscale": 4, "upsampler": "nearest+conv", "resi_connection": "3conv"},
    "SwinIR denoising": SWINIR,
    "SwinIR grey JPEG": {**SWINIR, "img_size": 14, "window_size": 7, "img_range": 255.0, "in_chans": 1},
    "NAFNet": {"type": "NAFNet", **NAFNET},
    "NAFNetLocal": {"type": "NAFNetLocal", **NAFNET, "train_size": [1, 3, 32, 32]},  # an image within its windows
}


@pytest.fixture(params=NETWORKS)
def checkpoint(request, tmp_path):
    """Write the files of a training: weights, their moving average, and the metadata of the network."""
    torch.manual_seed(0)
    network, other = ARCHS.build(NETWORKS[request.param]), ARCHS.build(NETWORKS[request.param])
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    weights = {"params": other.state_dict(), "params_ema": network.state_dict()}
    write_network(tmp_path / "net", NetworkFile(weights, network.registered_as, network.hyperparameters), 1)
    return tmp_path / "net.pth"


def test_a_checkpoint_restores_the_same_in_spandrel(checkpoint, tmp_path):
    assert {"architecture", "hyperparameters"} <= torch.load(checkpoint, weights_only=True).keys()
    network = load_network(checkpoint)
    export(checkpoint, ["safetensors"], output=tmp_path / "exported.safetensors")
    for file in (checkpoint, checkpoint.with_suffix(".safetensors"), tmp_path / "exported.safetensors"):
        loaded = spandrel.ModelLoader().load_from_file(file)
        assert loaded.architecture.id == type(network).__name__.removesuffix("Local")
        assert (loaded.scale, loaded.input_channels) == (network.scale, network.in_channels)
        for height, width in ((32, 48), (29, 41)):
            image = torch.rand(1, network.in_channels, height, width)
            with torch.no_grad():
                expected = network(image).clamp(0, 1)
                assert expected.std() > 1e-3
                torch.testing.assert_close(loaded(image), expected, rtol=0, atol=1e-5)
