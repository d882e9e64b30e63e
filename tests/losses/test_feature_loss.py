"""Normalization of features, and sharing of feature networks and activations."""

import copy
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mcir.features.vgg import VGGFeatures
from mcir.losses import ContrastiveRegularization, PCLLoss, PerceptualLoss, SPNLoss, share_features
from mcir.losses import feature_loss as module
from mcir.losses.feature_loss import FeatureSpace
from tests.losses.fake_communicator import FakeCommunicator

LAYERS = ["relu1_1", "relu2_1"]
WEIGHTS = {"relu1_1": 0.4, "relu2_1": 0.6}


def space(normalize: Any = "unit", **changes: Any) -> FeatureSpace:
    return FeatureSpace(VGGFeatures(LAYERS, "vgg16", "random", **changes), normalize)


def images(seed: int = 0, count: int = 2) -> Tensor:
    return torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def test_unit_scales_every_layer_to_a_mean_of_one() -> None:
    unit, plain = space(), space(normalize="none")
    unit.calibrate(images())
    for name, activation in unit(images()).items():
        torch.testing.assert_close(activation.abs().mean(), torch.tensor(1.0))
        raw = plain(images())[name]
        torch.testing.assert_close(activation, raw / raw.abs().mean())
    for name, activation in unit.stream(images()):
        torch.testing.assert_close(activation, unit(images())[name])


def test_the_scale_is_the_mean_over_the_first_training_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALIBRATION_BATCHES", 3)
    found = space()
    found.eval()
    found.calibrate(images())
    assert found.unit is not None and found.unit.batches == 0
    found.train()
    plain = space(normalize="none")
    expected = []
    for seed in range(5):
        batch = images(seed) * (seed + 1)
        found.calibrate(batch)
        if seed < 3:
            expected.append(torch.stack([activation.abs().mean() for activation in plain(batch).values()]))
    assert found.unit.batches == 3
    torch.testing.assert_close(found.unit.means, torch.stack(expected).mean(0))


def test_the_scale_is_the_same_in_every_process() -> None:
    found = space()
    assert found.unit is not None
    found.unit.communicator = FakeCommunicator(lambda value: value + 1)
    single = space()
    single.calibrate(images())
    found.calibrate(images())
    assert single.unit is not None
    torch.testing.assert_close(found.unit.means, single.unit.means + 1)


def test_the_scale_is_the_only_state_and_is_restored(tmp_path: Any) -> None:
    one, other = space(), space()
    one.calibrate(images())
    torch.save(one.state_dict(), tmp_path / "state.pth")
    other.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    assert one.unit is not None and other.unit is not None
    assert torch.equal(one.unit.means, other.unit.means) and other.unit.batches == 1
    assert not space(normalize="none").state_dict()


def test_a_layer_whose_activations_are_zero_keeps_its_scale() -> None:
    found = space(use_input_norm=False)
    assert found.unit is not None
    found.unit.update(torch.tensor([0.0, 3.0]))
    assert found.unit.means.tolist() == [1.0, 3.0]


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_with_unit_the_weight_of_spn_does_not_depend_on_the_scale_of_the_weights(scale: float, tmp_path: Any) -> None:
    state = dict(VGGFeatures(LAYERS, "vgg16", "random").vgg_net.named_buffers())
    state["conv1_1.weight"] = state["conv1_1.weight"] * scale
    torch.save(state, tmp_path / "vgg.pth")
    output, negatives = images(1), images(2)[None]
    expected = SPNLoss(WEIGHTS, weights="random", normalize="unit")(output, negatives, images(3)[None])
    value = SPNLoss(WEIGHTS, weights=str(tmp_path / "vgg.pth"), normalize="unit")(output, negatives, images(3)[None])
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=0)


def losses() -> nn.ModuleDict:
    deep = PerceptualLoss(layer_weights={"relu2_1": 1.0, "pool2": 1.0}, vgg_type="vgg16", weights="random")
    return nn.ModuleDict({"l_percep": deep, "l_neg": SPNLoss(WEIGHTS, weights="random")})


