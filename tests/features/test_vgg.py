"""Activations of VGGs compared with official numbers and with torchvision."""

import json
import math
import urllib.error
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.errors import ArgumentError
from mcir.features.vgg import VGGFeatures, VGGType, vgg_layers
from mcir.weights import WeightsError
from tests.features.contract import FeatureNetworkContract
from tests.golden.deterministic import uniform, vgg_state_dict

GOLDEN = Path(__file__).parents[1] / "golden" / "vgg"
SPN_LAYERS = ["relu1_2", "relu2_2", "relu3_3"]


class TestVGG(FeatureNetworkContract):
    network = "vgg16"
    layers: ClassVar = ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1"]
    invalid_layers: ClassVar = {"relu3_4": "vgg16 has no layer 'relu3_4'. Did you mean 'relu3_3'", "bn1_1": "no layer"}
    deeper = "relu3_1"
    shape = (256, 8, 8)


class TestVGGWithBatchNorm(FeatureNetworkContract):
    network = "vgg11_bn"
    layers: ClassVar = ["conv1_1", "bn1_1", "relu1_1", "pool1"]
    invalid_layers: ClassVar = {"relu1_2": "vgg11_bn has no layer 'relu1_2'"}
    deeper = "bn2_1"
    shape = (128, 16, 16)


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with the golden weights of VGG16 up to relu3_3."""
    file = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save(vgg_state_dict("vgg16", 16), file)
    return str(file)


def check_golden(name: str, weights: str) -> None:
    case = json.loads((GOLDEN / "vgg.json").read_text())["cases"][name]
    net = VGGFeatures([layer["layer"] for layer in case["layers"]], case["vgg_type"], weights, **case["constructor"])
    images = uniform(case["input_seed"], case["input_shape"], *case["input_range"])
    with np.load(GOLDEN / "vgg.npz") as golden, torch.no_grad():
        single, double = net(images), net.double()(images.double())
        for facts in case["layers"]:
            layer = facts["layer"]
            output, exact = single[layer], double[layer]
            assert list(output.shape) == facts["shape"]
            tolerance = 1e-5 * facts["std"]
            for found, key in ((output.flatten()[:64], "first64"), (output.mean((2, 3)), "channel_mean")):
                assert (found - torch.from_numpy(golden[f"{name}.{layer}.{key}"])).abs().max() < tolerance
            assert math.isclose(exact.norm().item(), facts["l2"], rel_tol=1e-12)
            assert math.isclose(exact.mean().item(), facts["mean"], rel_tol=1e-9, abs_tol=1e-12)
            assert math.isclose(exact.min().item(), facts["min"], rel_tol=1e-12)
            assert math.isclose(exact.max().item(), facts["max"], rel_tol=1e-12)


def test_activations_equal_the_official_ones(vgg16: str) -> None:
    check_golden("vgg16_raw", vgg16)


@pytest.mark.parametrize("name", ["vgg16_norm", "vgg19_norm", "vgg19_range"])
def test_activations_of_deep_layers_equal_the_official_ones(name: str, tmp_path: Path) -> None:
    vgg_type = name.partition("_")[0]
    torch.save(vgg_state_dict(vgg_type, 37), tmp_path / "vgg.pth")
    check_golden(name, str(tmp_path / "vgg.pth"))


@pytest.mark.parametrize("vgg_type", get_args(VGGType))
def test_layers_have_the_indices_of_torchvision(vgg_type: VGGType) -> None:
    kinds = {nn.Conv2d: "conv", nn.BatchNorm2d: "bn", nn.ReLU: "relu", nn.MaxPool2d: "pool"}
    with torch.device("meta"):
        official = torchvision.models.get_model(vgg_type, weights=None).features
        own = VGGFeatures(["pool5"], vgg_type, "random")
    assert [kinds[type(layer)] for layer in official] == [name.rstrip("0123456789_") for name in vgg_layers(vgg_type)]
    shapes = [value.shape for key, value in official.state_dict().items() if not key.endswith("num_batches_tracked")]
    assert [buffer.shape for buffer in own.vgg_net.buffers()] == shapes


def test_batch_normalized_vgg_equals_torchvision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"], batch_norm=True)[:11].eval()
    for layer in reference:
        if isinstance(layer, nn.BatchNorm2d):
            for value in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                value.uniform_(0.5, 1.5)
    torch.save({f"features.{key}": value for key, value in reference.state_dict().items()}, tmp_path / "vgg.pth")
    layers = ["conv1_1", "bn1_1", "relu1_1", "pool1", "relu2_1", "bn3_1"]
    net = VGGFeatures(layers, "vgg11_bn", str(tmp_path / "vgg.pth"), use_input_norm=False)
    x = images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        found = net(images)
        for index, name in enumerate(vgg_layers("vgg11_bn")[: len(net.vgg_net)]):
            x = reference[index](x.clone())  # a copy, because torchvision's ReLU overwrites it
            if name in layers:
                assert torch.equal(found[name], x), name
    assert list(found) == layers


def test_gradient_equals_that_of_a_network_without_in_place_operations(vgg16: str) -> None:
    state = {key: value.double() for key, value in torch.load(vgg16, weights_only=True).items()}
    net = VGGFeatures(["conv1_1", "relu1_1", "relu1_2", "conv2_1", "pool2"], "vgg16", vgg16).double()
    images = torch.rand(1, 3, 12, 9, dtype=torch.float64)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1).double() for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def plain(x: Tensor) -> dict[str, Tensor]:
        x, found = (x - mean) / std, {}
        for index, name in enumerate(vgg_layers("vgg16")[:10]):
            if name.startswith("conv"):
                x = F.conv2d(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1)
            else:
                x = F.relu(x) if name.startswith("relu") else F.max_pool2d(x, 2)
            found[name] = x
        return found

    gradients = []
    for network in (net, plain):
        leaf = images.clone().requires_grad_()
        found = network(leaf)
        sum(found[name].sin().mean() for name in net.layer_names).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


def test_only_required_layers_are_built() -> None:
    net = VGGFeatures(["relu2_1", "relu1_1"], "vgg19", "random")
    assert list(net.vgg_net) == ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1", "conv2_1", "relu2_1"]
    assert list(net(torch.rand(1, 3, 8, 8))) == ["relu1_1", "relu2_1"]


@pytest.mark.parametrize("prefix", ["", "vgg_net."])
def test_files_with_layer_names_in_half_precision_and_old_format(prefix: str, vgg16: str, tmp_path: Path) -> None:
    names, file = vgg_layers("vgg16"), tmp_path / "vgg.pth"
    state = {}
    for key, value in torch.load(vgg16, weights_only=True).items():
        _, index, leaf = key.split(".")
        state[f"{prefix}{names[int(index)]}.{leaf}"] = value.half()
    torch.save(state, file, _use_new_zipfile_serialization=False)
    images = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        expected = VGGFeatures(SPN_LAYERS, "vgg16", vgg16)(images)
        for name, found in VGGFeatures(SPN_LAYERS, "vgg16", str(file))(images).items():
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected[name], rtol=0, atol=2e-2)


def test_imagenet_weights_are_read_from_the_hub_folder(vgg16: str, tmp_path: Path, monkeypatch: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(WeightsError) as caught:
        VGGFeatures(SPN_LAYERS)
    message = str(caught.value)
    assert "vgg16-397923af.pth" in message and str(tmp_path / "checkpoints") in message and "no network" in message
    assert "weights: <path>" in message and "weights: random" in message
    (tmp_path / "checkpoints" / "vgg16-397923af.pth").write_bytes(Path(vgg16).read_bytes())
    net = VGGFeatures(SPN_LAYERS)
    assert torch.equal(net.vgg_net["conv3_3"].weight, torch.load(vgg16, weights_only=True)["features.14.weight"])


def test_imagenet_weights_are_downloaded_once_with_their_hash(vgg16: str, tmp_path: Path, monkeypatch: Any) -> None:
    requests = []

    def fetch(url: str, file: str, hash_prefix: str) -> None:
        requests.append((url.rpartition("/")[2], hash_prefix))
        Path(file).write_bytes(Path(vgg16).read_bytes())

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    VGGFeatures(SPN_LAYERS)
    VGGFeatures(SPN_LAYERS)
    assert requests == [("vgg16-397923af.pth", "397923af")]


def test_files_that_do_not_match_are_rejected_with_the_differences(vgg16: str, tmp_path: Path) -> None:
    file, state = tmp_path / "vgg.pth", torch.load(vgg16, weights_only=True)
    del state["features.7.bias"]
    state["features.10.weight"] = torch.zeros(3, 3)
    torch.save(state, file)
    with pytest.raises(WeightsError) as caught:
        VGGFeatures(SPN_LAYERS, "vgg16", str(file))
    expected = "features.7.bias is missing; features.10.weight has shape (3, 3) instead of (256, 128, 3, 3)"
    assert expected in str(caught.value)
    VGGFeatures(["relu1_2"], "vgg16", str(file))  # uses neither of them
    torch.save([state], file)
    with pytest.raises(WeightsError, match="contains no weights"):
        VGGFeatures(SPN_LAYERS, "vgg16", str(file))
    state["features.0.bias"] = torch.full((64,), torch.nan)
    torch.save(state, file)
    with pytest.raises(WeightsError, match=r"vgg\.pth: 1 of \d+ weights are not finite"):
        VGGFeatures(["relu1_2"], "vgg16", str(file))
    file.write_bytes(Path(vgg16).read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot be read"):
        VGGFeatures(SPN_LAYERS, "vgg16", str(file))


def test_random_weights_keep_the_scale_of_activations() -> None:
    deep = VGGFeatures(["relu1_1", "relu3_3", "relu5_3"], "vgg16", "random")
    assert all(0.1 < value.mean() < 5 for value in deep(torch.rand(1, 3, 32, 32)).values())


def test_images_that_are_too_small_for_the_pooling_layers_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"with H, W ≥ 4, got \(1, 3, 3, 8\)"):
        VGGFeatures(["conv3_1"], "vgg16", "random")(torch.rand(1, 3, 3, 8))


def test_an_unknown_vgg_is_rejected() -> None:
    with pytest.raises(ArgumentError, match=r"There is no VGG 'vg16'\. Did you mean 'vgg16'"):
        VGGFeatures(["relu1_1"], "vg16", "random")  # type: ignore[arg-type]
