"""Dense contrastive pre-training: official code, reference steps, several processes."""

import copy
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mcir.engine.dry_run import step_cost
from mcir.losses import DenseCLLoss
from mcir.models.dense import DenseContrast, Projector
from mcir.registry import MODELS
from tests.engine.conftest import ROOT

GOLDEN = Path(__file__).parents[1] / "golden" / "rcl"
UNET = {"type": "UNet", "num_feat": 2}
PLAIN = {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 1, "img_range": 1.0}
HEAD = {"hidden": 6, "dim": 4}
LOSSES = {
    "vader": {"type": "VADeRLoss", "pixels": 5, "queue_size": 40, "momentum": 0.9, **HEAD},
    "densecl": {"type": "DenseCLLoss", "grid": 4, "queue_size": 6, "momentum": 0.9, **HEAD},
    "pixcontrast": {"type": "PixContrastLoss", "grid": 4, "momentum": 0.9, "momentum_iter": 4, **HEAD},
}
CONSISTENCY = {"type": "ConsistencyLoss", "network": "resnet18", "weights": "random", "layer_weights": {"relu": 1.0}}
KINDS = pytest.mark.parametrize("kind", LOSSES)


def build(kind, **changes):
    section = {"network_g": UNET, "optim_g": {"type": "Adam", "lr": 1e-3, "eps": 1e-7}, "contrastive_opt": LOSSES[kind]}
    return MODELS.build({"type": "DenseContrastiveModel", **section, **changes})


def make_batch(count=4, side=32):
    """Return pairs of overlapping patches of noisy images."""
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, 2, 2, generator=rng)
    images = F.interpolate(images, (64, 64), mode="bilinear") + 0.1 * torch.randn(count, 3, 64, 64, generator=rng)
    corners = torch.randint(0, 24, (count, 2, 2), generator=rng)
    patches = [
        torch.stack([image[:, top : top + side, left : left + side] for top, left in pair])
        for image, pair in zip(images, corners.tolist(), strict=True)
    ]
    boxes = torch.cat([corners, corners + side], dim=2).float()
    return {"lq": torch.stack(patches), "boxes": boxes}


@pytest.fixture
def batch():
    return make_batch()


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.trained_part.parameters()])


