import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from mcir.features.torchvision import ClassifierFeatures, feature_network
from mcir.features.vgg import VGGFeatures
from mcir.weights import WeightsError

NODES = ["layer1.0.bn2", "layer1.0.relu_1", "layer1"]


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, str]:
    """torchvision's network with statistics that are no identity, and a file of its weights."""
    torch.manual_seed(0)
    net = torchvision.models.resnet18(weights=None).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                value.uniform_(0.5, 1.5)
    file = tmp_path_factory.mktemp("resnet") / "resnet18.pth"
    torch.save(net.state_dict(), file)
    return net, str(file)


def plain(net: Any, x: Tensor) -> dict[str, Tensor]:
    """The first stage of a ResNet18 as its paper has it (He et al., CVPR 2016), nothing overwritten."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = net.maxpool(torch.relu(net.bn1(net.conv1((x - mean) / std))))
    found = {}
    for number, block in enumerate(net.layer1):
        inner = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
        if number == 0:
            found["layer1.0.bn2"] = inner
        x = torch.relu(inner + x)
        found["layer1.0.relu_1" if number == 0 else "layer1"] = x
    return found


def test_activations_and_gradients_are_those_of_the_network(resnet18: tuple[nn.Module, str]) -> None:
    reference, file = resnet18
    net = ClassifierFeatures(NODES, "resnet18", file)
    gradients = []
    for network in (net, lambda x: plain(reference, x)):
        leaf = torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(1)).requires_grad_()
        found = network(leaf)
        assert list(found) == NODES
        sum(activation.sin().mean() for activation in found.values()).backward()
        gradients.append((found, leaf.grad))
    for name in NODES:
        torch.testing.assert_close(gradients[0][0][name], gradients[1][0][name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], rtol=1e-4, atol=1e-6)


def test_what_the_stream_yields_may_be_overwritten(resnet18: tuple[nn.Module, str]) -> None:
    net = ClassifierFeatures(["conv1", "bn1", "relu", "layer1.0.bn2", "layer1"], "resnet18", resnet18[1])
    images = torch.rand(1, 3, 24, 24)
    before = images.clone()
    with torch.no_grad():
        expected = {name: value.clone() for name, value in net(images).items()}
        for name, activation in net.stream(images):
            assert torch.equal(activation, expected[name]), name
            activation.fill_(float("nan"))
        assert list(dict(net.stream(images, ["relu", "layer1"]))) == ["relu", "layer1"]
    assert torch.equal(images, before)


def test_nodes_that_are_one_tensor_do_not_share_memory() -> None:
    net = ClassifierFeatures(["avgpool", "flatten"], "resnet18", "random")
    with torch.no_grad():
        expected = net(torch.ones(1, 3, 32, 32))["flatten"].clone()
        for name, activation in net.stream(torch.ones(1, 3, 32, 32)):
            assert name == "avgpool" or torch.equal(activation, expected)
            activation.zero_()


def test_frozen_and_cut_down_to_what_is_needed(resnet18: tuple[nn.Module, str]) -> None:
    net = ClassifierFeatures(["layer1"], "resnet18", resnet18[1])
    parent = nn.Sequential(net, nn.BatchNorm2d(3)).train().requires_grad_(True)
    assert not any(module.training for module in net.modules())
    assert not list(net.parameters()) and not any(key.startswith("0.") for key in parent.state_dict())
    assert not any("layer2" in name or "fc" in name for name, _ in net.named_buffers())
    before = [buffer.clone() for buffer in net.buffers()]
    images = torch.rand(2, 3, 16, 16).requires_grad_()
    net(images)["layer1"].mean().backward()
    assert images.grad is not None and images.grad.any()
    assert all(torch.equal(*pair) for pair in zip(before, net.buffers(), strict=True))
    assert torch.equal(copy.deepcopy(net)(images)["layer1"], net(images)["layer1"])
    assert net.double()(images)["layer1"].dtype == torch.float64


def test_random_weights_come_from_the_seed_alone(caplog: pytest.LogCaptureFixture) -> None:
    state, images = torch.get_rng_state(), torch.ones(1, 3, 16, 16)
    with caplog.at_level(logging.WARNING):
        one, same, other = (ClassifierFeatures(["layer1"], "resnet18", "random", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert "random weights" in caplog.text
    assert torch.equal(one(images)["layer1"], same(images)["layer1"])
    assert not torch.equal(one(images)["layer1"], other(images)["layer1"])
    assert torch.equal(one.with_layers(["conv1", "layer1"])(images)["layer1"], one(images)["layer1"])
    assert one.kind == same.kind != other.kind


@pytest.mark.parametrize(("weights", "version"), [("imagenet", "IMAGENET1K_V1"), ("IMAGENET1K_V2", "IMAGENET1K_V2")])
def test_torchvisions_weights_by_name(
    weights: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = torchvision.models.get_model_weights("resnet50")[version].url.rpartition("/")[2]
    torch.manual_seed(1)
    state = torchvision.models.resnet50(weights=None).state_dict()
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / name)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    net = ClassifierFeatures(["relu"], "resnet50", weights)
    assert torch.equal(net.net.conv1.weight, state["conv1.weight"])


def test_on_the_meta_device_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("mcir.features.torchvision.read_weights", refuse)
    monkeypatch.setattr("mcir.features.torchvision.imagenet_file", refuse)
    (tmp_path / "empty.pth").touch()
    with torch.device("meta"):
        for weights in ("imagenet", "random", str(tmp_path / "empty.pth")):
            net = ClassifierFeatures(["layer2"], "resnet50", weights)
            assert net(torch.rand(2, 3, 32, 32))["layer2"].shape == (2, 512, 4, 4)


def test_files_that_do_not_fit_say_what_is_wrong(resnet18: tuple[nn.Module, str], tmp_path: Path) -> None:
    state = dict(resnet18[0].state_dict())
    del state["bn1.bias"]
    state["conv1.weight"] = torch.zeros(3, 3)
    torch.save(state, tmp_path / "resnet.pth")
    with pytest.raises(WeightsError) as caught:
        ClassifierFeatures(["layer1"], "resnet18", str(tmp_path / "resnet.pth"))
    assert "conv1.weight is (3, 3) instead of (64, 3, 7, 7); bn1.bias is missing" in str(caught.value)
    with pytest.raises(WeightsError, match=r"There is no file 'V1'.*one of IMAGENET1K_V1"):
        ClassifierFeatures(["layer1"], "resnet18", "V1")


@pytest.mark.parametrize(
    ("network", "nodes", "message"),
    [
        ("resnet81", ["layer1"], "torchvision has no classifier 'resnet81'. Did you mean 'resnet18'"),
        ("resnet18", ["layer9"], r"resnet18 has no node 'layer9'. Did you mean 'layer\d'"),
        ("resnet18", ["x"], "resnet18 has no node 'x'"),
        ("resnet18", [], "Name at least one node of resnet18"),
        ("vgg16", ["layer1"], "vgg16 has no layer 'layer1'"),
    ],
)
def test_unknown_names_are_refused(network: str, nodes: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        feature_network(nodes, network, "random")


def test_a_vgg_goes_by_its_layer_names() -> None:
    assert isinstance(feature_network(["relu1_1"], "vgg11_bn", "random"), VGGFeatures)
    assert isinstance(feature_network(["relu"], "resnet18", "random"), ClassifierFeatures)
    with pytest.raises(ValueError, match=r"takes \(B, 3, H, W\), not \(1, 1, 8, 8\)"):
        feature_network(["relu"], "resnet18", "random")(torch.rand(1, 1, 8, 8))
