"""Weights of every origin: recognised and fitted."""

import pytest
import torch
from safetensors.torch import save_file

from mcir.archs import EDSR
from mcir.engine.checkpoint import NetworkFile, write_network
from mcir.registry import ARCHS
from mcir.weights import WeightsError, detect, load_network, match_state_dict, mismatch_error
from tests.golden import networks
from tests.golden.deterministic import deterministic_state_dict

# -- recognising ------------------------------------------------------------------------------------------------------


def small_edsr(**arguments):
    return ARCHS.build({"type": "EDSR", "num_feat": 4, "num_block": 2, "upscale": 2, **arguments})


@pytest.mark.parametrize("config", networks.configs())
def test_every_official_configuration_is_recognised(config):
    """From keys and shapes alone; what was detected has the official number of parameters and fits."""
    golden = networks.load(config)
    weights = {golden.own_name(key): torch.empty(shape, device="meta") for key, shape in golden.shapes.items()}
    found = detect(weights)
    assert found is not None
    assert found.architecture.lower().startswith(golden.family[:3])
    assert (found.parameters, found.mismatches) == (golden.param_count, [])
    assert found.scale == golden.kwargs.get("upscale", 1)


def test_nothing_is_recognised_in_strange_weights():
    assert detect({"features.0.weight": torch.ones(2, 2)}) is None
    assert detect({}) is None


@pytest.mark.parametrize(("before", "inside"), [("", None), ("module.", "params"), ("module._orig_mod.", "state_dict")])
def test_a_network_comes_back_from_its_weights_alone(tmp_path, before, inside):
    net = small_edsr().eval()
    content = {before + key: value for key, value in net.state_dict().items()}
    torch.save({inside: content, "epoch": 3} if inside else content, tmp_path / "net.pth")
    again = load_network(tmp_path / "net.pth")
    image = torch.rand(1, 3, 5, 6)
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(image), net(image))


def test_what_a_file_says_of_its_network_counts_more_than_its_shapes(tmp_path):
    net = small_edsr(res_scale=0.3, img_range=1.0).eval()
    facts = {
        "architecture": "EDSR",
        "hyperparameters": '{"num_feat": 4, "num_block": 2, "upscale": 2, "res_scale": 0.3, "img_range": 1.0}',
    }
    save_file(net.state_dict(), tmp_path / "net.safetensors", facts)
    again = load_network(tmp_path / "net.safetensors")
    image = torch.rand(1, 3, 5, 6)
    with torch.no_grad():
        assert torch.equal(again(image), net(image))
    facts["architecture"] = "EDSRR"
    save_file(net.state_dict(), tmp_path / "net.safetensors", facts)
    with pytest.raises(WeightsError, match=r"cannot be built here\. There is no architecture 'EDSRR'.*'EDSR'"):
        load_network(tmp_path / "net.safetensors")


def test_a_checkpoint_of_ours_says_what_shapes_do_not(tmp_path):
    net = small_edsr(res_scale=0.3, img_range=1.0).eval()
    write_network(tmp_path / "net", NetworkFile({"params": net.state_dict()}, "EDSR", net.hyperparameters), 1)
    image = torch.rand(1, 3, 5, 6)
    for suffix in (".pth", ".safetensors"):
        again = load_network(tmp_path / f"net{suffix}")
        with torch.no_grad():
            assert torch.equal(again(image), net(image))


@pytest.mark.parametrize("arguments", ["[1]", "no JSON", '{"num_feat": "many"}', '{"num_feat": 0}'])
def test_arguments_that_build_no_network_are_told_with_the_file(tmp_path, arguments):
    facts = {"architecture": "EDSR", "hyperparameters": arguments}
    save_file(small_edsr().state_dict(), tmp_path / "net.safetensors", facts)
    with pytest.raises(WeightsError, match=r"net\.safetensors: (its network cannot be built|what it says)"):
        load_network(tmp_path / "net.safetensors")