def same(one, other):
    """Return whether two states are equal, tensor by tensor."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


# -- official numbers -------------------------------------------------------------------------------------------------


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def neck(known, name):
    """Return the state of a projector that equals an official neck: linear layers become 1×1 convolutions."""
    parts = {"mlp": "image", "mlp2": "cells"}
    state = {}
    for key in known:
        if key.startswith(f"{name}."):
            _, head, rest = key.split(".", 2)
            value = known[key]
            state[f"{parts[head]}.{rest}"] = value[..., None, None] if value.dim() == 2 else value
    return state


def test_densecl_equals_the_official_step():
    known = golden("densecl")
    loss = DenseCLLoss(grid=5, hidden=16, dim=8, queue_size=32)
    contrast = DenseContrast(loss, nn.Conv2d(1, 1, 1), channels=12, seed=0)
    contrast.projector.load_state_dict(neck(known, "neck_q"))
    contrast.key_projector.network.load_state_dict(neck(known, "neck_k"))
    contrast.queues["image"].keys.copy_(known["queue"].T)
    contrast.queues["cells"].keys.copy_(known["queue2"].T)
    contrast.start_step(nn.Conv2d(1, 1, 1), iteration=1, total=None)
    value = contrast(known["feat_q"], known["feat_k"], torch.zeros(4, 2, 4), contrast.projector)
    value.backward()
    contrast.finish_step()
    expected = known["loss_contra_single_weighted"] + known["loss_contra_dense_weighted"]
    torch.testing.assert_close(value.detach(), expected, rtol=1e-6, atol=0)
    gradients = neck({key.removeprefix("grad_"): known[key] for key in known if key.startswith("grad_")}, "neck_q")
    for name, parameter in contrast.projector.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)
    for name, official in neck(known, "neck_k_after").items():
        torch.testing.assert_close(contrast.key_projector.network.state_dict()[name], official, rtol=1e-6, atol=1e-8)
    for name, official in (("image", "queue_after"), ("cells", "queue2_after")):
        torch.testing.assert_close(contrast.queues[name].keys, known[official].T, rtol=1e-5, atol=1e-6)
        assert contrast.queues[name].next == known["queue_ptr_after"]


def test_the_pixcontrast_projector_equals_the_official_one():
    known = golden("pixcontrast")
    parts = {"linear1": "cells.0", "bn1": "cells.1", "linear2": "cells.3"}
    state = {
        f"{parts[key.split('.')[1]]}.{key.split('.')[2]}": value
        for key, value in known.items()
        if key.startswith("projector.") and key.split(".")[1] in parts
    }
    projector = Projector(8, 16, 6, norm=True)
    projector.load_state_dict(state)
    torch.testing.assert_close(
        projector(known["projector.in"]).cells, known["projector.train_out"], rtol=1e-5, atol=1e-6
    )
    projector.load_state_dict(state)
    after = projector.eval()(known["projector.in"]).cells
    torch.testing.assert_close(after, known["projector.eval_out_after_one_train_step"], rtol=1e-5, atol=1e-6)


# -- the step ---------------------------------------------------------------------------------------------------------


def averaged(patches):
    return F.adaptive_avg_pool2d(patches, 4)


def unit(cells):
    return F.normalize(cells.flatten(2).transpose(1, 2).flatten(0, 1), dim=1)


def test_densecl_equals_a_reference_step(batch):
    """Each step updates the key encoder, computes the keys with it, and enqueues them at the end."""
    model = build("densecl")
    contrast = model.criteria["l_contrast"]
    network, projector = copy.deepcopy(model.network), copy.deepcopy(contrast.projector)
    key_network, key_projector = copy.deepcopy(network), copy.deepcopy(projector)
    queues = {name: queue.keys.clone() for name, queue in contrast.queues.items()}
    optimizer = torch.optim.Adam([*network.parameters(), *projector.parameters()], lr=1e-3, eps=1e-7)
    first = 0
    for iteration in (1, 2, 3):
        with torch.no_grad():
            for follower, leader in ((key_network, network), (key_projector, projector)):
                for own, other in zip(follower.parameters(), leader.parameters(), strict=True):
                    own.copy_(0.9 * own + 0.1 * other)
            key = key_projector(averaged(key_network(batch["lq"][:, 1])))
        query = projector(averaged(network(batch["lq"][:, 0])))
        loss = DenseCLLoss(grid=4)(query, key, batch["boxes"], queues)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scalars = model.training_step(batch, iteration)
        torch.testing.assert_close(scalars["l_contrast"], loss.detach(), rtol=1e-5, atol=0)
        for row in range(4):
            queues["image"][(first + row) % 6] = unit(key.image)[row]
            queues["cells"][(first + row) % 6] = unit(key.cells.mean(dim=(2, 3), keepdim=True))[row]
        first += 4
        for name, queue in contrast.queues.items():
            torch.testing.assert_close(queue.keys, queues[name], rtol=1e-4, atol=1e-5)
    literal = torch.nn.utils.parameters_to_vector([*network.parameters(), *projector.parameters()])
    torch.testing.assert_close(weights(model), literal.detach(), rtol=1e-4, atol=1e-5)


def test_pixcontrast_runs_all_patches_in_one_pass_and_is_symmetric(batch):
    model = build("pixcontrast")
    contrast, seen = model.criteria["l_contrast"], []
    network, projector = copy.deepcopy(model.network), copy.deepcopy(contrast.projector)
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    value = model.training_step(batch, 1)["l_contrast"]
    assert [patches.shape for patches in seen] == [(8, 3, 32, 32)]
    patches = torch.cat([batch["lq"][:, 0], batch["lq"][:, 1]])
    first, second = projector(averaged(network(patches))).cells.detach().chunk(2)
    ways = []
    for query, key, boxes in ((first, second, batch["boxes"]), (second, first, batch["boxes"].flip(1))):
        logits = torch.einsum("bdn,bdm->bnm", F.normalize(query.flatten(2), dim=1), F.normalize(key.flatten(2), dim=1))
        near = contrast.loss.positives(boxes, (4, 4))
        likely = logits.div(0.3).softmax(dim=2)
        terms = [
            -image[close.any(1)].mul(close[close.any(1)]).sum(1).log().mean()
            for image, close in zip(likely, near, strict=True)
        ]
        ways.append(torch.stack(terms).mean())
    torch.testing.assert_close(value, sum(ways) / 2, rtol=1e-5, atol=0)


def test_vader_enqueues_every_sampled_pixel_and_resamples_in_each_step(batch):
    model = build("vader")
    queue, drawn = model.criteria["l_contrast"].queues["cells"], []
    regions = model.criteria["l_contrast"].loss.regions

    def recording(*inputs):
        drawn.append(regions(*inputs))
        return drawn[-1]

    model.criteria["l_contrast"].loss.regions = recording
    for iteration in (1, 2):
        model.training_step(batch, iteration)
        assert queue.next == 20 * iteration % 40
    assert drawn[0][0].shape == (4, 3, 5, 1)
    assert not torch.allclose(drawn[0][1], drawn[1][1], atol=1e-2)


@KINDS
def test_only_the_network_and_the_projector_are_trained(kind, batch):
    model = build(kind)
    contrast = model.criteria["l_contrast"]
    before = {name: parameter.detach().clone() for name, parameter in model.parts.named_parameters()}
    for iteration in (1, 2, 3):
        scalars = model.training_step(batch, iteration)
        assert scalars["l_contrast"].isfinite() and scalars["grad_norm"] > 0
    for name, parameter in model.parts.named_parameters():
        trained = name.startswith(("network_g.", "criteria.l_contrast.projector."))
        assert (parameter.grad is not None) == trained, name
        assert parameter.requires_grad == trained
    moved = {name for name, parameter in model.parts.named_parameters() if not torch.equal(parameter, before[name])}
    assert {name.partition(".network.")[0] for name in moved if "key" in name} == {
        "criteria.l_contrast.key_network",
        "criteria.l_contrast.key_projector",
    }
    assert all(
        f"criteria.l_contrast.projector.{name}" in moved
        for name, _ in contrast.projector.named_parameters()
        if "weight" in name
    )
    assert any(name.startswith("network_g.") for name in moved)


def test_the_momentum_rises_with_the_iterations(batch, monkeypatch):
    model, decays = build("pixcontrast"), []
    monkeypatch.setattr(model.criteria["l_contrast"], "update_key_encoder", lambda network, decay: decays.append(decay))
    for iteration in (1, 2, 3, 5):
        model.training_step(batch, iteration)
    assert decays == pytest.approx([0.9, 1 - 0.1 * (1 + 0.5**0.5) / 2, 0.95, 1.0])


def test_the_loss_decreases(batch):
    model = build("densecl", optim_g={"type": "Adam", "lr": 1e-2})
    values = [float(model.training_step(batch, iteration)["l_contrast"]) for iteration in range(1, 31)]
    assert sum(values[-5:]) < 0.9 * sum(values[3:8])


# -- with consistency -------------------------------------------------------------------------------------------------


@KINDS
def test_the_plus_variants_add_a_consistency_loss(kind, batch):
    model = build(kind, consistency_opt=CONSISTENCY)
    network, projector = copy.deepcopy(model.network), copy.deepcopy(model.criteria["l_contrast"].projector)
    model.watch_gradients = True
    scalars = model.training_step(batch, 1)
    patches = model.inputs(batch)
    expected = model.criteria["l_consist"](network(patches), patches)
    torch.testing.assert_close(scalars["l_consist"], expected.detach(), rtol=1e-5, atol=0)
    assert torch.equal(scalars["l_contrast"], build(kind).training_step(batch, 1)["l_contrast"])
    assert scalars["ratio_l_consist"] == scalars["grad_l_consist"] / scalars["grad_l_contrast"]
    expected.backward()
    own = build(kind, contrastive_opt={**LOSSES[kind], "loss_weight": 0.0}, consistency_opt=CONSISTENCY)
    own.training_step(batch, 1)
    for parameter, other in zip(own.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-6)
    for parameter in own.criteria["l_contrast"].projector.parameters():
        assert not parameter.grad.any()
    assert sum(p.numel() for p in projector.parameters()) > 0


# -- state ------------------------------------------------------------------------------------------------------------


@KINDS
def test_a_resumed_run_continues_bit_for_bit(kind, batch):
    section = {"ema_decay": 0.9, "consistency_opt": CONSISTENCY}
    through, first, second = build(kind, **section), build(kind, **section), build(kind, **section, seed=0)
    for iteration in (1, 2, 3, 4):
        through.training_step(batch, iteration)
    for iteration in (1, 2):
        first.training_step(batch, iteration)
    torch.manual_seed(99)  # the global generator is not used
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for iteration in (3, 4):
        second.training_step(batch, iteration)
    assert same(through.state_dict(), second.state_dict())
    assert not same(through.state_dict(), first.state_dict())


@KINDS
def test_everything_depends_on_the_seed_and_weight_files_contain_only_the_network(kind):
    torch.manual_seed(1)
    one = build(kind, ema_decay=0.9)
    torch.manual_seed(2)
    assert same(one.state_dict(), build(kind, ema_decay=0.9).state_dict())
    assert not same(one.state_dict()["l_contrast"], build(kind, seed=5).state_dict()["l_contrast"])
    plain = one.network.state_dict().keys()
    assert {name: part.keys() for name, part in one.weights().items()} == {"params": plain, "params_ema": plain}


def test_the_key_encoder_starts_from_pretrained_weights():
    model, trained = build("densecl"), build("densecl", seed=9).network.state_dict()
    assert model.load_weights(trained) == []
    assert same(dict(model.criteria["l_contrast"].key_network.network.state_dict()), dict(trained))


# -- arithmetic -------------------------------------------------------------------------------------------------------


@KINDS
def test_bf16_is_close_and_compares_in_float32(kind, batch):
    exact, rough = build(kind), build(kind, precision="bf16")
    one, other = exact.training_step(batch, 1), rough.training_step(batch, 1)
    assert other["l_contrast"].dtype == torch.float32 and other["l_contrast"] != one["l_contrast"]
    torch.testing.assert_close(other["l_contrast"], one["l_contrast"], rtol=0.05, atol=0)
    assert all(parameter.dtype == torch.float32 for parameter in rough.parts.parameters())


@KINDS
def test_float64_is_supported(kind, batch):
    exact, model = build(kind), build(kind)
    model.parts.double()
    double = {"lq": batch["lq"].double(), "boxes": batch["boxes"]}
    for iteration in (1, 2):
        one, other = exact.training_step(batch, iteration), model.training_step(double, iteration)
        assert other["l_contrast"].dtype == torch.float64
    torch.testing.assert_close(one["l_contrast"].double(), other["l_contrast"], rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", ["vader", "densecl"])
def test_accumulation_gives_the_step_of_the_whole_batch(kind, batch):
    """The key encoder is updated once, and the queues at the end (the network has no batch norm)."""
    options = {"network_g": PLAIN, "optim_g": {"type": "SGD", "lr": 0.1}}
    whole, divided = build(kind, **options), build(kind, **options, accumulation_steps=2)
    for iteration in (1, 2):
        one, other = whole.training_step(batch, iteration), divided.training_step(batch, iteration)
        torch.testing.assert_close(one["l_contrast"], other["l_contrast"])
    torch.testing.assert_close(weights(whole), weights(divided))
    for ours, theirs in zip(
        whole.criteria["l_contrast"].buffers(), divided.criteria["l_contrast"].buffers(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@KINDS
def test_the_estimated_cost_equals_that_of_a_step(kind):
    from torch.utils.flop_counter import FlopCounterMode

    model = build(kind)
    section = {"type": "DenseContrastiveModel", "network_g": UNET, "optim_g": {"type": "Adam", "lr": 1e-3}}
    cost = step_cost({**section, "contrastive_opt": LOSSES[kind]}, 4, (32, 32), (32, 32))
    with FlopCounterMode(display=False) as counter:
        model.training_step(model.example_batch(4, (32, 32)), 1)
    assert cost.flops == counter.get_total_flops() > 0


def test_the_momentum_rises_over_the_whole_training_by_default(batch):
    def keys_after(total=None, **changes):
        model = build("pixcontrast", contrastive_opt={**LOSSES["pixcontrast"], **changes})
        model.total_iter = total
        for iteration in (1, 2, 3):
            model.training_step(batch, iteration)
        return torch.cat([each.flatten() for each in model.criteria["l_contrast"].key_network.parameters()])

    explicit = {total: keys_after(momentum_iter=total) for total in (0, 3, 8)}
    assert not torch.equal(explicit[3], explicit[8])
    for total in (3, 8):
        assert torch.equal(keys_after(total, momentum_iter=None), explicit[total])
    assert torch.equal(keys_after(momentum_iter=None), explicit[0])
    assert torch.equal(keys_after(8, momentum_iter=3), explicit[3])


def test_invalid_options_are_rejected(batch):
    with pytest.raises(ValueError, match="expected DenseCLLoss, PixContrastLoss, VADeRLoss, got L1Loss"):
        build("vader", contrastive_opt={"type": "L1Loss"})
    with pytest.raises(ValueError, match=r"requires 'train.contrastive_opt', for example \{type: DenseCLLoss\}"):
        build("vader", contrastive_opt=None).require_trainable()
    with pytest.raises(ValueError, match=r"\('boxes'\). Use NoisyPatchPairs"):
        build("vader").training_step({"lq": batch["lq"]}, 1)
    with pytest.raises(ValueError, match=r"got \(4, 3, 32, 32\). Use NoisyPatchPairs"):
        build("vader").training_step({**batch, "lq": batch["lq"][:, 0]}, 1)


def test_it_restores_without_training_options(batch):
    model = MODELS.build({"type": "DenseContrastiveModel", "network_g": UNET})
    assert model.restore(batch["lq"][:, 0]).shape == (4, 3, 32, 32)
    assert model.load_weights(build("vader").network.state_dict()) == []


# -- several processes ------------------------------------------------------------------------------------------------

LOGGED = {"network_g": PLAIN, "optim_g": {"type": "SGD", "lr": 0.1}, "consistency_opt": CONSISTENCY}
"""A model without batch norm and with two losses. Both processes log the gradients of the losses."""

WORK = """
import sys
import torch
from mcir.config.options import DistOptions
from mcir.engine.distributed import init_distributed
from tests.models.test_dense import LOGGED, build, make_batch, weights

