"""Gradients of each loss at the output, against separate backward passes, and fixed gradient ratios."""

import copy
import gc
import math
import weakref

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mcir.errors import ArgumentError
from mcir.features import FeatureCache
from mcir.models import ContrastiveModel, RestorationModel
from mcir.models.gradients import GradientRatioWeight, LossGradients
from tests.losses.fake_communicator import FakeCommunicator
from tests.models.conftest import NETWORK, SPN

PERCEPTUAL = {"type": "PerceptualLoss", "weights": "random", "vgg_type": "vgg16", "layer_weights": {"relu1_1": 0.1}}
CCR = {
    "type": "CurricularContrastiveRegularization",
    "weights": "random",
    "layer_weights": {"relu1_1": 1.0},
    "difficulties": [20.0],
}


def build(**changes):
    section = {
        "network_g": NETWORK,
        "optim_g": {"type": "Adam", "lr": 1e-3},
        "pixel_opt": {"type": "L1Loss"},
        "contrastive_opt": SPN,
        "negatives": {"type": "HistoryNegatives", "steps": [1, 2]},
    }
    return ContrastiveModel(**{**section, **changes})


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.network.parameters()])


def separate_gradients(model, batch):
    """Return the gradient of each loss at the output, from one backward pass for each."""
    model = copy.deepcopy(model)
    output = model.network(batch["lq"]).detach().requires_grad_()
    losses = model.losses(output, batch)
    return {name: torch.autograd.grad(loss, output, retain_graph=True)[0] for name, loss in losses.items()}


@pytest.mark.parametrize("changes", [{}, {"perceptual_opt": PERCEPTUAL}, {"accumulation_steps": 2}])
def test_norms_ratios_and_cosines_equal_those_of_separate_backward_passes(changes, batch):
    model = build(**changes)
    expected = separate_gradients(model, batch)
    model.watch_gradients = True
    scalars = model.training_step(batch, 1)
    first = expected["l_pix"]
    for name, gradient in expected.items():
        torch.testing.assert_close(scalars[f"grad_{name}"], gradient.norm(), rtol=1e-4, atol=0)
        if name != "l_pix":
            ratio, cosine = gradient.norm() / first.norm(), (gradient * first).sum() / gradient.norm() / first.norm()
            torch.testing.assert_close(scalars[f"ratio_{name}"], ratio, rtol=1e-4, atol=0)
            torch.testing.assert_close(scalars[f"cosine_{name}"], cosine, rtol=1e-3, atol=1e-5)
    assert "ratio_l_pix" not in scalars and "factor_l_neg" not in scalars


def test_fp16_norms_do_not_include_the_loss_scale(batch):
    exact, rough = build(), build(precision="fp16")
    exact.watch_gradients = rough.watch_gradients = True
    one, other = exact.training_step(batch, 1), rough.training_step(batch, 1)
    for name in ("grad_l_pix", "grad_l_neg", "ratio_l_neg"):
        torch.testing.assert_close(other[name], one[name], rtol=0.05, atol=0)


def test_gradients_of_losses_are_only_returned_on_request(batch):
    model = build()
    assert not any(name.startswith(("grad_l", "ratio", "cosine")) for name in model.training_step(batch, 1))
    alone = RestorationModel(network_g=NETWORK, optim_g={"type": "SGD", "lr": 0.1}, pixel_opt={"type": "L1Loss"})
    alone.watch_gradients = True
    assert set(alone.training_step(batch, 1)) == {"l_pix", "grad_norm", "lr"}


@pytest.mark.parametrize("perceptual", [None, PERCEPTUAL])
def test_a_logged_step_is_bit_equal_to_an_ordinary_step_and_costs_the_same(perceptual, batch):
    layers = {"layer_weights": {"relu2_1": 1.0}, "vgg_type": "vgg19"}  # no features are shared
    models = [build(perceptual_opt=perceptual and {**perceptual, **layers}) for _ in range(2)]
    flops = []
    for iteration in (1, 2, 3):
        models[0].watch_gradients = iteration != 2
        for model in models:
            with FlopCounterMode(display=False) as counter:
                model.training_step(batch, iteration)
            flops.append(counter.get_total_flops())
    assert torch.equal(*map(weights, models))
    assert len(set(flops)) == 1


class Scale(nn.Module):
    """A loss with a trained parameter. ``uses_output`` sets whether it depends on the output."""

    def __init__(self, uses_output):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))
        self.uses_output = uses_output

    def forward(self, output):
        return self.factor * (output.square().mean() if self.uses_output else 3.0)


