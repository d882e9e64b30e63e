"""Activations of torchvision's classifiers compared with torchvision's networks."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torchvision
from torch import Tensor, nn

from mcir.errors import ArgumentError
from mcir.features.torchvision import ClassifierFeatures, feature_network
from mcir.features.vgg import VGGFeatures
from mcir.weights import WeightsError
from tests.features.contract import FeatureNetworkContract

NODES = ["layer1.0.bn2", "layer1.0.relu_1", "layer1"]


class TestClassifier(FeatureNetworkContract):
    network = "resnet18"
    layers: ClassVar = ["conv1", "bn1", "relu", "layer1.0.bn2", "layer1"]
    invalid_layers: ClassVar = {"layer9": r"resnet18 has no node 'layer9'. Did you mean 'layer\d'", "x": "no node 'x'"}
    deeper = "layer3"
    shape = (256, 2, 2)


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, str]:
    """Return torchvision's network with random batch-norm statistics, and a file with its weights."""
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
    """Compute the first stage of a ResNet18 (He et al., CVPR 2016) without in-place operations."""
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


def test_activations_and_gradients_equal_torchvisions(resnet18: tuple[nn.Module, str]) -> None:
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


def test_nodes_with_the_same_storage_are_copied() -> None:
    net = ClassifierFeatures(["avgpool", "flatten"], "resnet18", "random")
    with torch.no_grad():
        expected = net(torch.ones(1, 3, 32, 32))["flatten"].clone()
        for name, activation in net.stream(torch.ones(1, 3, 32, 32)):
            assert name == "avgpool" or torch.equal(activation, expected)
            activation.zero_()


def test_nodes_that_are_not_needed_are_not_built(resnet18: tuple[nn.Module, str]) -> None:
    net = ClassifierFeatures(["layer1"], "resnet18", resnet18[1])
    assert not any("layer2" in name or "fc" in name for name, _ in net.named_buffers())


@pytest.mark.parametrize(("weights", "version"), [("imagenet", "IMAGENET1K_V1"), ("IMAGENET1K_V2", "IMAGENET1K_V2")])
def test_a_version_of_the_weights_is_selected_by_name(
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


def test_files_that_do_not_match_are_rejected(resnet18: tuple[nn.Module, str], tmp_path: Path) -> None:
    state = dict(resnet18[0].state_dict())
    del state["bn1.bias"]
    state["conv1.weight"] = torch.zeros(3, 3)
    torch.save(state, tmp_path / "resnet.pth")
    with pytest.raises(WeightsError) as caught:
        ClassifierFeatures(["layer1"], "resnet18", str(tmp_path / "resnet.pth"))
    assert "conv1.weight has shape (3, 3) instead of (64, 3, 7, 7); bn1.bias is missing" in str(caught.value)
    with pytest.raises(WeightsError, match=r"There is no weight file 'V1'.*'imagenet', IMAGENET1K_V1"):
        ClassifierFeatures(["layer1"], "resnet18", "V1")


def test_a_vgg_has_layer_names_and_other_classifiers_node_names() -> None:
    assert isinstance(feature_network(["relu1_1"], "vgg11_bn", "random"), VGGFeatures)
    assert isinstance(feature_network(["relu"], "resnet18", "random"), ClassifierFeatures)
    with pytest.raises(ArgumentError, match="vgg16 has no layer 'layer1'"):
        feature_network(["layer1"], "vgg16", "random")
    with pytest.raises(ArgumentError, match=r"torchvision has no classifier 'resnet81'\. Did you mean 'resnet18'"):
        feature_network(["layer1"], "resnet81", "random")
