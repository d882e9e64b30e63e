"""Keys of weights: moving averages, prefixes, wrappers and counters."""

import pytest
import torch
from torch import nn

from mcir.registry import ARCHS
from mcir.weights import WeightsError, detect, load_network, load_state, match_state_dict, read_weights
from mcir.weights.keys import own_keys, parts_of

SECTION = {"type": "EDSR", "num_feat": 4, "num_block": 2, "upscale": 2}


@pytest.fixture(scope="module")
def state():
    return ARCHS.build(SECTION).state_dict()


@pytest.fixture(scope="module")
def zeros(state):
    return {key: torch.zeros_like(value) for key, value in state.items()}


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def assert_loads(file, content, state):
    """The file contains the network with this state: for detection, for building it, and for a given network."""
    torch.save(content, file)
    weights = read_weights(file).tensors
    assert detect(weights).mismatches == []
    given = ARCHS.build(SECTION)
    assert load_state(given, weights) == []
    for network in (load_network(file), given):
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    "prefix",
    ["module.", "model.", "generator.", "net.", "_orig_mod.", "net_g.", "any_name.", "module.model.",
     "model.net.module.", "_orig_mod.module.", "module._orig_mod.", "model._orig_mod."],
)  # fmt: skip
@pytest.mark.parametrize("key", [None, "state_dict"])
def test_a_prefix_of_all_keys_is_removed(tmp_path, state, prefix, key):
    content = prefixed(prefix, state)
    assert_loads(tmp_path / "net.pth", content if key is None else {key: content, "epoch": 3}, state)


@pytest.mark.parametrize(
    "average",
    ["params_ema", "ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "ema_params", "model-ema",
     "averaged_model", "swa_state_dict", "EMA", "ema_weights"],
)  # fmt: skip
@pytest.mark.parametrize("raw", ["params", "state_dict", "model"])
def test_the_moving_average_is_preferred(tmp_path, state, zeros, average, raw):
    assert_loads(tmp_path / "net.pth", {raw: zeros, average: state}, state)
    assert_loads(tmp_path / "net.pth", {average: prefixed("module.", state), "step": 3, raw: zeros}, state)


def test_a_section_named_like_an_average_without_tensors_is_ignored(tmp_path, state):
    assert_loads(tmp_path / "net.pth", {"params": state, "ema": {"decay": 0.999}, "params_ema": {}}, state)


def test_the_average_of_several_networks_in_one_state_dict_is_preferred(tmp_path, state, zeros):
    others = {"discriminator.0.weight": torch.ones(3), "step_counter": torch.tensor(3)}
    content = {**prefixed("generator.", zeros), **prefixed("generator_ema.", state), **others}
    assert_loads(tmp_path / "net.pth", {"state_dict": content}, state)
    assert_loads(tmp_path / "net.pth", {"state_dict": {**prefixed("model.", state), **others}}, state)


def test_two_networks_of_which_none_is_an_average_are_ambiguous(tmp_path, state, zeros):
    torch.save({**prefixed("one.", state), **prefixed("other.", zeros)}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="no weight of the file matches EDSR"):
        load_network(tmp_path / "net.pth")


def test_averaged_models_and_compiled_parts_are_recognized(tmp_path, state):
    averaged = torch.optim.swa_utils.AveragedModel(ARCHS.build(SECTION))
    averaged.module.load_state_dict(state)
    assert_loads(tmp_path / "net.pth", averaged.state_dict(), state)
    assert_loads(tmp_path / "net.pth", {"state_dict": {**prefixed("module.", state), "steps": torch.tensor(5)}}, state)
    compiled = ARCHS.build(SECTION)
    compiled.load_state_dict(state)
    compiled.body[1] = torch.compile(compiled.body[1])
    assert any("_orig_mod" in key for key in compiled.state_dict())
    assert_loads(tmp_path / "net.pth", compiled.state_dict(), state)


def test_a_network_whose_keys_have_a_common_prefix_keeps_it():
    network = nn.ModuleDict({"body": nn.Linear(2, 2), "module": nn.Linear(2, 2)})
    for part in (network, nn.ModuleDict({"body": network}), nn.ModuleDict({"model": nn.Sequential(nn.Linear(2, 2))})):
        state = part.state_dict()
        assert own_keys(state).keys() == state.keys()
        assert match_state_dict(part, state)[0].keys() == state.keys()


def test_the_number_of_parts_is_bounded():
    many = {f"{number}.{'a.' * 1000}weight": torch.zeros(1) for number in range(1000)}
    assert len(list(parts_of(many))) == 1
    assert len(list(parts_of({f"{'a.' * 1000}weight": torch.zeros(1)}))) < 10


@pytest.mark.parametrize("strict", [True, False])
def test_weights_of_which_none_matches_are_an_error_that_shows_both_sides(state, strict):
    weights = {f"encoder.stage.{key}.x": value for key, value in state.items()}
    with pytest.raises(WeightsError) as error:
        load_state(ARCHS.build(SECTION), weights, strict)
    lines = [line.split() for line in str(error.value).splitlines()]
    assert lines[0] == ["no", "weight", "of", "the", "file", "matches", "EDSR.", "The", "keys", "and", "shapes", "are:"]
    assert lines[2][0] == "encoder.stage.conv_first.weight.x"
    assert lines[2][-5] == "conv_first.weight"


def test_without_strict_one_matching_weight_suffices(state):
    network = ARCHS.build(SECTION)
    assert len(load_state(network, {"conv_first.weight": state["conv_first.weight"]}, strict=False)) == len(state) - 1
    assert torch.equal(network.conv_first.weight, state["conv_first.weight"])
