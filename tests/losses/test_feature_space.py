import copy
import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mcir.archs.features import VGGFeatures
from mcir.losses import ContrastiveRegularization, PerceptualLoss, SPNLoss, share_features
from mcir.losses import feature_space as module
from mcir.losses.feature_space import FeatureSpace
from tests.losses.ranks import OtherRanks

LAYERS = ["relu1_1", "relu2_1"]
WEIGHTS = {"relu1_1": 0.4, "relu2_1": 0.6}


def space(**changes: Any) -> FeatureSpace:
    return FeatureSpace(**{"layer_names": LAYERS, "weights": "random", "normalize": "unit", **changes})


def images(seed: int = 0, count: int = 2) -> Tensor:
    return torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def test_unit_brings_every_layer_to_a_mean_of_one() -> None:
    unit, plain = space(), space(normalize="none")
    unit.measure(images())
    for name, activation in unit(images()).items():
        torch.testing.assert_close(activation.abs().mean(), torch.tensor(1.0))
        raw = plain(images())[name]
        torch.testing.assert_close(activation, raw / raw.abs().mean())
    for name, activation in unit.stream(images()):
        torch.testing.assert_close(activation, unit(images())[name])


def test_the_scale_is_the_mean_over_the_first_batches_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEASURED_BATCHES", 3)
    found = space()
    found.eval()
    found.measure(images())
    assert found.unit is not None and found.unit.batches == 0
    found.train()
    plain = space(normalize="none")
    expected = []
    for seed in range(5):
        batch = images(seed) * (seed + 1)
        found.measure(batch)
        if seed < 3:
            expected.append(torch.stack([activation.abs().mean() for activation in plain(batch).values()]))
    assert found.unit.batches == 3
    torch.testing.assert_close(found.unit.means, torch.stack(expected).mean(0))


def test_the_scale_is_the_same_in_every_process() -> None:
    found = space()
    assert found.unit is not None
    found.unit.ranks = OtherRanks(lambda value: value + 1)
    alone = space()
    alone.measure(images())
    found.measure(images())
    assert alone.unit is not None
    torch.testing.assert_close(found.unit.means, alone.unit.means + 1)


def test_the_scale_is_the_only_state_and_is_taken_back(tmp_path: Any) -> None:
    one, other = space(), space()
    one.measure(images())
    torch.save(one.state_dict(), tmp_path / "state.pth")
    other.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    assert one.unit is not None and other.unit is not None
    assert torch.equal(one.unit.means, other.unit.means) and other.unit.batches == 1
    assert not space(normalize="none").state_dict()


def test_a_silent_layer_keeps_its_scale() -> None:
    found = space(use_input_norm=False)
    assert found.unit is not None
    found.unit.take(torch.tensor([0.0, 3.0]))
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


@pytest.mark.parametrize("kind", ["spn", "perceptual"])
def test_another_classifier_by_its_nodes(kind: str) -> None:
    layers = {"layer1.0.relu": 0.5, "layer1": 0.5}
    output, other = images(1).requires_grad_(), images(2)
    if kind == "spn":
        loss: Any = SPNLoss(layers, weights="random", network="resnet18", loss_weight=1.0)
        value = -loss(output, other[None])
    else:
        loss = PerceptualLoss(layers, weights="random", network="resnet18")
        value = loss(output, other)
    ours, theirs = loss.features(output), loss.features(other)
    expected = sum(weight * (ours[name] - theirs[name]).abs().mean() for name, weight in layers.items())
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value, output)
    (reference,) = torch.autograd.grad(expected, output)
    torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-9)


def losses() -> nn.ModuleDict:
    deep = PerceptualLoss({"relu2_1": 1.0, "pool2": 1.0}, "vgg16", "random")
    return nn.ModuleDict({"l_percep": deep, "l_neg": SPNLoss(WEIGHTS, weights="random")})


def test_losses_share_a_network_that_has_the_layers_of_both() -> None:
    apart, together = losses(), losses()
    share_features(together)
    deep, spn = together["l_percep"], together["l_neg"]
    assert deep.features.network is spn.features.network
    assert deep.features.network.layer_names == ("relu1_1", "relu2_1", "pool2")
    output, negatives = images(1), images(2)[None]
    for name, other in (("l_percep", negatives[0]), ("l_neg", negatives)):
        leaves = [output.clone().requires_grad_() for _ in range(2)]
        values = [parts[name](leaf, other) for parts, leaf in zip((apart, together), leaves, strict=True)]
        for value in values:
            value.backward()
        assert torch.equal(*values) and torch.equal(leaves[0].grad, leaves[1].grad)
    copied = copy.deepcopy(together)
    assert copied["l_percep"].features.network is copied["l_neg"].features.network is not deep.features.network
    together.double()
    assert spn.features.network.mean.dtype == torch.float64 and not together.state_dict()


def test_only_what_is_the_same_is_shared() -> None:
    parts = nn.ModuleList(
        [
            SPNLoss(WEIGHTS, weights="random"),
            SPNLoss(WEIGHTS, weights="random", seed=1),
            SPNLoss(WEIGHTS, "vgg19", "random"),
            ContrastiveRegularization(WEIGHTS, "vgg16", "random"),  # which does not normalise its input
        ]
    )
    share_features(parts)
    assert len({id(part.features.network) for part in parts}) == 4
    assert not any(part.features.network.shared for part in parts)


def counted(parts: nn.ModuleDict) -> list[tuple[bool, str]]:
    """What passes through the shared network: whether with a graph, and the last layer computed."""
    network, passes = parts["l_neg"].features.network, []
    stream = network.stream

    def counting(x: Tensor, wanted: Any = None) -> Any:
        passes.append((torch.is_grad_enabled(), (wanted or network.layer_names)[-1]))
        return stream(x, wanted)

    network.stream = counting
    return passes


def test_features_of_an_image_are_computed_once_in_a_step() -> None:
    parts = losses()
    share_features(parts)
    passes = counted(parts)
    negatives = torch.stack([images(2), images(3)])
    for step in (1, 2):
        leaf = images(step).requires_grad_()
        output = leaf * 1.0
        gt = images(9)
        total = parts["l_percep"](output, gt) + parts["l_neg"](output, negatives)
        total.backward()
        reference = losses()
        other = images(step).requires_grad_()
        (reference["l_percep"](other, gt) + reference["l_neg"](other, negatives)).backward()
        torch.testing.assert_close(leaf.grad, other.grad)
        expected = [(False, "pool2"), (True, "pool2"), (False, "relu2_1"), (False, "relu2_1")]  # gt, output, negatives
        assert passes == expected * step
    del output, gt, total
    gc.collect()
    assert not parts["l_neg"].features.network._seen._entries


def test_an_image_that_was_changed_is_computed_again() -> None:
    parts = losses()
    share_features(parts)
    network, batch = parts["l_neg"].features.network, images()
    first = network(batch)["relu1_1"]
    assert network(batch)["relu1_1"] is first
    batch.mul_(0.5)
    assert not torch.equal(network(batch)["relu1_1"], first)
    with torch.no_grad():
        assert not network(batch.requires_grad_())["relu1_1"].requires_grad
    assert network(batch)["relu1_1"].requires_grad
    with torch.inference_mode():
        other = images()
        before = network(other)["relu1_1"].clone()
        assert not torch.equal(network(other.mul_(0.5))["relu1_1"], before)


def test_unknown_ways_to_normalise_are_refused() -> None:
    with pytest.raises(ValueError, match="normalize is 'none' or 'unit', not 'Unit'"):
        space(normalize="Unit")