torch.set_num_threads(1)
results = {}
with init_distributed(0, DistOptions(timeout_minutes=1)) as process:
    batch = {key: value.chunk(process.world_size)[process.rank] for key, value in make_batch().items()}
    for kind in ("vader", "densecl", "pixcontrast"):
        model = build(kind)
        model.parallelize(process)
        for iteration in (1, 2, 3):
            scalars = model.training_step(batch, iteration)
        state = model.state_dict()
        results[kind] = [{name: state[name] for name in ("network_g", "l_contrast")}, scalars["l_contrast"]]
    model = build("densecl", **LOGGED)
    model.parallelize(process)
    model.watch_gradients = True
    for iteration in (1, 2, 3):
        model.training_step(batch, iteration)
    results["plain"] = [weights(model), dict(model.criteria["l_contrast"].named_buffers())]
torch.save(results, f"{sys.argv[1]}/{process.rank}.pt")
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Return the results of two processes after three iterations, each with half of the batch."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    places = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WORK, str(folder)]
    started = [
        subprocess.Popen(command, env={**os.environ, **places, "RANK": rank, "LOCAL_RANK": rank}, cwd=ROOT)
        for rank in ("0", "1")
    ]
    assert [process.wait(timeout=240) for process in started] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@KINDS
def test_two_processes_have_the_same_encoders_and_queues(kind, two):
    (one, value), (other, other_value) = (results[kind] for results in two)
    assert same(one, other)
    assert value.isfinite() and value != other_value  # each process has its own images
    assert not same(one, {name: build(kind).state_dict()[name] for name in one})


def test_two_processes_equal_one_with_the_whole_batch(two, batch):
    model = build("densecl", **LOGGED)
    for iteration in (1, 2, 3):
        model.training_step(batch, iteration)
    for after, buffers in (results["plain"] for results in two):
        torch.testing.assert_close(after, weights(model), rtol=1e-4, atol=1e-6)
        for name, buffer in model.criteria["l_contrast"].named_buffers():
            torch.testing.assert_close(buffers[name], buffer, rtol=1e-4, atol=1e-5)
