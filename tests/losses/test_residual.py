"""The losses of RCL compared with golden numbers and formulas, in one process and in two."""

import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mcir.errors import RegistryError
from mcir.losses import ConsistencyLoss, ResidualContrastiveLoss
from mcir.registry import LOSSES
from tests.golden.deterministic import deterministic_state_dict

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "rcl"
DISTANCES = {
    "emd_pooled": {"type": "EarthMoversDistance"},
    "emd_channel_mean": {"type": "EarthMoversDistance", "channels": "separate"},
    "bd_gauss_pooled": {"type": "BhattacharyyaDistance", "eps": 1e-18},
    "mmd2_biased_pooled_mix": {"type": "MaximumMeanDiscrepancy"},
}


PLAIN = {"temperature": 0.1, "residual_scale": 1.0}  # as in the golden numbers


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def residuals(count, dtype=torch.float64):
    """Return noise with a different standard deviation for each image, in two patches."""
    generator = torch.Generator().manual_seed(0)
    spread = 0.02 + 0.06 * torch.rand(count, 1, 1, 1, generator=generator, dtype=torch.float64)
    return [(spread * torch.randn(count, 3, 6, 5, generator=generator).double()).to(dtype) for _ in range(2)]


# -- contrast ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", DISTANCES)
def test_values_and_gradients_equal_the_golden_ones(distance):
    facts = golden("infonce")
    for temperature in facts["taus"].tolist():
        for reduction in ("sum", "mean"):
            loss = ResidualContrastiveLoss(
                distance=DISTANCES[distance],
                temperature=temperature,
                residual_scale=1.0,
                reduction=reduction,
                loss_weight=1.0,
            )
            expected = facts[f"{distance}.loss_{reduction}.tau{temperature}"].item()
            assert loss(facts["q"], facts["k"]).item() == pytest.approx(expected, rel=1e-12)
            assert loss(facts["q"].float(), facts["k"].float()).item() == pytest.approx(expected, rel=1e-6)
    anchors, keys = (facts[name].clone().requires_grad_() for name in ("q", "k"))
    loss = ResidualContrastiveLoss(distance=DISTANCES[distance], **PLAIN, loss_weight=1 / 3)
    (3 * loss(anchors, keys)).backward()
    for name, found in (("q", anchors.grad), ("k", keys.grad)):
        reference = facts[f"{distance}.grad_{name}.tau0.1"]
        assert (found.flatten()[::5] - reference).abs().max() < 1e-11 * reference.abs().max()


def test_residuals_in_8_bit_units():
    facts = golden("infonce")
    loss = ResidualContrastiveLoss(residual_scale=255.0, temperature=0.1, loss_weight=1.0)
    expected = facts["emd_pooled.loss_sum.tau0.1.scale255"].item()
    assert loss(facts["q"], facts["k"]).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["BhattacharyyaDistance", "MaximumMeanDiscrepancy"])
def test_the_scale_of_residuals_matters_for_emd_alone(kind):
    anchors, keys = residuals(4)
    keys[0] = 0.01  # a constant residual, whose variance is the added one
    in_units = [ResidualContrastiveLoss(distance={"type": kind}, residual_scale=s)(anchors, keys) for s in (1.0, 255.0)]
    assert in_units[0].item() == pytest.approx(in_units[1].item(), rel=1e-9)
    emd = [ResidualContrastiveLoss(residual_scale=scale)(anchors, keys).item() for scale in (1.0, 255.0)]
    assert emd[0] != pytest.approx(emd[1], rel=0.1)
    scaled_tau = ResidualContrastiveLoss(residual_scale=1.0, temperature=0.5 / 255)(anchors, keys)
    assert emd[1] == pytest.approx(scaled_tau.item(), rel=1e-9)


def test_bandwidths_are_for_images_in_0_1_at_any_scale():
    distance = {"type": "MaximumMeanDiscrepancy", "bandwidths": [0.03], "largest": 1.5}
    built = ResidualContrastiveLoss(distance=distance, residual_scale=255.0).residual_distance
    assert built.bandwidths == [0.03 * 255] and built.largest == 1.5 * 255
    far = torch.tensor([-0.2, 0.1]).view(2, 1, 1, 1)
    expected = 2 - 2 * math.exp(-(0.3**2) / (2 * 0.03**2))
    assert built(255 * far, 255 * far)[0, 1].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_equals_the_formula(dtype):
    anchors, keys = residuals(5, dtype)
    total = 0.0
    for j, anchor in enumerate(anchors):
        distances = [(anchor.flatten().sort()[0] - key.flatten().sort()[0]).abs().mean() for key in keys]
        similar = [math.exp(-float(distance) / 0.05) for distance in distances]
        total -= math.log(similar[j] / sum(similar))
    value = ResidualContrastiveLoss(temperature=0.05, residual_scale=1.0, loss_weight=0.5)(anchors, keys)
    assert value.dtype == dtype and value.shape == ()
    assert value.item() == pytest.approx(0.5 * total, rel=1e-5 if dtype == torch.float32 else 1e-12)


