"""Learning rates against the official schedulers, and every optimizer."""

import json
from pathlib import Path

import pytest
import torch

from mcir.errors import ArgumentError, RegistryError
from mcir.models import build_optimizer
from mcir.registry import OPTIMIZERS, SCHEDULERS

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
    weight = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = build_optimizer({"type": name, "lr": 0.1}, [weight])
    (weight * torch.arange(16.0).view(4, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(weight.detach(), torch.ones(4, 4))


def test_unknown_optimizers_and_arguments_are_rejected():
    with pytest.raises(RegistryError, match="Did you mean 'Adam'"):
        build_optimizer({"type": "Adm"}, [])
    with pytest.raises(RegistryError, match="Did you mean 'betas'"):
        build_optimizer({"type": "Adam", "beta": [0.9, 0.99]}, [torch.nn.Parameter(torch.ones(1))])