@pytest.mark.parametrize("uses_output", [True, False])
def test_parameters_of_a_loss_get_their_gradient(uses_output):
    criteria = nn.ModuleDict({"l_first": Scale(True), "l_second": Scale(uses_output)})
    leaf = torch.ones(1, 3, 4, 4, requires_grad=True)
    gradients = LossGradients(criteria, {})
    losses, total = gradients.backward({name: loss(leaf) for name, loss in criteria.items()}, leaf, lambda loss: loss)
    assert losses == {"l_first": 2.0, "l_second": 2.0 if uses_output else 6.0}
    assert criteria["l_first"].factor.grad == 1 and criteria["l_second"].factor.grad == (1 if uses_output else 3)
    torch.testing.assert_close(total, torch.full_like(leaf, (2 if uses_output else 1) * 4 / 48))
    assert leaf.grad is None
    scalars = gradients.finish(1.0, lambda value: value)
    assert scalars["ratio_l_second"] == uses_output
    assert set(scalars) == {"grad_l_first", "grad_l_second", "ratio_l_second", "cosine_l_second"}


def test_a_loss_without_graph_has_gradient_0():
    leaf = torch.ones(1, 3, 4, 4, requires_grad=True)
    gradients = LossGradients(nn.ModuleDict(), {})
    _, total = gradients.backward({"l_a": leaf.sum(), "l_b": torch.ones(())}, leaf, lambda loss: loss)
    assert torch.equal(total, torch.ones_like(leaf))
    assert gradients.finish(1.0, lambda value: value)["grad_l_b"] == 0


def test_a_nan_loss_gives_a_nan_gradient_and_does_not_change_the_factor(batch):
    model = build(balance=0.3, pixel_opt={"type": "MSELoss"})
    model.training_step(batch, 1)
    factor = model._ratio_weights["l_neg"].factor()
    scalars = model.training_step({**batch, "gt": torch.full_like(batch["gt"], math.nan)}, 2)
    assert scalars["l_pix"].isnan() and scalars["grad_norm"].isnan() and scalars["grad_l_pix"].isnan()
    assert model._ratio_weights["l_neg"].factor() == factor


def test_a_loss_with_weight_0_has_gradient_0(batch):
    model = build(contrastive_opt={**SPN, "loss_weight": 0.0})
    model.watch_gradients = True
    scalars = model.training_step(batch, 1)
    assert scalars["grad_l_neg"] == scalars["ratio_l_neg"] == scalars["cosine_l_neg"] == 0


@pytest.mark.parametrize("loss_weight", [1e-4, 10.0])
@pytest.mark.parametrize("changes", [{}, {"accumulation_steps": 2}])
def test_the_gradient_ratio_does_not_depend_on_the_loss_weight(loss_weight, changes, batch):
    model = build(balance=0.25, contrastive_opt={**SPN, "loss_weight": loss_weight}, **changes)
    ratios, factors = [], []
    for iteration in range(1, 9):
        scalars = model.training_step(batch, iteration)
        ratios.append(float(scalars["ratio_l_neg"]))
        factors.append(float(scalars["factor_l_neg"]))
    torch.testing.assert_close(scalars["weight_l_neg"], loss_weight * scalars["factor_l_neg"])
    assert factors[0] == 1 and not 0.2 < ratios[0] < 0.3
    assert all(0.15 < ratio < 0.4 for ratio in ratios[1:])
    assert scalars["l_neg"] < 0


def test_the_ratio_is_averaged_in_the_logarithm():
    weight = GradientRatioWeight(0.5)
    assert weight.factor() == 1
    for ratio in (1e-3, 1e-1):
        weight.update(torch.tensor(ratio) * weight.factor())
    torch.testing.assert_close(weight.factor(), torch.tensor(0.5 / 1e-2))
    for nothing in (0.0, math.nan, math.inf):
        weight.update(torch.tensor(nothing))
    torch.testing.assert_close(weight.factor(), torch.tensor(0.5 / 1e-2))
    weight.steps.fill_(1000)
    weight.update(torch.tensor(1.0) * weight.factor())
    torch.testing.assert_close(weight.factor(), torch.tensor(0.5 / 10 ** (-2 * 0.99)))


