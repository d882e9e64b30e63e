"""Learning rates against the official schedulers, and every optimizer."""

import json
from pathlib import Path

import pytest
import torch

from mcir.errors import ArgumentError, RegistryError
from mcir.models import build_optimizer
from mcir.models.muon import orthogonalize
from mcir.models.optim import moments_of
from mcir.models.state import digest
from mcir.registry import MODELS, OPTIMIZERS, SCHEDULERS

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/schedules/schedules.json").read_text())["schedules"]
CASES = {
    "basicsr_edsr": ({"type": "MultiStepLR", "milestones": [200000], "gamma": 0.5}, 1e-4, -1),
    "basicsr_swinir": (
        {"type": "MultiStepLR", "milestones": [250000, 400000, 450000, 475000], "gamma": 0.5},
        2e-4,
        -1,
    ),
    "nafnet_w32": ({"type": "TrueCosineAnnealingLR", "T_max": 200000, "eta_min": 1e-7}, 1e-3, -1),
    "nafnet_w64": ({"type": "CosineAnnealingLR", "T_max": 400000, "eta_min": 1e-7}, 1e-3, -1),
    "mclir_ffanet": ({"type": "TrueCosineAnnealingLR", "T_max": 100000, "eta_min": 1e-8}, 2e-4, -1),
    "basicsr_cosine_restart_warmup": (
        {"type": "CosineAnnealingRestartLR", "periods": [50, 100], "restart_weights": [1, 0.5], "eta_min": 1e-7},
        1e-3,
        10,
    ),
    "ffa_its": ({"type": "CosineAnnealingLR", "T_max": 500000, "ahead": 1}, 1e-4, -1),
}
EPOCH = 7  # iterations per epoch; the tables of these cases count epochs from 0
PER_EPOCH = {
    "dehazeformer_t_indoor": (
        {"type": "EpochCosineAnnealingLR", "T_max": 300, "eta_min": 4e-6, "iterations_per_epoch": EPOCH},
        4e-4,
    ),
    "idt": ({"type": "MultiStepLR", "milestones": [100 * EPOCH, 250 * EPOCH, 350 * EPOCH], "gamma": 0.1}, 1e-4),
}


@pytest.mark.parametrize("name", CASES)
def test_rates_equal_the_official_ones(name):
    section, base_lr, warmup_iter = CASES[name]
    schedule = SCHEDULERS.build(section)
    for iteration, rate in GOLDEN[name]["table"]:
        # the official cosine multiplies from step to step, which accumulates rounding errors
        assert schedule(base_lr, iteration, warmup_iter) == pytest.approx(rate, rel=1e-6, abs=2e-12), iteration


@pytest.mark.parametrize("name", PER_EPOCH)
def test_rates_of_epochs_equal_the_official_ones(name):
    section, base_lr = PER_EPOCH[name]
    schedule = SCHEDULERS.build(section)
    for epoch, rate in GOLDEN[name]["table"]:
        rates = [schedule(base_lr, epoch * EPOCH + iteration) for iteration in range(1, EPOCH + 1)]
        assert len(set(rates)) == 1
        assert rates[0] == pytest.approx(rate, rel=1e-9), epoch


def test_every_official_schedule_is_tested():
    assert CASES.keys() | PER_EPOCH.keys() == GOLDEN.keys()


def test_ahead_shifts_the_cosine():
    plain, ahead = (SCHEDULERS.build({"type": "CosineAnnealingLR", "T_max": 10, "ahead": by}) for by in (0, 3))
    assert [ahead(1.0, iteration) for iteration in (1, 5)] == [plain(1.0, iteration) for iteration in (4, 8)]


def test_multi_step_restarts():
    restarts = {"restarts": [0, 4], "restart_weights": [1, 0.8]}
    schedule = SCHEDULERS.build({"type": "MultiStepRestartLR", "milestones": [2, 5], "gamma": 0.5, **restarts})
    rates = [schedule(1.0, iteration) for iteration in range(1, 8)]
    assert rates == pytest.approx([1, 1, 0.5, 0.5, 0.8, 0.4, 0.4])


