"""ContrastiveModel against a reference step with one feature pass per negative and image."""

import copy

import pytest
import torch

from mcir.errors import ArgumentError
from mcir.models import ContrastiveModel, RestorationModel
from tests.losses.fake_communicator import FakeCommunicator
from tests.models.conftest import NETWORK, SPN


def build(**changes):
    section = {
        "network_g": NETWORK,
        "optim_g": {"type": "Adam", "lr": 1e-3},
        "pixel_opt": {"type": "L1Loss"},
        "contrastive_opt": SPN,
        "negatives": {"type": "HistoryNegatives", "steps": [1, 2, 3]},
    }
    return ContrastiveModel(**{**section, **changes})


def reference_gradients(model, batch):
    """Return the loss L1(out, gt) − λ/N Σ_i Σ_l w_l · mean|φ_l(out) − φ_l(neg_i)| and its gradients."""
    network = copy.deepcopy(model.network)
    features = copy.deepcopy(model.criteria["l_neg"].features)
    output = network(batch["lq"])
    loss = (output - batch["gt"]).abs().mean()
    members = model.negative_source.members
    for member in members:
        with torch.no_grad():
            negative = member(batch["lq"])
        for layer, weight in SPN["layer_weights"].items():
            distance = (features(output)[layer] - features(negative)[layer].detach()).abs().mean()
            loss = loss - SPN["loss_weight"] * weight * distance / len(members)
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in network.parameters()]


