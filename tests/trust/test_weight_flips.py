"""Flipped bits in weight files: a file is read as it was written, or it is rejected by name."""

import random

import pytest
import torch

from mcir.engine.checkpoint import NetworkFile, write_network
from mcir.registry import ARCHS
from mcir.weights import WeightsError, read_weights
from tests.trust.campaign import Campaign

SECTION = {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2, "res_scale": 0.1}


def content_of(file):
    weights = read_weights(file)
    tensors = {key: (value.dtype, value.shape, value.numpy().tobytes()) for key, value in weights.tensors.items()}
    return tensors, weights.key, weights.section


def flip_bits(file, count, seed):
    """Flip one bit at a time; a file that is read must have the same weights, key and metadata."""
    expected, original = content_of(file), file.read_bytes()
    draw, campaign = random.Random(seed), Campaign(f"bit flips, {file.suffix}", seed)
    for position in draw.sample(range(8 * len(original)), count):
        damaged = bytearray(original)
        damaged[position // 8] ^= 1 << position % 8
        file.write_bytes(damaged)

        def read():
            try:
                return content_of(file) == expected
            except WeightsError as error:
                assert str(file) in str(error)
                raise

        campaign.attempt(f"bit {position % 8} of byte {position // 8}", read)
    campaign.finish()


@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_flipped_bit_never_changes_weights_silently(tmp_path, suffix, count):
    network = ARCHS.build(SECTION)
    weights = {"params": network.state_dict(), "params_ema": {k: 2 * v for k, v in network.state_dict().items()}}
    write_network(tmp_path / "net", NetworkFile(weights, "EDSR", network.hyperparameters), 1)
    flip_bits(tmp_path / f"net{suffix}", count, seed=13)


def test_a_flipped_bit_in_a_foreign_pth_file_is_found(tmp_path):
    torch.save({"state_dict": ARCHS.build(SECTION).state_dict(), "epoch": 3}, tmp_path / "net.pth")
    flip_bits(tmp_path / "net.pth", 100, seed=14)