def test_a_resumed_run_continues_the_ratio_bit_for_bit(batch):
    through, first, second = build(balance=0.3), build(balance=0.3), build(balance=0.3, seed=3)
    for iteration in (1, 2, 3, 4):
        through.training_step(batch, iteration)
    for iteration in (1, 2):
        first.training_step(batch, iteration)
    assert "balance_l_neg" in first.state_dict()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for iteration in (3, 4):
        second.training_step(batch, iteration)
    assert torch.equal(weights(through), weights(second))
    assert torch.equal(through._ratio_weights["l_neg"].log_own_ratio, second._ratio_weights["l_neg"].log_own_ratio)


def test_the_ratio_is_equal_in_all_processes(batch):
    """The inner products of gradients are averaged over the processes."""
    models = [build(balance=0.3), build(balance=0.3)]
    other = {**batch, "gt": batch["gt"].flip(0)}
    own = []
    for model, part in zip(models, (batch, other), strict=True):
        model.parallelize(FakeCommunicator(lambda value: own.append(value) or value))
        model.training_step(part, 1)
    together = torch.stack(own).mean(0)
    assert not torch.allclose(*own)
    models = [build(balance=0.3), build(balance=0.3)]
    for model, part in zip(models, (batch, other), strict=True):
        model.parallelize(FakeCommunicator(lambda value: together))
        model.training_step(part, 1)
    assert torch.equal(*(model._ratio_weights["l_neg"].log_own_ratio for model in models))
    own_ratio = (together[1, 1] / together[0, 0]).sqrt()
    torch.testing.assert_close(models[0]._ratio_weights["l_neg"].factor(), 0.3 / own_ratio)


PCL = {
    "type": "PCLLoss",
    "weights": "random",
    "vgg_type": "vgg16",
    "use_input_norm": True,
    "layer_weights": {"relu1_1": 0.4, "relu1_2": 0.6},
}
HARD = {"type": "CombinedNegatives", "members": [{"type": "InputNegatives"}, {"type": "HardNegatives"}]}


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accumulation_steps": 2, "contrastive_opt": PCL, "negatives": HARD},
        {"contrastive_opt": {**PCL, "normalize": "unit"}, "negatives": HARD, "channels_last": True},
        {"precision": "bf16", "contrastive_opt": PCL},
    ],
)
def test_losses_share_the_features_of_output_and_ground_truth(changes, watched, batch, monkeypatch):
    one = build(perceptual_opt=PERCEPTUAL, **changes)
    with monkeypatch.context() as patch:
        patch.setattr("mcir.models.criteria.share_features", lambda parts: FeatureCache())
        other = build(perceptual_opt=PERCEPTUAL, **changes)
    networks = [one.criteria[name].features.network for name in ("l_percep", "l_neg")]
    assert networks[0] is networks[1] and networks[0].layer_names == ("relu1_1", "relu1_2")
    passes, stream = [], networks[0].stream

    def counting(images, layers=None):
        passes.append(torch.is_grad_enabled() and images.requires_grad)
        return stream(images, layers)

    networks[0].stream = counting
    one.watch_gradients = other.watch_gradients = watched
    parts, others = one.accumulation_steps, 4 + 3 if "negatives" in changes else 2
    for iteration in (1, 2):
        passes.clear()
        scalars, expected = one.training_step(batch, iteration), other.training_step(batch, iteration)
        if not watched:
            assert passes.count(True) == parts
            assert passes.count(False) == parts * (others + 1)  # negatives, further positives; the ground truth once
        assert not one.criteria["l_neg"].features._cache._entries
        assert ("grad_l_neg" in scalars) == watched
        tolerance = 1e-2 if one.precision == "bf16" else 1e-4
        for name in scalars:
            torch.testing.assert_close(scalars[name], expected[name], rtol=tolerance, atol=1e-6)


def test_no_features_are_kept_after_the_step(batch):
    model = build(perceptual_opt=PERCEPTUAL, contrastive_opt=PCL, negatives=HARD)
    model.watch_gradients = True
    network, activations = model.criteria["l_neg"].features.network, []
    stream = network.stream

    def watched(images, layers=None):
        for name, activation in stream(images, layers):
            activations.append(weakref.ref(activation))
            yield name, activation

    network.stream = watched
    model.training_step(batch, 1)
    gc.collect()
    assert activations and all(activation() is None for activation in activations)