def test_the_restarting_cosine_stays_at_its_minimum_after_the_last_period():
    schedule = SCHEDULERS.build({"type": "CosineAnnealingRestartLR", "periods": [3], "eta_min": 0.1})
    assert [schedule(1.0, iteration) for iteration in (4, 5, 50)] == pytest.approx([0.1, 0.1, 0.1])


def test_warm_up_is_linear():
    schedule = SCHEDULERS.build({"type": "MultiStepLR", "milestones": [100]})
    assert [schedule(1.0, iteration, 4) for iteration in (1, 2, 3, 4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"type": "CosineAnnealingLR", "T_max": 0}, "T_max: expected an integer ≥ 1, got 0"),
        ({"type": "CosineAnnealingLR", "T_max": 3, "ahead": -1}, "ahead: expected an integer ≥ 0"),
        ({"type": "EpochCosineAnnealingLR", "T_max": 0, "iterations_per_epoch": 5}, "T_max: expected"),
        ({"type": "EpochCosineAnnealingLR", "T_max": 3, "iterations_per_epoch": 0}, "iterations_per_epoch: expected"),
        ({"type": "CosineAnnealingRestartLR", "periods": [1, 2]}, "each of the 2 periods, got 1"),
        ({"type": "MultiStepRestartLR", "milestones": [1], "restarts": [0, 3]}, "each of the 2 restarts, got 1"),
    ],
)
def test_invalid_arguments_are_rejected(section, message):
    with pytest.raises(ArgumentError, match=message):
        SCHEDULERS.build(section)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_every_optimizer_makes_a_step(name):
    weight = torch.nn.Parameter(torch.ones(16, 16))
    optimizer = build_optimizer({"type": name, "lr": 0.1}, [weight])
    (weight * torch.arange(256.0).view(16, 16)).sum().backward()
    optimizer.step()
    assert not torch.equal(weight.detach(), torch.ones(16, 16))


def train(model, first, last):
    for iteration in range(first, last + 1):
        generator = torch.Generator().manual_seed(iteration)
        batch = {"lq": torch.rand(2, 3, 8, 8, generator=generator), "gt": torch.rand(2, 3, 16, 16, generator=generator)}
        model.training_step(batch, iteration)


def edsr(name, **arguments):
    torch.manual_seed(0)
    network = {"type": "EDSR", "num_feat": 16, "num_block": 1, "upscale": 2}
    section = {"network_g": network, "optim_g": {"type": name, **arguments}, "pixel_opt": {"type": "L1Loss"}}
    return MODELS.build({"type": "RestorationModel", **section})


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_every_optimizer_trains_a_network_and_resumes(name, tmp_path):
    """The state goes through a file; the resumed training has the same weights and moments, bit for bit."""
    whole, first, second = (edsr(name) for _ in range(3))
    start = {key: value.clone() for key, value in whole.network.state_dict().items()}
    train(whole, 1, 4)
    train(first, 1, 2)
    torch.save(first.state_dict(), tmp_path / "state")
    assert second.load_state_dict(torch.load(tmp_path / "state", weights_only=True)) == []
    train(second, 3, 4)
    assert digest(second.state_dict()) == digest(whole.state_dict())
    changed = [key for key, value in whole.network.state_dict().items() if not torch.equal(value, start[key])]
    assert len(changed) == len(list(whole.network.parameters())), "every parameter is trained"


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_the_cost_of_every_optimizer_is_known(name):
    model = edsr(name)
    train(model, 1, 1)
    moments = [value for state in model.optimizer.state.values() for value in state.values()]
    expected = sum(value.nbytes for value in moments if isinstance(value, torch.Tensor))
    parameters = list(model.network.parameters())
    kinds = moments_of({"type": name}, parameters)
    found = sum(
        p.nbytes if size is None else size for p, kind in zip(parameters, kinds, strict=True) for size in kind.values()
    )
    assert found == pytest.approx(expected, rel=0.5 if name == "Adafactor" else 0, abs=0)


