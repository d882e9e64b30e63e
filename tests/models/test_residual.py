"""Residual contrastive pre-training: golden steps, several processes, invalid options."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mcir.engine.dry_run import step_cost
from mcir.registry import ARCHS, MODELS
from tests.golden.deterministic import deterministic_state_dict
from tests.models.conftest import in_two_processes

GOLDEN = np.load(Path(__file__).parents[1] / "golden/rcl/rcl_step.npz")
PATCHES = torch.stack(
    [
        torch.stack([image[:, top : top + 32, left : left + 32] for top, left in corners])
        for image, corners in zip(torch.from_numpy(GOLDEN["noisy_images"]), GOLDEN["patch_topleft"], strict=True)
    ]
)
NETWORK = {"type": "NAFNet", "width": 4, "enc_blk_nums": [1], "dec_blk_nums": [1], "middle_blk_num": 1}
SMALL = {"type": "ConsistencyLoss", "network": "resnet18", "weights": "random", "layer_weights": {"relu": 1.0}}
SECTION = {
    "type": "ResidualContrastiveModel",
    "network_g": NETWORK,
    "optim_g": {"type": "Adam", "lr": 1e-3, "eps": 1e-7},
    "contrastive_opt": {"type": "ResidualContrastiveLoss", "temperature": 0.1, "residual_scale": 1.0},
    "consistency_opt": SMALL,
}


class TwoConvolutions(nn.Module):
    """The network of the golden step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        return self.conv2(torch.relu(self.conv1(x)))


NAMES = {"conv1.weight": "w1", "conv1.bias": "b1", "conv2.weight": "w2", "conv2.bias": "b2"}


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory):
    import torchvision

    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in torchvision.models.resnet50().state_dict().items()}
    file = tmp_path_factory.mktemp("resnet") / "resnet50.pth"
    needed = {key: shape for key, shape in shapes.items() if key.startswith(("conv1", "bn1", "layer1"))}
    torch.save(deterministic_state_dict(needed), file)
    return file


@pytest.fixture
def golden_model(resnet_file, monkeypatch):
    monkeypatch.setitem(ARCHS._classes, "TwoConvolutions", TwoConvolutions)
    model = MODELS.build(
        {
            **SECTION,
            "network_g": {"type": "TwoConvolutions"},
            "consistency_opt": {"type": "ConsistencyLoss", "weights": str(resnet_file)},
        }
    )
    model.parts.double()
    for name, values in {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}.items():
        constant = getattr(model.criteria["l_consist"].features.network, name)  # float64 in the golden run
        constant.copy_(torch.tensor(values, dtype=torch.float64).view_as(constant))
    model.network.load_state_dict({key: torch.from_numpy(GOLDEN[name]) for key, name in NAMES.items()})
    return model


def exactly(value, name):
    torch.testing.assert_close(value, torch.as_tensor(GOLDEN[name]), rtol=1e-9, atol=1e-12)


def test_three_steps_equal_the_golden_steps(golden_model):
    model = golden_model
    batch = {"lq": PATCHES}
    with torch.no_grad():
        residuals = PATCHES - model.network(PATCHES.flatten(0, 1)).view_as(PATCHES)
        exactly(model.criteria["l_contrast"].contrast.residual_distance(residuals[:, 0], residuals[:, 1]), "D")
    totals = []
    for iteration in (1, 2, 3):
        scalars = model.training_step(batch, iteration)
        totals.append(scalars["l_contrast"] + scalars["l_consist"])
        if iteration == 1:
            exactly(scalars["l_contrast"] / 1e-3, "loss_contrast_sum")
            exactly(scalars["l_consist"], "loss_consistency_layer1_mse")
            exactly(totals[0], "loss_total")
            for key, parameter in model.network.named_parameters():
                exactly(parameter.grad, f"grad_{NAMES[key]}")
                exactly(parameter.detach(), f"{NAMES[key]}_after_1_step")
    exactly(torch.stack(totals), "loss_total_steps")
    for key, parameter in model.network.named_parameters():
        exactly(parameter.detach(), f"{NAMES[key]}_after_3_steps")
    exactly(sum(model.losses(model.network(model.inputs(batch)), batch).values()).detach(), "loss_total_after_3")


def test_the_gradient_of_the_contrastive_loss_equals_the_golden_one(golden_model):
    golden_model.criteria["l_consist"].loss_weight = 0.0
    golden_model.training_step({"lq": PATCHES}, 1)
    for key, parameter in golden_model.network.named_parameters():
        exactly(parameter.grad / 1e-3, f"grad_contrast_only_{NAMES[key]}")


# -- the step ---------------------------------------------------------------------------------------------------------


def build(**changes):
    return MODELS.build({**SECTION, **changes})


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    strength = torch.linspace(0.01, 0.1, 4).view(4, 1, 1, 1, 1)
    return {"lq": 0.5 + strength * torch.randn(4, 2, 3, 16, 16, generator=generator)}


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.network.parameters()])


def test_all_patches_pass_through_the_network_together(batch, monkeypatch):
    model, seen = build(), {}
    model.network.register_forward_pre_hook(lambda _, inputs: seen.update(network=inputs[0]))
    contrast = model.criteria["l_contrast"].contrast
    contrast.register_forward_pre_hook(lambda _, inputs: seen.update(residuals=inputs))
    model.training_step(batch, 1)
    assert torch.equal(seen["network"], batch["lq"].flatten(0, 1))
    before = build()
    with torch.no_grad():
        for view, residual in enumerate(seen["residuals"]):
            torch.testing.assert_close(residual, batch["lq"][:, view] - before.network(batch["lq"][:, view]))