def test_two_losses_have_their_own_gradient_ratios(batch):
    model = build(perceptual_opt=None)
    model.criteria.add("l_style", {**PERCEPTUAL, "perceptual_weight": 0.0, "style_weight": 3.0})
    model.fix_gradient_ratio("l_style", 0.5)
    model.criteria.add("l_far", {"type": "MSELoss", "loss_weight": 7.0})
    model.fix_gradient_ratio("l_far", 0.25)
    plain = type(model).losses

    def losses(output, part):
        also = {name: model.criteria[name](output, part["gt"]) for name in ("l_style", "l_far")}
        return plain(model, output, part) | also

    model.losses = losses
    assert {
        "balance_l_style",
        "balance_l_far",
    } <= model.state_dict().keys() and "balance_l_neg" not in model.state_dict()
    for iteration in (1, 2, 3, 4):
        scalars = model.training_step(batch, iteration)
    assert 0.3 < scalars["ratio_l_style"] < 0.8 and 0.15 < scalars["ratio_l_far"] < 0.4
    assert scalars["factor_l_far"] != scalars["factor_l_style"]
    torch.testing.assert_close(scalars["weight_l_far"], 7 * scalars["factor_l_far"])
    assert "factor_l_neg" not in scalars and "weight_l_neg" not in scalars


def test_a_unit_scale_is_calibrated_with_the_ground_truth_and_resumed(batch):
    model = build(contrastive_opt={**SPN, "normalize": "unit"})
    model.training_step(batch, 1)
    unit = model.criteria["l_neg"].features.unit
    raw = model.criteria["l_neg"].features.network(batch["gt"])
    torch.testing.assert_close(unit.means, torch.stack([activation.mean() for activation in raw.values()]))
    other = build(contrastive_opt={**SPN, "normalize": "unit"}, seed=1)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(other.criteria["l_neg"].features.unit.means, unit.means)
    assert other.criteria["l_neg"].features.unit.batches == 1
    assert set(build().state_dict()) == set(model.state_dict()) - {"l_neg"}


def test_a_unit_scale_is_averaged_over_the_processes(batch):
    model = build(contrastive_opt={**SPN, "normalize": "unit"})
    model.parallelize(FakeCommunicator(lambda value: torch.full_like(value, 2.0)))
    model.training_step(batch, 1)
    assert model.criteria["l_neg"].features.unit.means.tolist() == [2.0, 2.0]


def test_a_curriculum_observes_the_validation_and_is_resumed(batch):
    model = build(contrastive_opt=CCR)
    for psnr in (25.0, 18.0, math.nan):
        model.after_evaluation({"psnr": psnr, "ssim": 0.9})
    other = build(contrastive_opt=CCR, seed=1)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    for resumed in (model, other):
        loss = resumed.criteria["l_neg"]
        torch.testing.assert_close(
            loss.negative_weights(torch.zeros(2, 1, 3, 4, 4)), torch.tensor([1.25 / 7.25, 6 / 7.25])
        )
    assert model.training_step(batch, 1)["l_neg"] > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"contrastive_opt": CCR},
        {"contrastive_opt": {**SPN, "criterion": "fro"}},
        {"perceptual_opt": {**PERCEPTUAL, "criterion": "fro"}},
        {"pixel_opt": {"type": "CharbonnierLoss", "reduction": "sum"}},
    ],
)
def test_losses_that_are_not_batch_means_are_rejected_with_accumulation(changes):
    build(**changes)
    with pytest.raises(ValueError, match="accumulation_steps: expected 1, because l_"):
        build(accumulation_steps=2, **changes)


def test_losses_run_in_bf16_if_the_network_runs_in_fp16(batch):
    model = build(precision="fp16")
    seen = {}
    for name, module in (("network", model.network), ("l_neg", model.criteria["l_neg"])):

        def record(*_, name=name):
            seen.setdefault(name, torch.get_autocast_dtype("cpu"))

        module.register_forward_pre_hook(record)
    model.training_step(batch, 1)
    assert seen == {"network": torch.float16, "l_neg": torch.bfloat16}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({"balance": ratio}, "balance: expected a finite number above 0")
            for ratio in (0.0, -1.0, math.inf, math.nan)
        ),
        ({"balance": 0.1, "pixel_opt": None}, "balance: the gradient ratio of l_neg requires another loss"),
        (
            {"balance": 0.1, "contrastive_opt": {**SPN, "loss_weight": 0}},
            "requires a 'contrastive_opt' with a loss_weight",
        ),
        ({"balance": 0.1, "contrastive_opt": None, "negatives": None}, "requires a 'contrastive_opt'"),
    ],
)
def test_an_invalid_balance_is_rejected(changes, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        build(**changes)
    assert caught.value.name == "balance"