def test_losses_share_a_network_with_the_layers_of_both() -> None:
    together = losses()
    share_features(together)
    deep, spn = together["l_percep"], together["l_neg"]
    assert deep.features.network is spn.features.network
    assert deep.features.network.layer_names == ("relu1_1", "relu2_1", "pool2")
    together.double()
    assert spn.features.network.mean.dtype == torch.float64 and not together.state_dict()


def test_different_networks_are_not_shared() -> None:
    parts = nn.ModuleList(
        [
            SPNLoss(WEIGHTS, weights="random"),
            SPNLoss(WEIGHTS, weights="random", seed=1),
            SPNLoss(layer_weights=WEIGHTS, vgg_type="vgg19", weights="random"),
            ContrastiveRegularization(
                layer_weights=WEIGHTS, vgg_type="vgg16", weights="random"
            ),  # input is not normalized
        ]
    )
    share_features(parts)
    assert len({id(part.features.network) for part in parts}) == 4


def record_passes(network: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, str]]:
    """Record each forward pass of a network: whether it builds a graph, and the deepest layer computed."""
    passes, stream = [], network.stream

    def recording(x: Tensor, layers: Any = None) -> Any:
        passes.append((x.requires_grad and torch.is_grad_enabled(), max(layers, key=network.layer_names.index)))
        return stream(x, layers)

    monkeypatch.setattr(network, "stream", recording)
    return passes


def test_the_ground_truth_of_a_single_loss_is_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = losses()
    cache = share_features(parts)
    passes = record_passes(parts["l_neg"].features.network, monkeypatch)
    negatives = torch.stack([images(2), images(3)])
    for step in (1, 2):
        leaf, other = (images(step).requires_grad_() for _ in range(2))
        gt = images(9)
        total = parts["l_percep"](leaf, gt) + parts["l_neg"](leaf, negatives)
        assert [with_graph for _, with_graph in cache._entries] == [True]
        cache.clear()
        total.backward()
        reference = losses()
        (reference["l_percep"](other, gt) + reference["l_neg"](other, negatives)).backward()
        torch.testing.assert_close(leaf.grad, other.grad)
        expected = [(True, "pool2"), (False, "pool2"), (False, "relu2_1"), (False, "relu2_1")]  # output, gt, negatives
        assert passes == expected * step


def all_losses(**changes: Any) -> nn.ModuleDict:
    same = {"vgg_type": "vgg16", "weights": "random", "use_input_norm": True, **changes}
    return nn.ModuleDict(
        {
            "l_percep": PerceptualLoss(layer_weights={"relu2_1": 1.0, "pool2": 1.0}, **same),
            "cr": ContrastiveRegularization(layer_weights=WEIGHTS, **same),
            "l_neg": SPNLoss(layer_weights={"relu1_1": 0.5, "conv2_2": 0.5}, **same),
            "pcl": PCLLoss(layer_weights={"relu1_2": 0.5, "relu2_1": 0.5}, **same),
        }
    )