def test_the_loss_of_identical_images_is_the_logarithm_of_their_number():
    same = torch.rand(1, 3, 8, 8).expand(64, 3, 8, 8)
    assert ResidualContrastiveLoss()(same, same).item() == pytest.approx(1e-3 * 64 * math.log(64), rel=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_copies_of_an_image_are_not_negatives_of_each_other(reduction):
    anchors, keys = (each.requires_grad_() for each in residuals(5))
    loss = ResidualContrastiveLoss(**PLAIN, reduction=reduction, loss_weight=1.0)
    value = loss(anchors, keys, torch.tensor([7, -3, 7, 2**62, 7]))
    similar = (-loss.residual_distance(anchors, keys) / 0.1).exp()
    others = {0: [0, 1, 3], 1: [0, 1, 2, 3, 4], 2: [1, 2, 3], 3: [0, 1, 2, 3, 4], 4: [1, 3, 4]}
    terms = torch.stack([-(similar[j, j] / similar[j, known].sum()).log() for j, known in others.items()])
    expected = getattr(terms, reduction)()
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    for found, reference in zip(
        *(torch.autograd.grad(each, (anchors, keys)) for each in (value, expected)), strict=True
    ):
        torch.testing.assert_close(found, reference, rtol=1e-9, atol=1e-14)
    assert torch.equal(loss(anchors, keys, torch.arange(5)), loss(anchors, keys)) and loss(anchors, keys) > value


def test_an_anchor_without_negatives_has_loss_zero():
    anchors, keys = (each.requires_grad_() for each in residuals(3))
    value = ResidualContrastiveLoss()(anchors, keys, torch.zeros(3, dtype=torch.int64))
    value.backward()
    assert value == 0 and not anchors.grad.any() and not keys.grad.any()


def test_gradient_descent_reduces_the_loss():
    anchors, keys = (each.requires_grad_() for each in residuals(6))
    loss = ResidualContrastiveLoss(**PLAIN, loss_weight=1.0)
    before = loss(anchors, keys)
    before.backward()
    for each in (anchors, keys):  # both patches get a gradient
        assert each.grad.norm() > 0
    with torch.no_grad():
        assert loss(anchors - 0.01 * anchors.grad, keys - 0.01 * keys.grad) < before


def test_three_training_steps_equal_the_golden_ones(resnet50):
    """This covers crops, network, residuals, both losses and Adam."""
    facts = golden("rcl_step")
    images, corners = facts["noisy_images"], facts["patch_topleft"].tolist()
    patches = [
        torch.stack(
            [image[:, top : top + 32, left : left + 32] for image, (top, left) in zip(images, which, strict=True)]
        )
        for which in zip(*corners, strict=True)
    ]
    x = torch.cat(patches)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)).double()
    named = {"w1": network[0].weight, "b1": network[0].bias, "w2": network[2].weight, "b2": network[2].bias}
    for name, parameter in named.items():
        parameter.data.copy_(facts[name])
    contrast, consistency = ResidualContrastiveLoss(**PLAIN), ConsistencyLoss(weights=resnet50).double()
    space = consistency.features.network
    space.mean, space.std = (  # the golden numbers use float64 constants
        torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)
        for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, eps=1e-7)

    def losses():
        output = network(x)
        return contrast(*(x - output).chunk(2)), consistency(output, x)

    for step in range(1, 4):
        optimizer.zero_grad()
        contrastive, consistent = losses()
        if step == 1:
            assert contrastive.item() == pytest.approx(1e-3 * facts["loss_contrast_sum"].item(), rel=1e-12)
            assert consistent.item() == pytest.approx(facts["loss_consistency_layer1_mse"].item(), rel=1e-12)
            found = torch.autograd.grad(contrastive, list(named.values()), retain_graph=True)
            for name, gradient in zip(named, found, strict=True):
                torch.testing.assert_close(1e3 * gradient, facts[f"grad_contrast_only_{name}"], rtol=1e-9, atol=1e-13)
        total = contrastive + consistent
        assert total.item() == pytest.approx(facts["loss_total_steps"][step - 1].item(), rel=1e-11)
        total.backward()
        if step == 1:
            for name, parameter in named.items():
                torch.testing.assert_close(parameter.grad, facts[f"grad_{name}"], rtol=1e-9, atol=1e-13)
        optimizer.step()
        if step in (1, 3):
            after = f"after_{step}_step{'s' * (step > 1)}"
            for name, parameter in named.items():
                torch.testing.assert_close(parameter.data, facts[f"{name}_{after}"], rtol=1e-9, atol=1e-12)
    assert sum(losses()).item() == pytest.approx(facts["loss_total_after_3"].item(), rel=1e-11)