def test_loss_and_gradients_equal_the_reference(batch):
    model = build(optim_g={"type": "SGD", "lr": 1e-30})
    loss, gradients = reference_gradients(model, batch)
    scalars = model.training_step(batch, 1)
    torch.testing.assert_close(scalars["l_pix"] + scalars["l_neg"], loss, rtol=1e-6, atol=1e-8)
    for parameter, gradient in zip(model.network.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


def test_only_the_network_is_trained(batch):
    model = build()
    for iteration in (1, 2):
        model.training_step(batch, iteration)
    for name, parameter in model.parts.named_parameters():
        assert (parameter.grad is not None) == name.startswith("network_g."), name
    assert not any(parameter.requires_grad for parameter in model.negative_source.parameters())


def test_negatives_are_updated_after_the_step(batch):
    model = build(negatives={"type": "HistoryNegatives", "steps": [1], "weight": 0.0})
    model.training_step(batch, 1)
    for member, parameter in zip(model.negative_source.parameters(), model.network.parameters(), strict=True):
        assert torch.equal(member, parameter)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_no_negative_starts_equal_to_the_network(seed):
    model = build(seed=seed)
    for member in model.negative_source.members:
        assert not torch.equal(member.network.conv_first.weight, model.network.conv_first.weight)


def test_negatives_use_the_seed_of_the_model_by_default():
    assert build(seed=5).negative_source.seed == 5
    own = {"type": "HistoryNegatives", "steps": [1], "seed": 3}
    assert build(seed=5, negatives=own).negative_source.seed == 3


def test_negatives_start_from_pretrained_weights():
    model = build(negatives={"type": "HistoryNegatives", "steps": [1], "start": 0.0})
    trained = build(seed=9).network.state_dict()
    assert model.load_weights(trained) == []
    for member, weight in zip(
        model.negative_source.members[0].network.state_dict().values(), trained.values(), strict=True
    ):
        assert torch.equal(member, weight)


def test_bf16_is_close_and_returns_losses_in_float32(batch):
    exact, rough = build(), build(precision="bf16")
    one, other = exact.training_step(batch, 1), rough.training_step(batch, 1)
    assert other["l_pix"].dtype == other["l_neg"].dtype == torch.float32
    assert float(other["l_pix"]) == pytest.approx(float(one["l_pix"]), rel=0.02)
    assert all(parameter.dtype == torch.float32 for parameter in rough.parts.parameters())


def test_a_contrastive_loss_without_negatives_is_rejected():
    with pytest.raises(ValueError, match="both 'contrastive_opt' and 'negatives', or neither"):
        build(negatives=None)


def test_it_restores_without_training_options(batch):
    model = ContrastiveModel(network_g=NETWORK)
    assert model.negative_source is None
    assert model.restore(batch["lq"]).shape == batch["gt"].shape
    with pytest.raises(ValueError, match="training requires"):
        model.require_trainable()
    with pytest.raises(ValueError, match=r"and 'train\.negatives'"):
        ContrastiveModel(
            network_g=NETWORK, optim_g={"type": "Adam", "lr": 1e-3}, pixel_opt={"type": "L1Loss"}
        ).require_trainable()


def test_with_loss_weight_0_it_trains_like_a_restoration_model(batch):
    zero = build(contrastive_opt={**SPN, "loss_weight": 0.0})
    parent = RestorationModel(network_g=NETWORK, optim_g={"type": "Adam", "lr": 1e-3}, pixel_opt={"type": "L1Loss"})
    for iteration in (1, 2, 3):
        zero.training_step(batch, iteration)
        parent.training_step(batch, iteration)
    for own, parents in zip(zero.network.parameters(), parent.network.parameters(), strict=True):
        torch.testing.assert_close(own, parents)


KINDS = {
    "sampled": {"type": "HistoryNegatives", "steps": [1, 2, 3], "sample": 2},
    "frozen": {"type": "FrozenNegatives", "count": 2},
    "input": {"type": "InputNegatives"},
    "hard": {"type": "HardNegatives"},
    "stored": {"type": "ConsensusNegatives", "stored": True},
}
KINDS["combined"] = {"type": "CombinedNegatives", "members": list(KINDS.values())}


@pytest.fixture
def with_stored(batch):
    generator = torch.Generator().manual_seed(1)
    return {**batch, "negatives": torch.rand(4, 2, 3, 16, 16, generator=generator)}


def trained(model):
    return torch.nn.utils.parameters_to_vector(model.network.parameters()).detach()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_negatives_resumes_bit_for_bit(kind, with_stored):
    through, first = build(negatives=KINDS[kind]), build(negatives=KINDS[kind])
    second = build(negatives=KINDS[kind], network_g={**NETWORK})
    for iteration in (1, 2, 3, 4):
        through.training_step(with_stored, iteration)
    for iteration in (1, 2):
        first.training_step(with_stored, iteration)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for iteration in (3, 4):
        second.training_step(with_stored, iteration)
    assert torch.equal(trained(through), trained(second))


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_includes_the_negatives_of_every_kind(kind, with_stored):
    model = build(negatives=KINDS[kind])
    plain = RestorationModel(network_g=NETWORK, optim_g={"type": "Adam", "lr": 1e-3}, pixel_opt={"type": "L1Loss"})
    network = copy.deepcopy(model.network)
    output = network(with_stored["lq"])
    negatives = model.negative_source(with_stored["lq"], with_stored["gt"], with_stored["negatives"])
    loss = (output - with_stored["gt"]).abs().mean() + model.criteria["l_neg"](output, negatives)
    loss.backward()
    model.training_step(with_stored, 1)
    plain.training_step(with_stored, 1)
    for own, expected in zip(model.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(own.grad, expected.grad, rtol=1e-4, atol=1e-7)
    pairs = zip(model.network.parameters(), plain.network.parameters(), strict=True)
    assert not any(torch.allclose(own.grad, other.grad) for own, other in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_gives_the_step_of_the_whole_batch(kind, with_stored):
    options = {"negatives": KINDS[kind], "optim_g": {"type": "SGD", "lr": 0.1}}
    whole, divided = build(**options), build(**options, accumulation_steps=2)
    one, other = whole.training_step(with_stored, 1), divided.training_step(with_stored, 1)
    torch.testing.assert_close(one["l_neg"], other["l_neg"])
    torch.testing.assert_close(trained(whole), trained(divided))


class Recording(torch.nn.Module):
    """A loss that records its inputs."""

    def forward(self, output, negatives, positives):
        self.inputs = output, negatives, positives
        return output.mean()


def test_the_loss_gets_negatives_and_positives_without_graph(with_stored):
    model = build(negatives=KINDS["combined"])
    model.criteria["l_neg"] = Recording()
    model.training_step(with_stored, 1)
    output, negatives, positives = model.criteria["l_neg"].inputs
    assert output.requires_grad
    assert negatives.shape == (2 + 2 + 1 + 3 + 2, 4, 3, 16, 16) and not negatives.requires_grad
    assert len(positives) == 1 + 3 and torch.equal(positives[0], with_stored["gt"])
    assert not any(positive.requires_grad for positive in positives)
    model = build()
    model.criteria["l_neg"] = Recording()
    model.training_step(with_stored, 1)
    (positive,) = model.criteria["l_neg"].inputs[2]
    assert torch.equal(positive, with_stored["gt"])


def test_combined_members_communicate_with_all_processes():
    adaptive = {"type": "AdaptiveHistoryNegatives", "members": 1}
    model = build(negatives={"type": "CombinedNegatives", "members": [adaptive, {"type": "InputNegatives"}]})
    model.parallelize(FakeCommunicator(lambda value: value + 5))
    assert [kind.communicator.mean(1) for kind in model.negative_source.kinds] == [6, 6]


def test_missing_stored_negatives_are_reported(batch):
    with pytest.raises(ValueError, match="dataroot_negatives"):
        build(negatives=KINDS["stored"]).training_step(batch, 1)


@pytest.mark.parametrize(
    ("option", "loss"),
    [
        ("contrastive_opt", {"type": "L1Loss"}),
        ("contrastive_opt", {"type": "PerceptualLoss", "layer_weights": {"relu1_1": 1}, "weights": "random"}),
        ("pixel_opt", {"type": "SPNLoss", "weights": "random"}),
        ("perceptual_opt", {"type": "ContrastiveRegularization", "weights": "random"}),
        ("pixel_opt", {"type": "VADeRLoss"}),
    ],
)
def test_a_loss_that_compares_something_else_is_rejected(option, loss):
    expected = "SPNLoss" if option == "contrastive_opt" else "L1Loss.*PerceptualLoss"
    with pytest.raises(ArgumentError, match=f"{option}: expected one of .*{expected}.*, got {loss['type']}") as caught:
        build(**{option: loss})
    assert caught.value.path == (option,)


def test_adaptive_negatives_copy_the_statistics_of_all_processes(batch):
    model = build(
        network_g={"type": "UNet", "num_feat": 4, "scale": 2},
        negatives={"type": "AdaptiveHistoryNegatives", "members": 1, "threshold": 0.0},
    )
    model.parallelize(FakeCommunicator(lambda value: value + 5))
    model.training_step(batch, 1)
    assert model.negative_source.updates.tolist() == [1]
    pairs = zip(model.negative_source.members[0].network.buffers(), model.network.buffers(), strict=True)
    assert all(torch.equal(own, networks) for own, networks in pairs)


def risks(**changes):
    """Return the risky options of a model with the features of a trained VGG, by key."""
    spn = {**SPN, "weights": "imagenet", "loss_weight": 1e-4, **changes.pop("spn", {})}
    with torch.device("meta"):  # which reads no file
        return {
            ".".join(map(str, path)): reason
            for path, reason in build(contrastive_opt=spn, **changes).risky_options().items()
        }


HISTORY = {"type": "HistoryNegatives", "steps": [1, 2]}


def test_values_that_collapsed_in_the_paper_are_risky():
    assert risks() == risks(spn={"loss_weight": 9e-4}, negatives={**HISTORY, "weight": 0.02}) == {}
    found = risks(spn={"loss_weight": 0.001}, negatives={**HISTORY, "weight": [0.1, 0.01]})
    assert found == {
        "contrastive_opt.loss_weight": "expected a number below 0.001, got 0.001, because trainings with such values "
        "collapsed in the paper (Table 8). The default is 1e-4.",
        "negatives.weight": "expected a number above 0.01, got 0.01, because trainings with such values collapsed in "
        "the paper (Table 9). The default is 0.1.",
    }
    combined = {"type": "CombinedNegatives", "members": [{"type": "InputNegatives"}, {**HISTORY, "weight": 0}]}
    assert risks(negatives=combined).keys() == {"negatives.members.1.weight"}


@pytest.mark.parametrize(
    "changes",
    [
        {"spn": {"weights": "random"}},
        {"spn": {"normalize": "unit"}},
        {"spn": {"criterion": "l2"}},
        {"balance": 0.1, "negatives": HISTORY},
        {"negatives": {"type": "InputNegatives"}},
        {"contrastive_opt": {"type": "ContrastiveRegularization"}},
    ],
)
def test_the_values_of_the_paper_apply_only_to_its_loss(changes):
    risky = {"spn": {}, "negatives": HISTORY, **changes}
    risky["spn"] = {"loss_weight": 0.1, **risky["spn"]}
    if "contrastive_opt" in changes:
        with torch.device("meta"):
            assert build(negatives=HISTORY, **changes).risky_options() == {}
    else:
        assert risks(**risky) == {}


def test_the_description_of_the_gradients_contains_the_sound_ratios(batch):
    model, balanced = build(), build(balance=0.1)
    model.watch_gradients = True
    scalars = model.training_step(batch, 1)
    (line,) = model.describe_gradients(scalars)
    ratio = f"{float(scalars['ratio_l_neg']):.3g}"
    assert line == f"l_neg: its gradient at the output is {ratio} times that of l_pix (sound: 0.058 to 0.58)"
    assert balanced.describe_gradients(scalars)[0].endswith("times that of l_pix ('balance' adapts it to 0.1)")
    assert model.describe_gradients({"l_pix": scalars["l_pix"]}) == []


def test_a_network_for_grey_images_is_trained(batch):
    grey = {key: value.mean(dim=1, keepdim=True) if key in ("lq", "gt") else value for key, value in batch.items()}
    model = build(network_g={**NETWORK, "num_in_ch": 1, "num_out_ch": 1, "rgb_mean": [0.5]})
    assert model.training_step(grey, 1)["l_neg"] < 0
