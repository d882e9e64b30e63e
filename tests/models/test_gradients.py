"""What each loss asks of the output: against separate backward passes; and losses held in balance."""

import copy
import gc
import math
import weakref

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mcir.features import FeatureCache
from mcir.losses import CurricularContrastiveRegularization
from mcir.models import ContrastiveModel, RestorationModel
from mcir.models.gradients import Balance
from tests.losses.fake_communicator import OtherRanks
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


def separately(model, batch):
    """The gradient of each loss at the output, one backward pass for each."""
    model = copy.deepcopy(model)
    output = model.network(batch["lq"]).detach().requires_grad_()
    losses = model.losses(output, batch)
    return {name: torch.autograd.grad(loss, output, retain_graph=True)[0] for name, loss in losses.items()}


@pytest.mark.parametrize("changes", [{}, {"perceptual_opt": PERCEPTUAL}, {"accumulation_steps": 2}])
def test_norms_ratios_and_cosines_are_those_of_separate_backward_passes(changes, batch):
    model = build(**changes)
    expected = separately(model, batch)
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


def test_in_fp16_the_norms_are_those_of_the_losses_themselves(batch):
    exact, rough = build(), build(precision="fp16")
    exact.watch_gradients = rough.watch_gradients = True
    one, other = exact.training_step(batch, 1), rough.training_step(batch, 1)
    for name in ("grad_l_pix", "grad_l_neg", "ratio_l_neg"):
        torch.testing.assert_close(other[name], one[name], rtol=0.05, atol=0)


def test_only_what_is_asked_is_told(batch):
    model = build()
    assert not any(name.startswith(("grad_l", "ratio", "cosine")) for name in model.training_step(batch, 1))
    alone = RestorationModel(network_g=NETWORK, optim_g={"type": "SGD", "lr": 0.1}, pixel_opt={"type": "L1Loss"})
    alone.watch_gradients = True
    assert set(alone.training_step(batch, 1)) == {"l_pix", "grad_norm", "lr"}


def test_watching_changes_no_bit_and_makes_no_second_backward_pass(batch):
    seen, unseen = build(), build()
    work = []
    for iteration in (1, 2, 3):
        seen.watch_gradients = iteration != 2
        for model in (seen, unseen):
            with FlopCounterMode(display=False) as counter:
                model.training_step(batch, iteration)
            work.append(counter.get_total_flops())
    assert torch.equal(weights(seen), weights(unseen))
    assert len(set(work)) == 1


def test_a_loss_without_weight_has_no_direction(batch):
    model = build(contrastive_opt={**SPN, "loss_weight": 0.0})
    model.watch_gradients = True
    scalars = model.training_step(batch, 1)
    assert scalars["grad_l_neg"] == scalars["ratio_l_neg"] == scalars["cosine_l_neg"] == 0


@pytest.mark.parametrize("loss_weight", [1e-4, 10.0])
@pytest.mark.parametrize("changes", [{}, {"accumulation_steps": 2}])
def test_a_balance_holds_the_ratio_whatever_the_weight(loss_weight, changes, batch):
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


def test_the_ratio_is_averaged_on_a_logarithmic_scale():
    balance = Balance(0.5)
    assert balance.factor() == 1
    for ratio in (1e-3, 1e-1):
        balance.update(torch.tensor(ratio) * balance.factor())
    torch.testing.assert_close(balance.factor(), torch.tensor(0.5 / 1e-2))
    for nothing in (0.0, math.nan, math.inf):
        balance.update(torch.tensor(nothing))
    torch.testing.assert_close(balance.factor(), torch.tensor(0.5 / 1e-2))
    balance.steps.fill_(1000)
    balance.update(torch.tensor(1.0) * balance.factor())
    torch.testing.assert_close(balance.factor(), torch.tensor(0.5 / 10 ** (-2 * 0.99)))


def test_a_balance_continues_bit_for_bit(batch):
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
    assert torch.equal(through.parts["balance_l_neg"].log_own_ratio, second.parts["balance_l_neg"].log_own_ratio)


def test_a_balance_is_the_same_in_every_process(batch):
    """Each measures the mean over all of the products of gradients, not its own."""
    models = [build(balance=0.3), build(balance=0.3)]
    other = {**batch, "gt": batch["gt"].flip(0)}
    own = []
    for model, part in zip(models, (batch, other), strict=True):
        model.parallelize(OtherRanks(lambda value: own.append(value) or value))
        model.training_step(part, 1)
    together = torch.stack(own).mean(0)
    assert not torch.allclose(*own)
    models = [build(balance=0.3), build(balance=0.3)]
    for model, part in zip(models, (batch, other), strict=True):
        model.parallelize(OtherRanks(lambda value: together))
        model.training_step(part, 1)
    assert torch.equal(*(model.parts["balance_l_neg"].log_own_ratio for model in models))
    natural = (together[1, 1] / together[0, 0]).sqrt()
    torch.testing.assert_close(models[0].parts["balance_l_neg"].factor(), 0.3 / natural)


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.inf, math.nan])
def test_ratios_that_cannot_be_held_are_refused(ratio):
    with pytest.raises(ValueError, match="balance is a ratio above 0"):
        build(balance=ratio)


