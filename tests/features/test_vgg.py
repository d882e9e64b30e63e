import copy
import json
import logging
import math
import urllib.error
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.features import vgg as features
from mcir.features.vgg import VGGFeatures, VGGType, vgg_layers
from mcir.weights import WeightsError
from tests.golden.deterministic import uniform, vgg_state_dict

GOLDEN = Path(__file__).parents[1] / "golden" / "vgg"
SPN_LAYERS = ["relu1_2", "relu2_2", "relu3_3"]


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


def test_activations_are_the_official_ones(vgg16: str) -> None:
    check_golden("vgg16_raw", vgg16)


@pytest.mark.parametrize("name", ["vgg16_norm", "vgg19_norm", "vgg19_range"])
def test_activations_of_deep_layers_are_the_official_ones(name: str, tmp_path: Path) -> None:
    vgg_type = name.partition("_")[0]
    torch.save(vgg_state_dict(vgg_type, 37), tmp_path / "vgg.pth")
    check_golden(name, str(tmp_path / "vgg.pth"))


@pytest.mark.parametrize("vgg_type", get_args(VGGType))
def test_layers_stand_where_torchvision_has_them(vgg_type: VGGType) -> None:
    kinds = {nn.Conv2d: "conv", nn.BatchNorm2d: "bn", nn.ReLU: "relu", nn.MaxPool2d: "pool"}
    with torch.device("meta"):
        theirs = torchvision.models.get_model(vgg_type, weights=None).features
        ours = VGGFeatures(["pool5"], vgg_type, "random")
    assert [kinds[type(layer)] for layer in theirs] == [name.rstrip("0123456789_") for name in vgg_layers(vgg_type)]
    shapes = [value.shape for key, value in theirs.state_dict().items() if not key.endswith("num_batches_tracked")]
    assert [buffer.shape for buffer in ours.vgg_net.buffers()] == shapes


def test_batch_normalised_vgg_equals_torchvision(tmp_path: Path) -> None:
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
            x = reference[index](x.clone())  # a copy, for torchvision's ReLU overwrites it
            if name in layers:
                assert torch.equal(found[name], x), name
    assert list(found) == layers


def test_gradient_equals_a_network_that_overwrites_nothing(vgg16: str) -> None:
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


def test_only_needed_layers_are_built() -> None:
    net = VGGFeatures(["relu2_1", "relu1_1"], "vgg19", "random")
    assert list(net.vgg_net) == ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1", "conv2_1", "relu2_1"]
    assert list(net(torch.rand(1, 3, 8, 8))) == ["relu1_1", "relu2_1"]


def test_frozen_whatever_is_asked() -> None:
    parent = nn.Sequential(VGGFeatures(["bn1_1"], "vgg11_bn", "random"), nn.BatchNorm2d(64))
    parent.train().requires_grad_(True)
    net, images = parent[0], torch.rand(2, 3, 8, 8)
    assert not net.training and not any(module.training for module in net.modules())
    assert not list(net.parameters()) and not any(buffer.requires_grad for buffer in net.buffers())
    assert not any(key.startswith("0.") for key in parent.state_dict())
    before = [buffer.clone() for buffer in net.buffers()]
    net(images.requires_grad_())["bn1_1"].square().mean().backward()
    assert all(torch.equal(*pair) for pair in zip(before, net.buffers(), strict=True))
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_copies_are_equal(vgg16: str) -> None:
    net, images = VGGFeatures(["relu2_2"], "vgg16", vgg16), torch.rand(1, 3, 8, 8)
    assert torch.equal(copy.deepcopy(net)(images)["relu2_2"], net(images)["relu2_2"])


def test_what_the_stream_yields_may_be_overwritten(vgg16: str) -> None:
    net = VGGFeatures(["conv1_1", "relu1_1", "conv1_2", "relu1_2", "relu2_2"], "vgg16", vgg16)
    images = torch.rand(1, 3, 12, 12)
    with torch.no_grad():
        expected = net(images)
        for name, activation in net.stream(images):
            assert torch.equal(activation, expected[name]), name
            activation.fill_(float("nan"))


def test_images_are_not_touched(vgg16: str) -> None:
    images = torch.rand(1, 3, 8, 8)
    before = images.clone()
    for norm in (True, False):
        with torch.no_grad():
            VGGFeatures(["relu1_1"], "vgg16", vgg16, use_input_norm=norm)(images)
        assert torch.equal(images, before)


