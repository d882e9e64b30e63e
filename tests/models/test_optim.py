"""Learning rates against those of the official schedulers, and the optimizers by name."""

import json
from pathlib import Path

import pytest
import torch

from mcir.models import build_optimizer
from mcir.registry import OPTIMIZERS, SCHEDULERS, RegistryError

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
EPOCH = 7  # iterations of one, in the cases whose tables count epochs from 0
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
        # the official cosine multiplies from step to step and gathers rounding on the way
        assert schedule(base_lr, iteration, warmup_iter) == pytest.approx(rate, rel=1e-6, abs=2e-12), iteration


@pytest.mark.parametrize("name", PER_EPOCH)
def test_rates_of_epochs_equal_the_official_ones(name):
    section, base_lr = PER_EPOCH[name]
    schedule = SCHEDULERS.build(section)
    for epoch, rate in GOLDEN[name]["table"]:
        rates = [schedule(base_lr, epoch * EPOCH + iteration) for iteration in range(1, EPOCH + 1)]
        assert len(set(rates)) == 1
        assert rates[0] == pytest.approx(rate, rel=1e-9), epoch


def test_every_official_schedule_is_held_against_one_of_ours():
    assert CASES.keys() | PER_EPOCH.keys() == GOLDEN.keys()


def test_a_cosine_ahead_is_the_same_cosine_earlier():
    plain, ahead = (SCHEDULERS.build({"type": "CosineAnnealingLR", "T_max": 10, "ahead": by}) for by in (0, 3))
    assert [ahead(1.0, iteration) for iteration in (1, 5)] == [plain(1.0, iteration) for iteration in (4, 8)]


def test_multi_step_restart_begins_anew_at_a_restart():
    restarts = {"restarts": [0, 4], "restart_weights": [1, 0.8]}
    schedule = SCHEDULERS.build({"type": "MultiStepRestartLR", "milestones": [2, 5], "gamma": 0.5, **restarts})
    rates = [schedule(1.0, iteration) for iteration in range(1, 8)]
    assert rates == pytest.approx([1, 1, 0.5, 0.5, 0.8, 0.4, 0.4])


def test_after_its_last_period_the_restarting_cosine_stays_at_its_minimum():
    schedule = SCHEDULERS.build({"type": "CosineAnnealingRestartLR", "periods": [3], "eta_min": 0.1})
    assert [schedule(1.0, iteration) for iteration in (4, 5, 50)] == pytest.approx([0.1, 0.1, 0.1])


def test_warm_up_rises_linearly():
    schedule = SCHEDULERS.build({"type": "MultiStepLR", "milestones": [100]})
    assert [schedule(1.0, iteration, 4) for iteration in (1, 2, 3, 4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize(
    "section",
    [
        {"type": "CosineAnnealingLR", "T_max": 0},
        {"type": "EpochCosineAnnealingLR", "T_max": 0, "iterations_per_epoch": 5},
        {"type": "CosineAnnealingRestartLR", "periods": [1, 2]},
        {"type": "MultiStepRestartLR", "milestones": [1], "restarts": [0, 3]},
    ],
)
def test_sections_that_make_no_sense_are_refused(section):
    with pytest.raises(ValueError, match=r"period|restart_weights"):
        SCHEDULERS.build(section)


def test_counts_that_make_no_sense_are_named():
    with pytest.raises(ValueError, match="iterations_per_epoch is at least 1, not 0"):
        SCHEDULERS.build({"type": "EpochCosineAnnealingLR", "T_max": 3, "iterations_per_epoch": 0})
    with pytest.raises(ValueError, match="ahead is a number of iterations, at least 0, not -1"):
        SCHEDULERS.build({"type": "CosineAnnealingLR", "T_max": 3, "ahead": -1})


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_every_optimizer_makes_a_step(name):
    weight = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = build_optimizer({"type": name, "lr": 0.1}, [weight])
    (weight * torch.arange(16.0).view(4, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(weight.detach(), torch.ones(4, 4))


def test_an_unknown_optimizer_and_argument_are_named():
    with pytest.raises(RegistryError, match="Did you mean 'Adam'"):
        build_optimizer({"type": "Adm"}, [])
    with pytest.raises(RegistryError, match="Did you mean 'betas'"):
        build_optimizer({"type": "Adam", "beta": [0.9, 0.99]}, [torch.nn.Parameter(torch.ones(1))])