def test_a_balance_needs_another_loss():
    with pytest.raises(ValueError, match="balance holds l_neg at a ratio to another loss"):
        build(balance=0.1, pixel_opt=None)


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
def test_losses_of_a_model_look_once_at_output_and_truth(changes, watched, batch, monkeypatch):
    one = build(perceptual_opt=PERCEPTUAL, **changes)
    with monkeypatch.context() as patch:
        patch.setattr("mcir.models.base.share_features", lambda parts: FeatureCache())
        other = build(perceptual_opt=PERCEPTUAL, **changes)
    networks = [one.parts[name].features.network for name in ("l_percep", "l_neg")]
    assert networks[0] is networks[1] and networks[0].layer_names == ("relu1_1", "relu1_2")
    passes, stream = [], networks[0].stream

    def counting(images, wanted=None):
        passes.append(torch.is_grad_enabled() and images.requires_grad)
        return stream(images, wanted)

    networks[0].stream = counting
    one.watch_gradients = other.watch_gradients = watched
    parts, others = one.accumulation_steps, 4 + 3 if "negatives" in changes else 2
    for iteration in (1, 2):
        passes.clear()
        told, expected = one.training_step(batch, iteration), other.training_step(batch, iteration)
        if not watched:
            assert passes.count(True) == parts
            assert passes.count(False) == parts * (others + 1)  # negatives, further positives; the ground truth once
        assert not one.parts["l_neg"].features._cache._entries
        assert ("grad_l_neg" in told) == watched
        tolerance = 1e-2 if one.precision == "bf16" else 1e-4
        for name in told:
            torch.testing.assert_close(told[name], expected[name], rtol=tolerance, atol=1e-6)


def test_the_first_loss_that_two_share_does_not_hold_the_features_after_the_step(batch):
    """Neither those of the output nor those of the ground truth, in a step that is watched."""
    model = build(perceptual_opt=PERCEPTUAL, contrastive_opt=PCL, negatives=HARD)
    model.watch_gradients = True
    network, given = model.parts["l_neg"].features.network, []
    stream = network.stream

    def watched(images, wanted=None):
        for name, activation in stream(images, wanted):
            given.append(weakref.ref(activation))
            yield name, activation

    network.stream = watched
    model.training_step(batch, 1)
    gc.collect()
    assert given and not any(one() is not None for one in given)


def test_two_losses_are_held_in_balance_each_by_its_own(batch):
    model = build(perceptual_opt=None)
    model.add_loss("l_style", {**PERCEPTUAL, "perceptual_weight": 0.0, "style_weight": 3.0}, balance=0.5)
    model.add_loss("l_far", {"type": "MSELoss", "loss_weight": 7.0}, balance=0.25)
    plain = type(model).losses

    def losses(output, part):
        also = {name: model.parts[name](output, part["gt"]) for name in ("l_style", "l_far")}
        return plain(model, output, part) | also

    model.losses = losses
    assert {"balance_l_style", "balance_l_far"} <= model.state_dict().keys() and "balance_l_neg" not in model.parts
    for iteration in (1, 2, 3, 4):
        scalars = model.training_step(batch, iteration)
    assert 0.3 < scalars["ratio_l_style"] < 0.8 and 0.15 < scalars["ratio_l_far"] < 0.4
    assert scalars["factor_l_far"] != scalars["factor_l_style"]
    torch.testing.assert_close(scalars["weight_l_far"], 7 * scalars["factor_l_far"])
    assert "factor_l_neg" not in scalars and "weight_l_neg" not in scalars


def test_a_unit_scale_is_measured_by_the_ground_truth_and_resumed(batch):
    model = build(contrastive_opt={**SPN, "normalize": "unit"})
    model.training_step(batch, 1)
    unit = model.parts["l_neg"].features.unit
    raw = model.parts["l_neg"].features.network(batch["gt"])
    torch.testing.assert_close(unit.means, torch.stack([activation.mean() for activation in raw.values()]))
    other = build(contrastive_opt={**SPN, "normalize": "unit"}, seed=1)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(other.parts["l_neg"].features.unit.means, unit.means)
    assert other.parts["l_neg"].features.unit.batches == 1
    assert set(build().state_dict()) == set(model.state_dict()) - {"l_neg"}


def test_a_unit_scale_is_that_of_all_processes(batch):
    model = build(contrastive_opt={**SPN, "normalize": "unit"})
    model.parallelize(OtherRanks(lambda value: torch.full_like(value, 2.0)))
    model.training_step(batch, 1)
    assert model.parts["l_neg"].features.unit.means.tolist() == [2.0, 2.0]


def test_a_curriculum_follows_the_evaluations_and_is_resumed(batch):
    model = build(contrastive_opt=CCR)
    model.after_evaluation(25.0)
    model.after_evaluation(18.0)
    other = build(contrastive_opt=CCR, seed=1)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    for resumed in (model, other):
        loss = resumed.parts["l_neg"]
        assert isinstance(loss, CurricularContrastiveRegularization)
        torch.testing.assert_close(loss.shares(torch.zeros(2, 1, 3, 4, 4)), torch.tensor([1.25 / 7.25, 6 / 7.25]))
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
def test_what_is_no_mean_over_the_batch_cannot_be_taken_part_by_part(changes):
    build(**changes)
    with pytest.raises(ValueError, match="must be a mean over the batch"):
        build(accumulation_steps=2, **changes)


def test_a_balance_without_a_loss_to_hold_is_refused():
    with pytest.raises(ValueError, match="give 'contrastive_opt' a weight above 0"):
        build(balance=0.1, contrastive_opt={"type": "SPNLoss", "weights": "random", "loss_weight": 0})
    with pytest.raises(ValueError, match="give 'contrastive_opt', or leave it out"):
        build(balance=0.1, contrastive_opt=None, negatives=None)


def test_features_of_losses_have_the_range_of_bf16_where_the_network_has_fp16(batch):
    model = build(precision="fp16")
    seen = {}
    for name in ("network_g", "l_neg"):

        def look(*_, name=name):
            seen.setdefault(name, torch.get_autocast_dtype("cpu"))

        model.parts[name].register_forward_pre_hook(look)
    model.training_step(batch, 1)
    assert seen == {"network_g": torch.float16, "l_neg": torch.bfloat16}