SCRIPT = """
import sys
import torch
from mcir.config.options import DistOptions
from mcir.engine.distributed import init_distributed
from mcir.losses import ResidualContrastiveLoss
from mcir.communicator import set_communicator

torch.set_num_threads(1)
kinds, anchors, keys, images = torch.load(sys.argv[1], weights_only=True)
results = []
with init_distributed(0, DistOptions(timeout_minutes=1)) as process:
    size = len(anchors) // process.world_size
    own = slice(process.rank * size, (process.rank + 1) * size)
    for distance, reduction in kinds:
        loss = ResidualContrastiveLoss(distance=distance, reduction=reduction)
        set_communicator(torch.nn.ModuleList([loss]), process)
        a, k = anchors[own].clone().requires_grad_(), keys[own].clone().requires_grad_()
        value = loss(a, k, images[own])
        value.backward()
        results.append([value.detach(), a.grad, k.grad])
torch.save(results, f"{sys.argv[1]}.{process.rank}")
"""


def test_two_processes_equal_one_process_with_the_whole_batch(tmp_path):
    file = tmp_path / "batch.pt"
    everything = {**DISTANCES, "mmd2_biased_pooled_mix": {"type": "MaximumMeanDiscrepancy", "samples": None}}
    kinds = [[section, reduction] for section in everything.values() for reduction in ("sum", "mean")]
    anchors, keys = residuals(6)
    images = torch.tensor([0, 1, 2, 3, 1, 1])  # image 1 is in both processes, and twice in the second one
    torch.save([kinds, anchors, keys, images], file)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(file)],
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    results = [torch.load(f"{file}.{rank}", weights_only=True) for rank in (0, 1)]
    for number, (distance, reduction) in enumerate(kinds):
        a, k = anchors.clone().requires_grad_(), keys.clone().requires_grad_()
        value = ResidualContrastiveLoss(distance=distance, reduction=reduction)(a, k, images)
        value.backward()
        values, *gradients = zip(*(each[number] for each in results), strict=True)
        assert (sum(values) / 2).item() == pytest.approx(value.item(), rel=1e-12)
        for found, expected in zip(gradients, (a.grad, k.grad), strict=True):
            together = torch.cat(found) / 2  # DDP averages the gradients of the weights
            torch.testing.assert_close(together, expected, rtol=1e-9, atol=1e-16)


# -- consistency ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory):
    """Path of a file with the weights of the golden numbers."""
    import torchvision

    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in torchvision.models.resnet50().state_dict().items()}
    file = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(deterministic_state_dict(shapes), file)
    return str(file)


@pytest.fixture(scope="module")
def pair():
    facts = golden("consistency")
    return facts, facts["x"], facts["y"]


NODES = {"maxpool": "stem", **{name: name for name in ("layer1", "layer2", "layer3", "layer4", "avgpool")}}


def test_every_layer_equals_the_golden_one(resnet50, pair):
    facts, x, y = pair
    for layer, stored in NODES.items():
        loss = ConsistencyLoss({layer: 1.0}, weights=resnet50)
        expected = facts[f"{stored}.mse"].item()
        assert loss(y, x).item() == pytest.approx(expected, rel=2e-6)
        assert loss.double()(y.double(), x.double()).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("reduction", "name"), [("mean", "mse"), ("sum", "sum_sq_per_image")])
def test_several_layers_add_up(resnet50, pair, reduction, name):
    facts, x, y = pair
    weights = {layer: 1.0 + number for number, layer in enumerate(NODES)}
    loss = ConsistencyLoss(weights, weights=resnet50, reduction=reduction, loss_weight=0.5).double()
    expected = sum(0.5 * weights[layer] * facts[f"{stored}.{name}"].mean().item() for layer, stored in NODES.items())
    assert loss(y.double(), x.double()).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("layer", ["layer1", "layer4"])
def test_the_gradient_equals_the_golden_one_and_only_the_output_gets_it(resnet50, pair, layer):
    facts, x, y = pair
    x, y = x.double().requires_grad_(), y.double().requires_grad_()
    loss = ConsistencyLoss({layer: 1.0}, weights=resnet50).double()
    loss(y, x).backward()
    reference = facts[f"{layer}.grad_mse_wrt_y"]
    assert (y.grad.flatten()[::23] - reference).abs().max() < 1e-11 * reference.abs().max()
    assert x.grad is None and not list(loss.parameters()) and not loss.state_dict()


# -- errors -----------------------------------------------------------------------------------------------------------


def test_errors_of_nested_sections_name_the_argument():
    with pytest.raises(RegistryError, match="There is no distance 'EMD'") as caught:
        LOSSES.build({"type": "ResidualContrastiveLoss", "distance": {"type": "EMD"}})
    assert caught.value.path[0] == "distance"


def test_batches_are_checked():
    loss = ResidualContrastiveLoss()
    with pytest.raises(ValueError, match=r"expected images of shape \(2,\), got \(3,\)"):
        loss(torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4), torch.arange(3))
    with pytest.raises(ValueError, match="a batch of at least 2 images, got 1"):
        loss(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4))
