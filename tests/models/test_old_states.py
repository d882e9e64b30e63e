"""Training states of version 0.1.0 load, and training continues with the same numbers."""

from pathlib import Path

import pytest
import torch

from mcir.registry import MODELS

STATES = torch.load(Path(__file__).parents[1] / "golden/states/0.1.0.pt", weights_only=True)


def make_batch(name, iteration):
    generator = torch.Generator().manual_seed(iteration)
    if name == "dense":
        boxes = torch.tensor([[0.0, 0, 16, 16], [4, 4, 20, 20]]).expand(2, 2, 4)
        return {"lq": torch.rand(2, 2, 3, 16, 16, generator=generator), "boxes": boxes}
    gt = torch.rand(2, 3, 16, 16, generator=generator)
    return {"lq": torch.nn.functional.avg_pool2d(gt, 2), "gt": gt}


@pytest.mark.parametrize("name", STATES)
def test_a_state_of_version_0_1_0_continues_with_the_same_numbers(name):
    """The file has the state after iteration 2, the scalars of iterations 3 and 4, and the weights after them."""
    case = STATES[name]
    model = MODELS.build(case["section"])
    model.load_state_dict(case["state"])
    tolerance = {"rtol": 1e-2, "atol": 1e-3} if name == "fp16" else {"rtol": 1e-4, "atol": 1e-6}
    for iteration, expected in zip((3, 4), case["scalars"], strict=True):
        scalars = {
            key: float(value) for key, value in model.training_step(make_batch(name, iteration), iteration).items()
        }
        assert scalars == pytest.approx(expected, rel=tolerance["rtol"], abs=tolerance["atol"])
    for key, value in case["params"].items():
        torch.testing.assert_close(model.network.state_dict()[key], value, **tolerance)


@pytest.mark.parametrize("name", STATES)
def test_the_keys_of_a_state_are_those_of_version_0_1_0(name):
    def keys(state):
        return {key: keys(value) for key, value in state.items()} if isinstance(state, dict) else None

    model = MODELS.build(STATES[name]["section"])
    model.load_state_dict(STATES[name]["state"])
    assert keys(model.state_dict()) == keys(STATES[name]["state"])