def test_images_are_identified_by_their_path(batch):
    def contrast(*paths):
        return build().training_step({**batch, "lq_path": list(paths)}, 1)["l_contrast"]

    alone = build().training_step(batch, 1)["l_contrast"]
    assert torch.equal(contrast("a", "b", "c", "d"), alone)
    twice = contrast("a", "b", "a", "d")
    assert 0 < twice < alone and torch.equal(contrast("é", "b", "é", "d\udcff"), twice)
    assert contrast("a", "a", "a", "a") == 0


def test_the_consistency_loss_supports_accumulation(batch):
    whole, parts = (build(contrastive_opt=None, accumulation_steps=count).training_step(batch, 1) for count in (1, 2))
    torch.testing.assert_close(parts["l_consist"], whole["l_consist"])
    torch.testing.assert_close(parts["grad_norm"], whole["grad_norm"])


def test_another_contrastive_loss_gets_no_image_ids(batch):
    scalars = build(contrastive_opt={"type": "L1Loss"}).training_step({**batch, "lq_path": ["a", "b", "a", "d"]}, 1)
    assert scalars["l_contrast"] > 0


def test_an_example_batch_works_on_the_meta_device():
    with torch.device("meta"):
        model = build(consistency_opt=None)
        losses = model.compute_losses(model.example_batch(4, (16, 16)))
    assert losses["l_contrast"].is_meta and losses["l_contrast"].shape == ()


def test_each_loss_can_be_used_alone(batch):
    both = build().training_step(batch, 1)
    assert {"l_contrast", "l_consist"} <= both.keys()
    for left_out, other in (("contrastive_opt", "l_consist"), ("consistency_opt", "l_contrast")):
        alone = build(**{left_out: None}).training_step(batch, 1)
        assert torch.equal(alone[other], both[other])
        assert not {"l_contrast", "l_consist"} <= alone.keys()
    with pytest.raises(ValueError, match=r"requires 'train.contrastive_opt' or 'train.consistency_opt'"):
        build(contrastive_opt=None, consistency_opt=None).require_trainable()


def test_gradients_of_the_losses_can_be_logged(batch):
    model = build()
    model.watch_gradients = True
    scalars = model.training_step(batch, 1)
    assert scalars["ratio_l_consist"] == scalars["grad_l_consist"] / scalars["grad_l_contrast"]
    assert -1 <= scalars["cosine_l_consist"] <= 1


def test_a_resumed_run_continues_bit_for_bit(batch):
    section = {"ema_decay": 0.9}
    through, first, second = build(**section), build(**section), build(**section, seed=3)
    for iteration in (1, 2, 3, 4):
        through.training_step(batch, iteration)
    for iteration in (1, 2):
        first.training_step(batch, iteration)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for iteration in (3, 4):
        second.training_step(batch, iteration)
    assert torch.equal(weights(through), weights(second))


def test_bf16_is_close(batch):
    exact, rough = build().training_step(batch, 1), build(precision="bf16").training_step(batch, 1)
    assert rough["l_contrast"].dtype == torch.float32 and rough["l_contrast"] != exact["l_contrast"]
    torch.testing.assert_close(rough["l_contrast"], exact["l_contrast"], rtol=0.02, atol=0)
    torch.testing.assert_close(rough["l_consist"], exact["l_consist"], rtol=0.05, atol=0)


def test_invalid_options_are_rejected(batch):
    with pytest.raises(ValueError, match="accumulation_steps: expected 1, got 2"):
        build(accumulation_steps=2)
    with pytest.raises(ValueError, match="expects a network with scale 1, got 2"):
        build(network_g={"type": "UNet", "num_feat": 2, "scale": 2})
    with pytest.raises(ValueError, match=r"got \(4, 3, 16, 16\). Use NoisyPatchPairs"):
        build().training_step({"lq": batch["lq"][:, 0]}, 1)


def test_the_estimated_cost_is_that_of_all_patches():
    from torch.utils.flop_counter import FlopCounterMode

    cost, model = step_cost(SECTION, 4, (16, 16), (16, 16)), build()
    with FlopCounterMode(display=False) as counter:
        model.training_step({"lq": torch.rand(4, 2, 3, 16, 16)}, 1)
    assert cost.flops == counter.get_total_flops() > 0


# -- several processes ------------------------------------------------------------------------------------------------

WORK = """
import sys
import torch
from mcir.config.options import DistOptions
from mcir.engine.distributed import init_distributed
from tests.models.test_residual import build, weights

torch.set_num_threads(1)
patches = torch.load(sys.argv[1] + "/patches.pt", weights_only=True)
with init_distributed(0, DistOptions(timeout_minutes=1)) as process:
    model = build()
    model.parallelize(process)
    share = len(patches) // process.world_size
    mine = patches[process.rank * share :][:share]
    scalars = [model.training_step({"lq": mine}, iteration) for iteration in (1, 2)]
    torch.save([scalars, weights(model)], f"{sys.argv[1]}/{process.rank}.pt")
"""


def test_two_processes_equal_one_with_the_whole_batch(tmp_path, batch):
    torch.save(batch["lq"], tmp_path / "patches.pt")
    in_two_processes(WORK, tmp_path)
    whole = build()
    scalars = [whole.training_step(batch, iteration) for iteration in (1, 2)]
    shares = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for _, after in shares:
        torch.testing.assert_close(after, weights(whole), rtol=1e-5, atol=1e-7)
    for iteration in (0, 1):
        for name in ("l_contrast", "l_consist"):
            mean = sum(share[0][iteration][name] for share in shares) / 2
            torch.testing.assert_close(mean, scalars[iteration][name], rtol=1e-5, atol=0)
