import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mcir.features.vgg import VGGFeatures
from mcir.losses import ContrastiveRegularization, PCLLoss, PerceptualLoss, SPNLoss, share_features
from mcir.losses import feature_loss as module
from mcir.losses.feature_loss import FeatureSpace
from tests.losses.fake_communicator import OtherRanks

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
    found.unit.communicator = OtherRanks(lambda value: value + 1)
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


def counted(network: Any) -> list[tuple[bool, str]]:
    """What passes through a network: whether with a graph, and the last layer computed."""
    passes, stream = [], network.stream

    def counting(x: Tensor, wanted: Any = None) -> Any:
        passes.append((torch.is_grad_enabled(), max(wanted, key=network.layer_names.index)))
        return stream(x, wanted)

    network.stream = counting
    return passes


def kept(parts: nn.ModuleDict) -> int:
    """How many images have activations that are kept."""
    return len({key for part in parts.values() for key in part.features._shared._kept})


def test_features_of_an_image_are_computed_once_in_a_step() -> None:
    parts = losses()
    share_features(parts)
    passes = counted(parts["l_neg"].features.network)
    negatives = torch.stack([images(2), images(3)])
    for step in (1, 2):
        leaf = images(step).requires_grad_()
        output = leaf * 1.0
        gt = images(9)
        total = parts["l_percep"](output, gt) + parts["l_neg"](output, negatives)
        assert not kept(parts)
        total.backward()
        reference = losses()
        other = images(step).requires_grad_()
        (reference["l_percep"](other, gt) + reference["l_neg"](other, negatives)).backward()
        torch.testing.assert_close(leaf.grad, other.grad)
        expected = [(True, "pool2"), (False, "pool2"), (False, "relu2_1"), (False, "relu2_1")]  # output, gt, negatives
        assert passes == expected * step


def all_losses(**changes: Any) -> nn.ModuleDict:
    same = {"vgg_type": "vgg16", "weights": "random", "use_input_norm": True, **changes}
    return nn.ModuleDict(
        {
            "l_percep": PerceptualLoss({"relu2_1": 1.0, "pool2": 1.0}, **same),
            "cr": ContrastiveRegularization(WEIGHTS, **same),
            "l_neg": SPNLoss(WEIGHTS, **same),
            "pcl": PCLLoss({"relu1_2": 0.5, "relu2_1": 0.5}, **same),
        }
    )


def alias(output: Tensor) -> Tensor:
    other = output.view_as(output)
    other.alias_of = output  # type: ignore[attr-defined]
    return other


