"""Detecting and building networks from weight files of mcir and of official releases."""

import json

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mcir import cli
from mcir.archs import EDSR
from mcir.engine.checkpoint import NetworkFile, write_network
from mcir.registry import ARCHS
from mcir.weights import (
    WeightsError,
    detect,
    is_finite,
    load_network,
    load_state,
    match_state_dict,
    mismatch_error,
    read_weights,
)
from tests.golden import networks
from tests.golden.deterministic import deterministic_state_dict

# -- detection --------------------------------------------------------------------------------------------------------


def small_edsr(**arguments):
    return ARCHS.build({"type": "EDSR", "num_feat": 4, "num_block": 2, "upscale": 2, **arguments})


@pytest.mark.parametrize("config", networks.configs())
def test_every_official_configuration_is_detected(config):
    """Keys and shapes identify one architecture with the official arguments and number of parameters."""
    golden = networks.load(config)
    weights = {golden.own_name(key): torch.empty(shape, device="meta") for key, shape in golden.shapes.items()}
    found = detect(weights)
    assert found is not None
    assert (found.parameters, found.mismatches) == (golden.param_count, [])
    assert found.scale == golden.kwargs.get("upscale", 1)
    expected = {**golden.section, "type": found.architecture}
    if golden.section["type"] == "NAFNetLocal":
        expected = {key: value for key, value in expected.items() if key not in ("train_size", "fast_imp")}
    with torch.device("meta"):
        official, detected = ARCHS.build(expected), ARCHS.build(found.section)
    as_lists = [json.loads(json.dumps(net.hyperparameters)) for net in (official, detected)]
    assert as_lists[0] == as_lists[1]
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    classes = {name: ARCHS.get(name) for name in ARCHS.names()}
    assert [name for name, cls in classes.items() if "detect" in vars(cls) and cls.detect(shapes) is not None] == [
        found.architecture
    ]


def test_unknown_weights_are_not_detected():
    assert detect({"features.0.weight": torch.ones(2, 2)}) is None
    assert detect({}) is None


@pytest.mark.parametrize(("before", "inside"), [("", None), ("module.", "params"), ("module._orig_mod.", "state_dict")])
def test_a_network_is_rebuilt_from_its_weights_alone(tmp_path, before, inside):
    net = small_edsr().eval()
    content = {before + key: value for key, value in net.state_dict().items()}
    torch.save({inside: content, "epoch": 3} if inside else content, tmp_path / "net.pth")
    loaded = load_network(tmp_path / "net.pth")
    image = torch.rand(1, 3, 5, 6)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(image), net(image))


def test_metadata_takes_precedence_over_shapes(tmp_path):
    net = small_edsr(res_scale=0.3, img_range=1.0).eval()
    metadata = {
        "architecture": "EDSR",
        "hyperparameters": '{"num_feat": 4, "num_block": 2, "upscale": 2, "res_scale": 0.3, "img_range": 1.0}',
    }
    save_file(net.state_dict(), tmp_path / "net.safetensors", metadata)
    loaded = load_network(tmp_path / "net.safetensors")
    image = torch.rand(1, 3, 5, 6)
    with torch.no_grad():
        assert torch.equal(loaded(image), net(image))
    metadata["architecture"] = "EDSRR"
    save_file(net.state_dict(), tmp_path / "net.safetensors", metadata)
    with pytest.raises(WeightsError, match=r"cannot be built: There is no architecture 'EDSRR'.*'EDSR'"):
        load_network(tmp_path / "net.safetensors")


def test_checkpoints_store_arguments_that_shapes_do_not_show(tmp_path):
    net = small_edsr(res_scale=0.3, img_range=1.0).eval()
    write_network(tmp_path / "net", NetworkFile({"params": net.state_dict()}, "EDSR", net.hyperparameters), 1)
    image = torch.rand(1, 3, 5, 6)
    for suffix in (".pth", ".safetensors"):
        loaded = load_network(tmp_path / f"net{suffix}")
        with torch.no_grad():
            assert torch.equal(loaded(image), net(image))