@pytest.mark.parametrize("order", [("l_percep", "cr", "l_neg", "pcl"), ("l_neg", "pcl", "cr", "l_percep")])
@pytest.mark.parametrize("normalize", ["none", "unit"])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_features_of_output_and_ground_truth_are_computed_once_for_all_losses(
    order: tuple[str, ...], normalize: str, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients equal those of separate losses, in any order, during calibration and later."""
    monkeypatch.setattr(module, "CALIBRATION_BATCHES", 1)
    together, apart = all_losses(normalize=normalize), all_losses(normalize=normalize)
    cache = share_features(together)
    passes = record_passes(together["cr"].features.network, monkeypatch)
    negatives, further = torch.stack([images(2), images(3)]), images(5)
    for step in (1, 2):
        passes.clear()
        gt, found = images(4), []
        for parts in (together, apart):
            leaf = images(step).requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                values = []
                for name in order:
                    others = [gt] if name == "l_percep" else [negatives, [gt, further]]
                    values.append(parts[name](leaf, *others))
            cache.clear()
            gradients = [torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in values]
            found.append((torch.stack(values).detach(), gradients))
        (values, gradients), (expected, references) = found
        torch.testing.assert_close(values, expected)
        for gradient, reference in zip(gradients, references, strict=True):
            assert (gradient - reference).norm() <= (1e-2 if autocast else 1e-5) * reference.norm()  # summed in bf16
        assert sum(with_graph for with_graph, _ in passes) == 1
        calibration_of_spn = int(normalize == "unit" and step == 1)  # SPN uses no ground truth otherwise
        assert len(passes) == 1 + 1 + 3 * 2 + 2 + calibration_of_spn  # output, gt; negatives of 3; positives of 2


@pytest.mark.parametrize("kind", [PerceptualLoss, ContrastiveRegularization, PCLLoss])
@pytest.mark.parametrize("shared", [False, True])
def test_the_ground_truth_of_a_single_loss_is_released_layer_by_layer(
    kind: Any, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two layers are in memory at most, also if the network is shared with a loss that uses no ground truth."""
    layers = {"relu1_1": 1.0, "relu1_2": 1.0, "relu2_1": 1.0, "relu2_2": 1.0}
    loss = kind(layer_weights=layers, vgg_type="vgg16", weights="random", use_input_norm=True)
    if shared:
        share_features(nn.ModuleList([loss, SPNLoss(layer_weights=WEIGHTS, weights="random")]))
    network, alive = loss.features.network, []
    stream = network.stream

    def recording(x: Tensor, layers: Any = None) -> Any:
        yielded: list[weakref.ref[Tensor]] = []
        for name, activation in stream(x, layers):
            if not activation.requires_grad:
                alive.append(sum(one() is not None for one in yielded))
                yielded.append(weakref.ref(activation))
            yield name, activation
            del activation

    monkeypatch.setattr(network, "stream", recording)
    output, gt = images(1).requires_grad_(), images(2)
    loss(output, gt) if kind is PerceptualLoss else loss(output, images(3)[None], [gt])
    assert len(alive) >= 4 and not any(alive)


def test_shared_losses_run_on_the_meta_device(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        parts = all_losses(normalize="unit")
        share_features(parts)
        output, gt, negatives = torch.rand(2, 3, 12, 12), torch.rand(2, 3, 12, 12), torch.rand(1, 2, 3, 12, 12)
    passes = record_passes(parts["cr"].features.network, monkeypatch)
    for name, part in parts.items():
        value = part(output.requires_grad_(), gt) if name == "l_percep" else part(output, negatives, [gt])
        assert value.is_meta and value.shape == ()
    assert len(passes) == 2 + 3 + 1  # output and ground truth, negatives of three losses, calibration of SPN


def test_copies_of_shared_losses_share_with_each_other_only() -> None:
    parts = all_losses()
    cache = share_features(parts)
    parts["l_percep"](images(1).requires_grad_(), images(2))
    assert len(cache._entries) == 2
    copied = copy.deepcopy(parts)
    assert copied["cr"].features._cache is copied["pcl"].features._cache is not cache
    assert copied["cr"].features.network is copied["pcl"].features.network is not parts["cr"].features.network
    assert not copied["cr"].features._cache._entries


def test_nodes_of_a_shared_classifier_keep_their_own_order() -> None:
    same = {"weights": "random", "network": "resnet18", "use_input_norm": True, "normalize": "unit"}
    forward = ["layer1", "layer1.0.relu", "relu"]
    parts = [
        nn.ModuleList(
            ContrastiveRegularization(layer_weights=dict.fromkeys(names, 1.0), **same)
            for names in (forward, forward[::-1])
        )
        for _ in range(2)
    ]
    share_features(parts[0])
    output, negatives, gt = images(1, 2), images(2, 2)[None], images(3, 2)
    for together, apart in zip(*parts, strict=True):
        torch.testing.assert_close(together(output, negatives, [gt]), apart(output, negatives, [gt]))