def test_random_weights_keep_the_scale_and_the_generator(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with caplog.at_level(logging.WARNING):
        deep = VGGFeatures(["relu1_1", "relu3_3", "relu5_3"], "vgg16", "random", seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(caplog.records) == 1 and "results differ from the papers'" in caplog.text
    assert all(0.1 < value.mean() < 5 for value in deep(torch.rand(1, 3, 32, 32)).values())
    same = VGGFeatures(["relu1_1"], "vgg16", "random", seed=3).vgg_net["conv1_1"].weight
    other = VGGFeatures(["relu1_1"], "vgg16", "random", seed=4).vgg_net["conv1_1"].weight
    assert torch.equal(same, deep.vgg_net["conv1_1"].weight) and not torch.equal(same, other)


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


def test_imagenet_weights_are_taken_from_the_hub_folder(vgg16: str, tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(WeightsError) as caught:
        VGGFeatures(SPN_LAYERS)
    message = str(caught.value)
    assert "vgg16-397923af.pth" in message and str(tmp_path / "checkpoints") in message and "no network" in message
    assert "weights: <path>" in message and "weights: random" in message
    (tmp_path / "checkpoints" / "vgg16-397923af.pth").write_bytes(Path(vgg16).read_bytes())
    net = VGGFeatures(SPN_LAYERS)
    assert torch.equal(net.vgg_net["conv3_3"].weight, torch.load(vgg16, weights_only=True)["features.14.weight"])


def test_imagenet_weights_are_fetched_with_their_hash(vgg16: str, tmp_path: Path, monkeypatch: Any) -> None:
    asked = []

    def fetch(url: str, file: str, hash_prefix: str) -> None:
        asked.append((url.rpartition("/")[2], hash_prefix))
        Path(file).write_bytes(Path(vgg16).read_bytes())

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    VGGFeatures(SPN_LAYERS)
    VGGFeatures(SPN_LAYERS)
    assert asked == [("vgg16-397923af.pth", "397923af")]


def test_on_the_meta_device_nothing_is_read(tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(features, "read_weights", refuse)
    monkeypatch.setattr(features, "imagenet_file", refuse)
    empty = tmp_path / "vgg.pth"
    empty.touch()
    with torch.device("meta"):
        for weights in ("imagenet", "random", str(empty)):
            net = VGGFeatures(["relu3_3"], "vgg16", weights)
            assert net(torch.rand(2, 3, 16, 16))["relu3_3"].shape == (2, 256, 4, 4)
        with pytest.raises(
            WeightsError, match=r"There is no file 'nowhere\.pth'\. .*'imagenet' \(torchvision's IMAGENET1K_V1\)"
        ):
            VGGFeatures(["relu3_3"], "vgg16", "nowhere.pth")


def test_files_that_do_not_fit_say_what_is_wrong(vgg16: str, tmp_path: Path) -> None:
    file, state = tmp_path / "vgg.pth", torch.load(vgg16, weights_only=True)
    del state["features.7.bias"]
    state["features.10.weight"] = torch.zeros(3, 3)
    torch.save(state, file)
    with pytest.raises(WeightsError) as caught:
        VGGFeatures(SPN_LAYERS, "vgg16", str(file))
    assert "features.7.bias is missing; features.10.weight is (3, 3) instead of (256, 128, 3, 3)" in str(caught.value)
    VGGFeatures(["relu1_2"], "vgg16", str(file))  # which needs none of the two
    torch.save([state], file)
    with pytest.raises(WeightsError, match="holds no weights"):
        VGGFeatures(SPN_LAYERS, "vgg16", str(file))
    file.write_bytes(Path(vgg16).read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        VGGFeatures(SPN_LAYERS, "vgg16", str(file))


@pytest.mark.parametrize(
    ("layers", "vgg_type", "message"),
    [
        (["relu3_4"], "vgg16", "vgg16 has no layer 'relu3_4'. Did you mean 'relu3_3'"),
        (["bn1_1"], "vgg16", "vgg16 has no layer 'bn1_1'"),
        ([], "vgg16", "Name at least one layer"),
        (["relu1_1"], "vg16", "There is no 'vg16'. Did you mean 'vgg16'"),
    ],
)
def test_unknown_names_are_refused(layers: list[str], vgg_type: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        VGGFeatures(layers, vgg_type, "random")


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 8, 8), (1, 3, 3, 8)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    net = VGGFeatures(["conv3_1"], "vgg16", "random")
    with pytest.raises(ValueError, match=r"takes \(B, 3, H, W\) with H, W ≥ 4, not \(" + str(shape)[1:-1]):
        net(torch.rand(shape))