def test_a_subclass_of_an_architecture_takes_no_files_from_it(monkeypatch):
    class Mine(EDSR):
        def __init__(self, size: int = 3) -> None:
            super().__init__(num_feat=size)

    monkeypatch.setattr(ARCHS, "_classes", dict(ARCHS._classes))
    ARCHS.register(name="AMine")(Mine)
    found = detect(small_edsr().state_dict())
    assert found.architecture == "EDSR"
    assert found.guessed == ("res_scale",)


def test_a_file_of_no_known_architecture_is_told_by_its_first_keys(tmp_path):
    torch.save({"features.0.weight": torch.ones(2)}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"its 1 keys are of no architecture.*the first are features\.0\.weight"):
        load_network(tmp_path / "net.pth")


def test_damaged_weights_are_told_key_by_key(tmp_path):
    content = small_edsr().state_dict()
    content["body.1.conv2.bias"] = torch.zeros(5)
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(
        WeightsError, match=r"do not fit EDSR:\n  body\.1\.conv2\.bias \(\(5,\) in the file, \(4,\) here\)"
    ):
        load_network(tmp_path / "net.pth")


def test_the_section_of_an_option_file_counts_more_than_what_a_file_says(tmp_path):
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


def test_a_section_that_says_otherwise_than_the_file_is_told(tmp_path, caplog):
    net = small_edsr(res_scale=0.3, img_range=1.0)
    write_network(tmp_path / "net", NetworkFile({"params": net.state_dict()}, "EDSR", net.hyperparameters), 1)
    same = {"type": "EDSR", "num_feat": 4, "num_block": 2, "upscale": 2, "res_scale": 0.3, "img_range": 1}
    with caplog.at_level("WARNING", "mcir"):
        load_network(tmp_path / "net.pth", section={**same, "rgb_mean": (0.4488, 0.4371, 0.404)})
        assert not caplog.messages
        load_network(tmp_path / "net.pth", section={**same, "res_scale": 1, "img_range": 255.0})
    (told,) = caplog.messages
    assert told.endswith(
        "net.pth was trained with res_scale 0.3, img_range 1.0; here it is res_scale 1, img_range 255.0."
    )


def test_a_section_that_does_not_fit_is_told(tmp_path):
    torch.save(small_edsr().state_dict(), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"net\.pth: its network cannot be built here\. There is no .* 'EDSRR'"):
        load_network(tmp_path / "net.pth", section={"type": "EDSRR"})
    with pytest.raises(WeightsError, match=r"weights do not fit EDSR:[\s\S]*look like those of EDSR \(num_in_ch: 3"):
        load_network(tmp_path / "net.pth", section={"type": "EDSR", "num_feat": 5, "num_block": 2, "upscale": 2})


# -- fitting ----------------------------------------------------------------------------------------------------------


def test_unfit_weights_are_named_with_what_they_look_like():
    net, other = small_edsr(), small_edsr(num_block=8, upscale=4)
    mismatches = match_state_dict(net, other.state_dict())[1]
    message = str(mismatch_error(net, other.state_dict(), mismatches))
    assert message.startswith(f"{len(mismatches)} weights do not fit EDSR:\n  body.2.conv1.bias (not in the network)")
    assert len(message.splitlines()) == 13  # ten, and how many more, and a guess
    assert "look like those of EDSR (num_in_ch: 3, num_out_ch: 3, num_feat: 4, num_block: 8, upscale: 4" in message


def test_masks_of_another_training_size_do_not_matter():
    """SwinIR's official files hold masks and index tables of the size that they were trained with."""
    golden = networks.load("swinir_light_x2")
    weights = deterministic_state_dict(golden.shapes, golden.gain)
    small = ARCHS.build({"type": "SwinIR", **golden.kwargs, "img_size": 32})
    masks = {key: torch.ones(golden.shapes[key]) for key in golden.shapes if key not in weights}
    assert any(masks[key].shape != value.shape for key, value in small.state_dict().items() if key in masks)
    for files_masks in (masks, {}):
        fits, mismatches = match_state_dict(small, {**weights, **files_masks})
        assert not mismatches
        small.load_state_dict(fits, strict=True)
    net = ARCHS.build({"type": "SwinIR", **golden.kwargs})
    net.load_state_dict({**net.state_dict(), **weights})
    image = torch.rand(1, 3, 20, 20)
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(image), net.eval()(image))