@pytest.mark.parametrize("arguments", ["[1]", "no JSON", '{"num_feat": "many"}', '{"num_feat": 0}'])
def test_invalid_stored_arguments_are_reported_with_the_file(tmp_path, arguments):
    metadata = {"architecture": "EDSR", "hyperparameters": arguments}
    save_file(small_edsr().state_dict(), tmp_path / "net.safetensors", metadata)
    with pytest.raises(
        WeightsError, match=r"net\.safetensors: (the network cannot be built|'hyperparameters' of the network)"
    ):
        load_network(tmp_path / "net.safetensors")


def test_a_subclass_that_inherits_detect_is_skipped(monkeypatch):
    class Mine(EDSR):
        def __init__(self, size: int = 3) -> None:
            super().__init__(num_feat=size)

    monkeypatch.setattr(ARCHS, "_classes", dict(ARCHS._classes))
    ARCHS.register(name="AMine")(Mine)
    found = detect(small_edsr().state_dict())
    assert found.architecture == "EDSR"
    assert found.guessed == ("res_scale",)


def test_an_unknown_architecture_is_reported_with_the_first_keys(tmp_path):
    torch.save({"features.0.weight": torch.ones(2)}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"no known architecture .* has these 1 keys: features\.0\.weight"):
        load_network(tmp_path / "net.pth")


def test_mismatches_are_reported_with_the_file_and_the_keys(tmp_path):
    content = small_edsr().state_dict()
    content["body.1.conv2.bias"] = torch.zeros(5)
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(
        WeightsError,
        match=r"net\.pth: 1 weights do not match EDSR:\n  body\.1\.conv2\.bias \(expected \(4,\), got \(5,\)\)",
    ):
        load_network(tmp_path / "net.pth")


def test_the_section_of_an_option_file_takes_precedence_over_metadata(tmp_path):
    net = small_edsr(res_scale=0.3, img_range=1.0).eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    section = {"type": "EDSR", **net.hyperparameters}
    image = torch.rand(1, 3, 5, 6)
    with torch.no_grad():
        assert not torch.allclose(load_network(tmp_path / "net.pth")(image), net(image))
        assert torch.equal(load_network(tmp_path / "net.pth", section=section)(image), net(image))
    assert section == {"type": "EDSR", **net.hyperparameters}
    write_network(tmp_path / "own", NetworkFile({"params": net.state_dict()}, "EDSR", net.hyperparameters), 1)
    with torch.no_grad():
        other = load_network(tmp_path / "own.safetensors", section={**section, "img_range": 2.0})
        assert not torch.allclose(other(image), net(image))


def test_a_section_that_differs_from_the_metadata_is_logged(tmp_path, caplog):
    net = small_edsr(res_scale=0.3, img_range=1.0)
    write_network(tmp_path / "net", NetworkFile({"params": net.state_dict()}, "EDSR", net.hyperparameters), 1)
    same = {"type": "EDSR", "num_feat": 4, "num_block": 2, "upscale": 2, "res_scale": 0.3, "img_range": 1}
    with caplog.at_level("WARNING", "mcir"):
        load_network(tmp_path / "net.pth", section={**same, "rgb_mean": (0.4488, 0.4371, 0.404)})
        assert not caplog.messages
        load_network(tmp_path / "net.pth", section={**same, "res_scale": 1, "img_range": 255.0})
    (message,) = caplog.messages
    assert message.endswith(
        "net.pth was trained with res_scale 0.3, img_range 1.0, but is loaded with res_scale 1, img_range 255.0."
    )


def test_a_section_that_does_not_match_is_rejected(tmp_path):
    torch.save(small_edsr().state_dict(), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"net\.pth: the network cannot be built: There is no .* 'EDSRR'"):
        load_network(tmp_path / "net.pth", section={"type": "EDSRR"})
    with pytest.raises(WeightsError, match=r"net\.pth: .* do not match EDSR:[\s\S]*weights match EDSR \(num_in_ch: 3"):
        load_network(tmp_path / "net.pth", section={"type": "EDSR", "num_feat": 5, "num_block": 2, "upscale": 2})


# -- matching ---------------------------------------------------------------------------------------------------------


