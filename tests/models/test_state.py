"""Tests of what is saved of a model, and of options that override it."""

import pytest
import torch

from mcir.models import RestorationModel
from mcir.registry import OPTIMIZERS

OPTIONS = {
    "network_g": {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2},
    "pixel_opt": {"type": "L1Loss"},
    "ema_decay": 0.5,
}


def make_model(**optimizer):
    model = RestorationModel(**OPTIONS, optim_g={"type": "Adam", "lr": 1e-3, **optimizer})
    model.configure_optimizer()
    return model


def step(model, iteration=1):
    gt = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(iteration))
    model.training_step({"lq": gt[..., ::2, ::2], "gt": gt}, iteration)


def test_hyperparameters_are_not_saved_and_those_of_old_states_are_ignored():
    model = make_model(weight_decay=0.1)
    step(model)
    assert model.state_dict()["optimizer"]["param_groups"] == [{}]
    old = {**model.state_dict(), "optimizer": model.optimizer.state_dict()}  # as in version 0.1.0
    for state in (model.state_dict(), old):
        new = make_model(weight_decay=0.5, betas=(0.5, 0.9), eps=1e-4, lr=1e-2)
        assert new.load_state_dict(state) == []
        group = new.optimizer.param_groups[0]
        assert (group["weight_decay"], group["betas"], group["eps"]) == (0.5, (0.5, 0.9), 1e-4)
        moments = new.optimizer.state_dict()["state"]
        assert torch.equal(moments[0]["exp_avg"], model.optimizer.state_dict()["state"][0]["exp_avg"])
        step(new, 2)
        assert group["lr"] == 1e-2


@pytest.mark.parametrize(
    ("before", "after", "is_used"),
    [
        ({}, {"type": "AdamW", "weight_decay": 0.1}, True),
        ({"type": "AdamW"}, {}, True),
        ({}, {"type": "SGD", "momentum": 0.9}, False),
        ({"type": "SGD", "momentum": 0.9}, {}, False),
        ({}, {"amsgrad": True}, False),
        ({"type": "SGD"}, {"type": "SGD", "momentum": 0.9}, True),
        ({"type": "SGD", "momentum": 0.5}, {"type": "SGD", "momentum": 0.9, "nesterov": True}, True),
        ({"type": "RMSprop"}, {"type": "RMSprop", "centered": True}, False),
        ({"type": "Adafactor"}, {"type": "Adafactor", "weight_decay": 0.1}, True),
    ],
)
def test_moments_are_used_if_the_new_optimizer_has_the_same(before, after, is_used):
    for as_in_0_1_0 in (False, True):
        model = make_model(**before)
        step(model)
        state = model.state_dict()
        if as_in_0_1_0:
            state["optimizer"] = model.optimizer.state_dict()
        other = make_model(**after)
        assert other.load_state_dict(state) == ([] if is_used else ["optimizer"])
        assert bool(other.optimizer.state) == is_used or before == {"type": "SGD"}
        step(other, 2)
        assert type(other.optimizer) is OPTIMIZERS.get(after.get("type", "Adam"))
        assert other.optimizer.param_groups[0].get("decoupled_weight_decay") in (None, after.get("type") == "AdamW")


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS.names() if name != "Muon"])  # for matrices only
def test_every_optimizer_resumes_bit_for_bit(name):
    through, second = make_model(type=name), make_model(type=name)
    for iteration in (1, 2):
        step(through, iteration)
    assert second.load_state_dict(through.state_dict()) == []
    for model in (through, second):
        step(model, 3)
    for key, value in through.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[key], value), key


def test_values_that_an_optimizer_changes_in_its_groups_are_saved(monkeypatch):
    """As in Prodigy and schedule-free optimizers."""
    monkeypatch.setitem(OPTIMIZERS._classes, "Counting", Counting)
    model, other = make_model(type="Counting"), make_model(type="Counting", step_size=2)
    step(model)
    step(model, 2)
    assert model.state_dict()["optimizer"]["param_groups"] == [{"steps": 2}]
    assert other.load_state_dict(model.state_dict()) == []
    assert (other.optimizer.param_groups[0]["steps"], other.optimizer.param_groups[0]["step_size"]) == (2, 2)


class Counting(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.1, step_size: int = 1) -> None:
        super().__init__(params, lr)
        for group in self.param_groups:
            group.update(steps=0, step_size=step_size)

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["steps"] += group["step_size"]


def test_moments_of_an_earlier_state_do_not_stay():
    model, other = make_model(), make_model(type="SGD", momentum=0.9)
    step(model)
    step(other)
    assert other.load_state_dict(model.state_dict()) == ["optimizer"]
    assert not other.optimizer.state


@pytest.mark.parametrize(
    ("part", "key", "value", "expected"),
    [
        ("network", "conv_first.weight", float("nan"), ["network_g.conv_first.weight"]),
        ("network", "conv_last.bias", float("-inf"), ["network_g.conv_last.bias"]),
        ("ema", "network.conv_last.bias", float("inf"), ["ema.network.conv_last.bias"]),
        ("network", "conv_last.bias", 1e38, []),
    ],
)
def test_weights_that_are_not_finite_are_named(part, key, value, expected):
    model = make_model()
    assert model.not_finite() == []
    getattr(model, part).state_dict()[key].view(-1)[-1] = value
    assert model.not_finite() == expected


def test_infinite_buffers_are_masks():
    model = make_model()
    model.network.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    assert model.not_finite() == []
    model.network.mask[0] = float("nan")
    assert model.not_finite() == ["network_g.mask"]
