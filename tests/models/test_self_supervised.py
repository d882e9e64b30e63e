"""Noise2Noise and Noise2Self against the official masks and losses."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mcir.models import Noise2NoiseModel, Noise2SelfModel
from mcir.models.self_supervised import fill_masked, grid_mask
from mcir.network_spec import NetworkSpec
from mcir.registry import ARCHS

GOLDEN = np.load(Path(__file__).parents[1] / "golden/rcl/n2s.npz")
NETWORK = {"type": "NAFNet", "width": 4, "enc_blk_nums": [1], "dec_blk_nums": [1], "middle_blk_num": 1}
SECTION = {"network_g": NETWORK, "optim_g": {"type": "Adam", "lr": 1e-2}}
GRIDS = (0, 1, 2, 5)
"""Numbers of the grids in the golden file. The last one repeats the second."""


@pytest.fixture
def batch():
    return {"lq": torch.rand(2, 2, 3, 12, 16, generator=torch.Generator().manual_seed(0))}


def golden(name):
    return torch.from_numpy(np.asarray(GOLDEN[name]))


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.network.parameters()])


# -- Noise2Noise ------------------------------------------------------------------------------------------------------


def test_noise2noise_predicts_the_second_view_from_the_first(batch):
    model = Noise2NoiseModel(**SECTION)
    twin = copy.deepcopy(model.network)
    (twin(batch["lq"][:, 0]) - batch["lq"][:, 1]).square().mean().backward()
    model.training_step(batch, 1)
    for own, expected in zip(model.network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own.grad, expected.grad)


def test_the_loss_is_an_option_and_supports_accumulation(batch):
    one, parts = (
        Noise2NoiseModel(**SECTION, pixel_opt={"type": "L1Loss"}, accumulation_steps=count).training_step(batch, 1)
        for count in (1, 2)
    )
    torch.testing.assert_close(one["l_pix"], parts["l_pix"])
    assert one["l_pix"] != Noise2NoiseModel(**SECTION).training_step(batch, 1)["l_pix"]


def test_a_single_view_is_rejected(batch):
    for kind in (Noise2NoiseModel, Noise2SelfModel):
        with pytest.raises(ValueError, match=rf"{kind.__name__}: expected two noisy views.*got \(2, 3, 12, 16\)"):
            kind(**SECTION).training_step({"lq": batch["lq"][:, 0]}, 1)


def test_noise2noise_rejects_patches_at_different_positions(batch):
    pairs = {**batch, "boxes": torch.tensor([[0.0, 0, 12, 16], [4, 4, 16, 20]]).expand(2, 2, 4)}
    with pytest.raises(ValueError, match=r"at different positions .*Use NoisyObservations"):
        Noise2NoiseModel(**SECTION).training_step(pairs, 1)
    Noise2SelfModel(**SECTION).training_step(pairs, 1)


# -- Noise2Self -------------------------------------------------------------------------------------------------------


class Toy(nn.Module):
    """The network of the golden numbers."""

    def __init__(self):
        super().__init__()
        self.spec = NetworkSpec(in_channels=1)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return self.conv(x)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(ARCHS._classes, "Toy", Toy)

    def build(**changes):
        model = Noise2SelfModel(network_g={"type": "Toy"}, optim_g={"type": "SGD", "lr": 1e-30}, **changes)
        model.network.load_state_dict({"conv.weight": golden("toy_weight"), "conv.bias": golden("toy_bias")})
        return model

    return build


@pytest.mark.parametrize("width", [3, 4])
def test_masks_equal_the_official_masks(width):
    images = golden("x1")
    for number, mask in enumerate(golden(f"w{width}.mask")):
        assert torch.equal(grid_mask(images, width, number), mask.bool())
    together = sum(grid_mask(images, width, number).int() for number in range(width**2))
    assert (together == 1).all()


@pytest.mark.parametrize("fill", ["zero", "interpolate"])
@pytest.mark.parametrize("width", [3, 4])
def test_inputs_and_losses_equal_the_official_ones(toy, width, fill):
    images, model = golden("x1"), toy(mask_width=width, fill=fill)
    inputs, losses = golden(f"w{width}.{fill}.net_input_x1"), golden(f"w{width}.{fill}.loss_x1")
    for number, expected in zip((*GRIDS, len(losses) - 1), inputs, strict=True):
        torch.testing.assert_close(fill_masked(images, grid_mask(images, width, number), fill), expected)
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    seen = []
    for number, loss in enumerate(losses):
        scalars = model.training_step({"lq": images[None]}, number + 1)
        assert float(scalars["l_pix"]) == pytest.approx(float(loss), rel=1e-5)
    for number, expected in zip((*GRIDS, len(losses) - 1), inputs, strict=True):
        torch.testing.assert_close(seen[number], expected)


@pytest.mark.parametrize("fill", ["zero", "interpolate"])
def test_channels_are_interpolated_independently(fill):
    images = golden("x3")
    for number, expected in enumerate(golden(f"w4.{fill}.net_input_x3")):
        torch.testing.assert_close(fill_masked(images, grid_mask(images, 4, number), fill), expected)


@pytest.mark.parametrize("fill", ["zero", "interpolate"])
@pytest.mark.parametrize("width", [3, 4])
def test_j_invariant_restoration_equals_the_official_one(toy, width, fill):
    blind = toy(mask_width=width, fill=fill, j_invariant=True)
    torch.testing.assert_close(blind.restore(golden("x1")), golden(f"w{width}.{fill}.infer_full_x1"))
    plain = toy(mask_width=width, fill=fill)
    assert torch.equal(plain.restore(golden("x1")), plain.network(golden("x1")))


@pytest.mark.parametrize("fill", ["zero", "interpolate"])
def test_a_j_invariant_output_pixel_does_not_depend_on_its_input_pixel(batch, fill):
    model = Noise2SelfModel(**SECTION, fill=fill, j_invariant=True)
    image = batch["lq"][:1, 0]
    before = model.restore(image)
    image[:, :, 5, 7] += 0.5
    after = model.restore(image)
    assert torch.equal(after[:, :, 5, 7], before[:, :, 5, 7])
    assert not torch.equal(after[:, :, 5, 6], before[:, :, 5, 6])


def test_a_resumed_run_continues_bit_for_bit(batch):
    through, first, second = (Noise2SelfModel(**SECTION, seed=seed) for seed in (0, 0, 3))
    for iteration in (1, 2, 3, 4):
        through.training_step(batch, iteration)
    for iteration in (1, 2):
        first.training_step(batch, iteration)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for iteration in (3, 4):
        second.training_step(batch, iteration)
    assert torch.equal(weights(through), weights(second))


def test_both_views_are_used_and_parts_of_a_batch_share_the_mask(batch):
    whole, parts = Noise2SelfModel(**SECTION), Noise2SelfModel(**SECTION, accumulation_steps=2)
    losses = [model.training_step(batch, 7)["l_pix"] for model in (whole, parts)]
    torch.testing.assert_close(losses[0], losses[1])
    views = [Noise2SelfModel(**SECTION).training_step({"lq": batch["lq"][:, [view, view]]}, 7) for view in (0, 1)]
    torch.testing.assert_close(losses[0], (views[0]["l_pix"] + views[1]["l_pix"]) / 2)


def test_invalid_arguments_are_rejected():
    with pytest.raises(ValueError, match="mask_width: expected an integer from 2 to 64"):
        Noise2SelfModel(**SECTION, mask_width=1)
    with pytest.raises(ValueError, match="fill: expected one of 'interpolate', 'zero', got 'mean'"):
        Noise2SelfModel(**SECTION, fill="mean")