def test_the_error_names_mismatches_and_the_matching_network():
    net, other = small_edsr(), small_edsr(num_block=8, upscale=4)
    mismatches = match_state_dict(net, other.state_dict())[1]
    message = str(mismatch_error(net, other.state_dict(), mismatches))
    assert message.startswith(f"{len(mismatches)} weights do not match EDSR:\n  body.2.conv1.bias (not in the network)")
    assert len(message.splitlines()) == 13  # title, ten mismatches, number of other mismatches, matching network
    assert "The weights match EDSR (num_in_ch: 3, num_out_ch: 3, num_feat: 4, num_block: 8, upscale: 4" in message


def test_masks_of_another_training_size_are_ignored():
    """SwinIR's official files contain masks and index tables for the size of the training images."""
    golden = networks.load("swinir_light_x2")
    weights = deterministic_state_dict(golden.shapes, golden.gain)
    small = ARCHS.build({"type": "SwinIR", **golden.kwargs, "img_size": 32})
    masks = {key: torch.ones(golden.shapes[key]) for key in golden.shapes if key not in weights}
    assert any(masks[key].shape != value.shape for key, value in small.state_dict().items() if key in masks)
    for stored_masks in (masks, {}):
        fits, mismatches = match_state_dict(small, {**weights, **stored_masks})
        assert not mismatches
        small.load_state_dict(fits, strict=True)
    net = ARCHS.build({"type": "SwinIR", **golden.kwargs})
    net.load_state_dict({**net.state_dict(), **weights})
    image = torch.rand(1, 3, 20, 20)
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(image), net.eval()(image))


# -- weights that are not finite --------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path):
    """A file with NaN in one weight and infinity in another, which exceeds the range of float32."""
    state = small_edsr().state_dict()
    state["body.1.conv2.bias"][2] = torch.nan
    state["conv_last.weight"] = torch.full_like(state["conv_last.weight"], 1e300, dtype=torch.float64)
    torch.save({"params": state}, tmp_path / "net.pth")
    return tmp_path / "net.pth"


def test_weights_that_are_not_finite_are_rejected_by_name(damaged):
    message = r"2 of \d+ weights are not finite \(NaN or infinity\): body\.1\.conv2\.bias, conv_last\.weight\."
    with pytest.raises(WeightsError, match=rf"net\.pth: {message}"):
        load_network(damaged)
    for strict in (True, False):
        with pytest.raises(WeightsError, match=message):
            load_state(small_edsr(), read_weights(damaged).tensors, strict)


@pytest.mark.parametrize("command", ["inspect FILE", "restore DIR -w FILE -o OUT", "export FILE --safetensors -o OUT"])
def test_no_command_uses_weights_that_are_not_finite(damaged, tmp_path, capsys, command):
    (tmp_path / "lq").mkdir()
    cv2.imwrite(str(tmp_path / "lq/a.png"), np.zeros((8, 8, 3), np.uint8))
    names = {"FILE": damaged, "DIR": tmp_path / "lq", "OUT": tmp_path / "out"}
    assert cli.main([str(names.get(word, word)) for word in command.split()]) == 1
    written = "".join(capsys.readouterr())
    assert "not finite (NaN or infinity): body.1.conv2.bias" in written
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_infinite_values_that_the_network_itself_contains_are_accepted():
    class Masked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2))
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    state = Masked().state_dict()
    assert load_state(Masked(), state) == []
    with pytest.raises(WeightsError, match="1 of 1 weights are not finite"):
        load_state(Masked(), {**state, "weight": torch.tensor([1.0, torch.inf])})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64])
def test_values_are_finite_although_their_sum_overflows(dtype):
    largest = torch.full((100,), torch.finfo(dtype).max).to(dtype)
    assert is_finite(largest)
    assert not is_finite(torch.cat([largest, torch.tensor([torch.nan]).to(dtype)]))


def test_long_names_and_long_lists_of_a_file_are_shortened(tmp_path):
    long = "x" * 10**6
    for content in ({long: torch.ones(2)}, {f"{long}{number}": {"a": torch.ones(1)} for number in range(50)}):
        torch.save(content, tmp_path / "net.pth")
        with pytest.raises(WeightsError) as error:
            load_network(tmp_path / "net.pth")
        assert len(str(error.value)) < 5000
    with pytest.raises(WeightsError) as error:
        load_state(small_edsr(), {long: torch.ones(2)})
    assert len(str(error.value)) < 5000