@pytest.mark.parametrize("order", [("l_percep", "cr", "l_neg", "pcl"), ("l_neg", "pcl", "cr", "l_percep")])
@pytest.mark.parametrize("normalize", ["none", "unit"])
@pytest.mark.parametrize("aliases", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_output_and_truth_pass_once_for_all_losses(
    order: tuple[str, ...], normalize: str, aliases: bool, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their order, while a scale is measured and later; values and gradients are those of losses alone."""
    monkeypatch.setattr(module, "MEASURED_BATCHES", 1)
    together, apart = all_losses(normalize=normalize), all_losses(normalize=normalize)
    share_features(together)
    passes = counted(together["cr"].features.network)
    negatives, further = torch.stack([images(2), images(3)]), images(5)
    for step in (1, 2):
        passes.clear()
        gt, found = images(4), []
        for parts in (together, apart):
            leaf = images(step).requires_grad_()
            output = leaf * 1.0
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                values = []
                for name in order:
                    seen = alias(output) if aliases else output
                    others = [gt] if name == "l_percep" else [negatives, [gt, further]]
                    values.append(parts[name](seen, *others))
            assert not kept(parts)
            torch.stack(values).sum().backward()
            found.append((torch.stack(values).detach(), leaf.grad))
        (values, gradient), (expected, reference) = found
        torch.testing.assert_close(values, expected)
        assert (gradient - reference).norm() <= (1e-2 if autocast else 1e-5) * reference.norm()  # summed in bf16
        assert sum(graph for graph, _ in passes) == 1
        assert len(passes) == 1 + 1 + 3 * 2 + 2  # output, truth; negatives of three losses, further positives of two


def test_each_loss_gets_its_own_gradient_by_its_name_of_the_output() -> None:
    together, apart = all_losses(), all_losses()
    share_features(together)
    gt, negatives = images(4), images(2)[None]
    output = images(1).requires_grad_() * 1.0
    names = [alias(output) for _ in range(2)]
    values = [together["cr"](names[0], negatives, [gt]), together["l_neg"](names[1], negatives)]
    gradients = torch.autograd.grad(values[0] + values[1], names)
    for gradient, part in zip(gradients, (apart["cr"], apart["l_neg"]), strict=True):
        leaf = images(1).requires_grad_()
        torch.testing.assert_close(gradient, torch.autograd.grad(part(leaf, negatives, [gt]), leaf)[0])


@pytest.mark.parametrize("kind", [PerceptualLoss, ContrastiveRegularization, PCLLoss])
@pytest.mark.parametrize("shared", [False, True])
def test_a_truth_that_one_loss_needs_streams(kind: Any, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer of it is gone before the next but one is there, also beside a loss that does not ask for the truth."""
    loss = kind({"relu1_1": 1.0, "relu1_2": 1.0, "relu2_1": 1.0, "relu2_2": 1.0}, "vgg16", "random", True)
    if shared:
        share_features(nn.ModuleList([loss, SPNLoss(WEIGHTS, weights="random")]))
    network, alive = loss.features.network, []
    stream = network.stream

    def watched(x: Tensor, wanted: Any = None) -> Any:
        given: list[weakref.ref[Tensor]] = []
        for name, activation in stream(x, wanted):
            if not torch.is_grad_enabled():
                alive.append(sum(one() is not None for one in given))
                given.append(weakref.ref(activation))
            yield name, activation
            del activation

    monkeypatch.setattr(network, "stream", watched)
    output, gt = images(1).requires_grad_(), images(2)
    loss(output, gt) if kind is PerceptualLoss else loss(output, images(3)[None], [gt])
    assert len(alive) >= 4 and not any(alive)


def test_shared_work_can_be_counted_on_the_meta_device() -> None:
    with torch.device("meta"):
        parts = all_losses(normalize="unit")
        share_features(parts)
        output, gt, negatives = torch.rand(2, 3, 12, 12), torch.rand(2, 3, 12, 12), torch.rand(1, 2, 3, 12, 12)
    passes = counted(parts["cr"].features.network)
    for name, part in parts.items():
        value = part(output, gt) if name == "l_percep" else part(output, negatives, [gt])
        assert value.is_meta and value.shape == ()
    assert len(passes) == 2 + 3


def test_what_nobody_asked_for_again_goes_with_its_image() -> None:
    parts = all_losses()
    share_features(parts)
    output, gt = images(1).requires_grad_() * 1.0, images(2)
    parts["l_percep"](output, gt)
    assert kept(parts) == 2
    assert not kept(copy.deepcopy(parts))
    del output
    gc.collect()
    assert kept(parts) == 1
    del gt
    gc.collect()
    assert not kept(parts)


def test_an_image_that_was_changed_is_computed_again() -> None:
    parts = losses()
    share_features(parts)
    one, other = parts["l_percep"].features, parts["l_neg"].features
    batch = images()
    assert one(batch)["relu2_1"] is other(batch)["relu2_1"]
    before = one(batch)["relu2_1"]
    batch.mul_(0.5)
    torch.testing.assert_close(other(batch)["relu2_1"], losses()["l_neg"].features(batch)["relu2_1"])
    assert not torch.equal(other(batch)["relu2_1"], before)
    with torch.no_grad():
        assert not one(batch.requires_grad_())["relu2_1"].requires_grad
    assert other(batch)["relu2_1"].requires_grad
    with torch.inference_mode():
        still = images()
        before = one(still)["relu2_1"].clone()
        assert not torch.equal(other(still.mul_(0.5))["relu2_1"], before)


def test_nodes_of_a_shared_classifier_keep_their_own_order() -> None:
    same = {"weights": "random", "network": "resnet18", "use_input_norm": True, "normalize": "unit"}
    forward = ["layer1", "layer1.0.relu", "relu"]
    parts = [
        nn.ModuleList(
            ContrastiveRegularization(dict.fromkeys(names, 1.0), **same) for names in (forward, forward[::-1])
        )
        for _ in range(2)
    ]
    share_features(parts[0])
    output, negatives, gt = images(1, 2), images(2, 2)[None], images(3, 2)
    for together, apart in zip(*parts, strict=True):
        torch.testing.assert_close(together(output, negatives, [gt]), apart(output, negatives, [gt]))


def test_unknown_ways_to_normalise_are_refused() -> None:
    with pytest.raises(ValueError, match="normalize is 'none' or 'unit', not 'Unit'"):
        space(normalize="Unit")
