"""Tests of the training loop: the order of the callbacks, and the random numbers of a step."""

from itertools import count

import pytest
import torch

from mcir.engine.fit import fit
from mcir.models import RestorationModel
from mcir.registry import ARCHS


class Noisy(torch.nn.Module):
    """A network that uses torch's global random generator."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * (x + torch.rand_like(x))


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(ARCHS, "build", lambda section, **_: Noisy())
    return RestorationModel(
        network_g={"type": "Noisy"}, optim_g={"type": "SGD", "lr": 0.1}, pixel_opt={"type": "L1Loss"}
    )


def batches(start=0):
    for number in count(start):
        image = torch.full((1, 3, 4, 4), number / 10)
        yield {"lq": image, "gt": image, "gt_path": [str(number)]}


def record(calls, name, result=None):
    def call(*arguments):
        calls.append((name, *[argument for argument in arguments if isinstance(argument, int)]))
        return result

    return call


def test_callbacks_are_called_in_order_and_after_the_last_iteration(model):
    calls = []
    last = fit(
        model,
        batches(),
        total=5,
        log_every=2,
        validate_every=3,
        save_every=4,
        on_step=record(calls, "step"),
        on_log=record(calls, "log"),
        on_validation=record(calls, "validation", result=False),
        on_checkpoint=record(calls, "checkpoint"),
    )
    assert last == 5 and model.total_iter == 5
    assert calls == [
        ("step", 1),
        ("step", 2), ("log", 2),
        ("step", 3), ("validation", 3),
        ("step", 4), ("log", 4), ("checkpoint", 4, False),
        ("step", 5), ("log", 5), ("checkpoint", 5, False), ("validation", 5), ("checkpoint", 5, False),
    ]  # fmt: skip


def test_the_best_model_is_saved_immediately(model):
    calls = []
    fit(
        model,
        batches(),
        total=2,
        validate_every=1,
        on_validation=record(calls, "validation", result=True),
        on_checkpoint=record(calls, "checkpoint"),
    )
    assert [call for call in calls if call[0] == "checkpoint"] == [("checkpoint", 1, True), ("checkpoint", 2, True)]


def test_a_stopped_training_is_saved_and_reports_its_iteration(model):
    calls, signals = [], iter([0, 0, 15])
    last = fit(
        model, batches(), total=9, save_every=9, on_checkpoint=record(calls, "save"), should_stop=lambda: next(signals)
    )
    assert last == 3 and calls == [("save", 3, False)]


@pytest.mark.parametrize(("stops", "last"), [(0, 5), (15, 4)])
def test_a_validation_that_was_stopped_comes_before_the_first_step(model, stops, last):
    calls = []
    settings = {"save_every": 4, "on_validation": record(calls, "validation", result=True)}
    settings |= {"on_checkpoint": record(calls, "checkpoint"), "on_step": record(calls, "step")}
    settings |= {"start": 4, "total": 5, "validate_every": 2, "should_stop": lambda: stops}
    assert fit(model, batches(4), validate_first=True, **settings) == last
    validated = [("checkpoint", 4, False), ("validation", 4), ("checkpoint", 4, True)]
    assert calls[:3] == validated and calls[3:4] == ([] if stops else [("step", 5)])


def test_only_iterations_with_a_validation_are_validated_first(model):
    calls = []
    settings = {"on_validation": record(calls, "validation"), "on_step": record(calls, "step")}
    fit(model, batches(3), start=3, total=4, validate_every=2, validate_first=True, **settings)
    assert calls == [("step", 4), ("validation", 4)]


def losses(model, start, total, **settings):
    values = []
    fit(
        model, batches(start), start=start, total=total, **settings,
        on_step=lambda iteration, batch, scalars: values.append(float(scalars["l_pix"])),
    )  # fmt: skip
    return values


def test_the_random_numbers_of_a_step_do_not_depend_on_the_start(model):
    optimizer = {"type": "SGD", "lr": 1e-30}
    model = RestorationModel(network_g={"type": "Noisy"}, optim_g=optimizer, pixel_opt={"type": "L1Loss"})
    whole = losses(model, 0, 4, seed=3)
    torch.manual_seed(99)
    assert losses(model, 2, 4, seed=3) == whole[2:]
    assert losses(model, 2, 4, seed=4) != whole[2:]
    assert losses(model, 2, 4, seed=3, rank=1) != whole[2:]


def test_too_few_batches_are_an_error(model):
    with pytest.raises(StopIteration):
        fit(model, [next(batches())], total=2)
