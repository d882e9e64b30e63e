"""Networks that files describe: built only within bounds that follow from the weights in the file."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mcir.inference.inspection import inspect_weights
from mcir.registry import ARCHS
from mcir.weights import WeightsError, detect, load_network
from mcir.weights.building import build_on_meta
from tests.trust.campaign import time_limit

ONE = {"conv_first.weight": torch.zeros(1)}


def integer_arguments():
    for name in ARCHS.names():
        for argument, parameter in ARCHS.parameters(name).items():
            default = parameter.default
            numbers = default if isinstance(default, tuple | list) else [default]
            if numbers and all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
                yield name, argument, len(numbers) if isinstance(default, tuple | list) else None


@pytest.mark.slow
@pytest.mark.parametrize(("name", "argument", "length"), list(integer_arguments()))
@pytest.mark.parametrize("value", [10**5, 10**9])
def test_no_argument_makes_building_unbounded(name, argument, length, value):
    """Also numbers that a constructor accepts are rejected before it computes 10⁹ numbers or masks of 10⁹ pixels."""
    section = {"type": name, argument: value if length is None else [value] * length}
    with time_limit(60):
        try:
            network = build_on_meta(section, ONE)
        except WeightsError:
            return
    assert sum(buffer.numel() for buffer in network.buffers()) < 2**27


@pytest.mark.parametrize(
    "section",
    [
        {"type": "EDSR", "num_block": 10**9},
        {"type": "EDSR", "num_feat": 2_000_000},
        {"type": "SwinIR", "depths": [10**9] * 6},
        {"type": "SwinIR", "img_size": 10**5},
        {"type": "IDT", "depths": [10**9] * 9},
    ],
)
@pytest.mark.parametrize("action", [load_network, inspect_weights])
def test_files_that_ask_for_huge_networks_are_rejected(tmp_path, section, action):
    file = tmp_path / "net.safetensors"
    arguments = {key: value for key, value in section.items() if key != "type"}
    save_file(ONE, file, {"architecture": section["type"], "hyperparameters": json.dumps(arguments)})
    with time_limit(60), pytest.raises(WeightsError, match=r"net\.safetensors: the network cannot be built: "):
        action(file)


def test_a_network_with_other_shapes_than_the_weights_is_described_and_not_built(tmp_path):
    file = tmp_path / "net.safetensors"
    save_file(ONE, file, {"architecture": "EDSR", "hyperparameters": json.dumps({"num_feat": 4000})})  # 20 GB
    lines, is_complete = inspect_weights(file)
    assert not is_complete
    assert any(line.startswith("differs       body.0.conv1.bias (missing in the file)") for line in lines)
    with pytest.raises(WeightsError, match=r"net\.safetensors: \d+ weights do not match EDSR"):
        load_network(file)


@pytest.mark.parametrize("value", ["many", None, [4], True, 4.5, {"a": 1}, float("nan")])
def test_stated_arguments_must_have_the_type_of_the_constructor(tmp_path, value):
    file = tmp_path / "net.safetensors"
    save_file(ONE, file, {"architecture": "EDSR", "hyperparameters": json.dumps({"num_feat": value})})
    for action in (load_network, inspect_weights):
        with pytest.raises(WeightsError, match=r"net\.safetensors: the network cannot be built: argument 'num_feat'"):
            action(file)


def test_integers_lists_and_null_are_accepted_as_json_has_them(tmp_path):
    section = {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2, "img_range": 1, "rgb_mean": [0, 0.5, 1]}
    network = ARCHS.build(section)
    metadata = {
        "architecture": "EDSR",
        "hyperparameters": json.dumps({k: v for k, v in section.items() if k != "type"}),
    }
    save_file(network.state_dict(), tmp_path / "net.safetensors", metadata)
    assert load_network(tmp_path / "net.safetensors").hyperparameters["img_range"] == 1


def test_keys_and_shapes_of_huge_networks_are_not_accepted():
    state = ARCHS.build({"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2}).state_dict()
    with time_limit(60):
        assert detect({**state, "body.1000000000.conv1.weight": torch.zeros(4, 4, 3, 3)}).mismatches
        assert detect({key: torch.zeros(0, 10**9) for key in state}) is None


def test_the_limit_grows_with_the_file_and_ends_with_the_block(monkeypatch):
    class Many(nn.Module):
        def __init__(self, count: int = 1) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Identity() for _ in range(count))

    monkeypatch.setattr(ARCHS, "_classes", {**ARCHS._classes, "Many": Many})
    with pytest.raises(WeightsError, match="more than 10,010 modules and parameters, too many for the file"):
        build_on_meta({"type": "Many", "count": 12_000}, ONE)
    weights = {str(number): torch.zeros(1) for number in range(300)}
    assert len(build_on_meta({"type": "Many", "count": 12_000}, weights).layers) == 12_000
    assert len(Many(12_000).layers) == 12_000