def matrices(seed=0):
    torch.manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in ((16, 40), (40, 16), (32, 32))]


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="needs torch ≥ 2.9")
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"adjust_lr_fn": "match_rms_adamw", "nesterov": False},
        {"momentum": 0.5, "weight_decay": 0.0, "ns_steps": 2, "lr": 0.1},
    ],
)
def test_muon_equals_that_of_torch_for_matrices(arguments):
    ours, theirs = matrices(), matrices()
    pair = (build_optimizer({"type": "Muon", **arguments}, ours), torch.optim.Muon(theirs, **arguments))
    for step in range(3):
        for optimizer, weights in zip(pair, (ours, theirs), strict=True):
            torch.manual_seed(step)
            for weight in weights:
                weight.grad = torch.randn(weight.shape)
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)


def test_muon_orthogonalizes_convolutions_as_matrices_and_trains_the_rest_with_adamw():
    torch.manual_seed(0)
    conv, edge, bias = (torch.nn.Parameter(torch.randn(shape)) for shape in ((32, 16, 3, 3), (32, 3, 3, 3), (32,)))
    matrix, reference = torch.nn.Parameter(conv.detach().flatten(1)), torch.nn.Parameter(edge.detach().clone())
    arguments = {"lr": 0.1, "adamw_lr": 1e-2, "adamw_weight_decay": 0.0, "adamw_betas": (0.5, 0.9)}
    optimizers = [
        build_optimizer({"type": "Muon", **arguments}, [bias, conv, edge]),
        build_optimizer({"type": "Muon", "lr": 0.1}, [matrix]),
        torch.optim.AdamW([reference], 1e-2, (0.5, 0.9), weight_decay=0.0),
    ]
    for seed in range(2):
        torch.manual_seed(seed)
        gradient = torch.randn(conv.shape)
        bias.grad, edge.grad, conv.grad, matrix.grad = torch.ones(32), edge.detach() * 2, gradient, gradient.flatten(1)
        reference.grad = reference.detach() * 2
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(conv.flatten(1), matrix)
    assert torch.equal(edge, reference)
    step = orthogonalize(torch.randn(32, 144), (3.4445, -4.775, 2.0315), 5, 1e-7).float()
    values = torch.linalg.svdvals(step)
    assert values.min() > 0.4
    assert values.max() < 1.6


def test_muon_with_channels_last_weights():
    weights = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(32, 16, 3, 3).to(memory_format=layout))
        optimizer = build_optimizer({"type": "Muon"}, [weight])
        for _ in range(2):
            weight.grad = torch.randn(32, 16, 3, 3).to(memory_format=layout)
            optimizer.step()
        weights.append(weight)
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def test_muon_needs_hidden_weights():
    with pytest.raises(ArgumentError, match=r"type: expected a network with layers of at least 16 inputs .* Use AdamW"):
        build_optimizer({"type": "Muon"}, [torch.nn.Parameter(torch.ones(64, 3, 3, 3))])


def test_a_schedule_scales_both_learning_rates_of_muon():
    model = edsr("Muon", lr=0.1, adamw_lr=0.01)
    model.schedule = SCHEDULERS.build({"type": "MultiStepLR", "milestones": [1], "gamma": 0.5})
    train(model, 1, 3)
    assert [group["lr"] for group in model.optimizer.param_groups] == pytest.approx([0.05, 0.005])


@pytest.mark.parametrize(("old", "new"), [("Muon", "Adam"), ("AdamW", "Muon"), ("SGD", "Muon")])
def test_the_moments_start_anew_from_and_to_muon(old, new):
    first, second = edsr(old), edsr(new)
    train(first, 1, 2)
    assert second.load_state_dict(first.state_dict()) == ["optimizer"]
    train(second, 3, 3)


def test_options_override_the_hyperparameters_of_a_muon_state():
    first, second = edsr("Muon", adamw_betas=[0.5, 0.5]), edsr("Muon")
    train(first, 1, 1)
    assert second.load_state_dict(first.state_dict()) == []
    assert [group["betas"] for group in second.optimizer.param_groups][1] == (0.9, 0.999)


def test_unknown_optimizers_and_arguments_are_rejected():
    with pytest.raises(RegistryError, match="Did you mean 'Adam'"):
        build_optimizer({"type": "Adm"}, [])
    with pytest.raises(RegistryError, match="Did you mean 'betas'"):
        build_optimizer({"type": "Adam", "beta": [0.9, 0.99]}, [torch.nn.Parameter(torch.ones(1))])
