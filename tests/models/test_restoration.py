"""RestorationModel: accumulation, clipping, moving average, memory layout, precision, state."""

import copy

import pytest
import torch
from torch.distributed import HashStore, destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

from mcir.errors import ArgumentError, RegistryError
from mcir.models import RestorationModel
from mcir.registry import LOSSES, MODELS
from tests.losses.fake_communicator import FakeCommunicator
from tests.models.conftest import NETWORK


def build(**changes):
    section = {"network_g": NETWORK, "optim_g": {"type": "SGD", "lr": 0.1}, "pixel_opt": {"type": "L1Loss"}}
    return RestorationModel(**{**section, **changes})


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.network.parameters()])


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_gives_the_step_of_the_whole_batch(batch, parts):
    whole, divided = build(), build(accumulation_steps=parts)
    one, other = whole.training_step(batch, 1), divided.training_step(batch, 1)
    torch.testing.assert_close(weights(whole), weights(divided))
    torch.testing.assert_close(one["l_pix"], other["l_pix"])
    torch.testing.assert_close(one["grad_norm"], other["grad_norm"])


def test_accumulation_requires_equal_parts_and_a_batch_mean(batch):
    with pytest.raises(ValueError, match="multiple of accumulation_steps = 3, got 4"):
        build(accumulation_steps=3).training_step(batch, 1)
    with pytest.raises(ValueError, match="l_pix is not a mean over the batch"):
        build(accumulation_steps=2, pixel_opt={"type": "L1Loss", "reduction": "sum"})


@pytest.mark.parametrize("as_property", [False, True])
def test_accumulation_rejects_a_custom_loss_that_is_not_a_batch_mean(as_property, batch, monkeypatch):
    monkeypatch.setattr(LOSSES, "_classes", dict(LOSSES._classes))

    @LOSSES.register()
    class SummedLoss(torch.nn.Module):
        is_batch_mean = property(lambda self: False) if as_property else False

        def forward(self, output, gt):
            return (output - gt).abs().sum()

    assert build(pixel_opt={"type": "SummedLoss"}).training_step(batch, 1)["l_pix"] > 0
    with pytest.raises(ValueError, match="accumulation_steps: expected 1, because l_pix is not a mean over the batch"):
        build(accumulation_steps=2, pixel_opt={"type": "SummedLoss"})


def test_clipping_scales_the_gradient_and_returns_the_norm_before(batch):
    free, clipped = build(), build(grad_clip=1e-3)
    start = weights(free)
    before = free.training_step(batch, 1)["grad_norm"]
    torch.testing.assert_close(clipped.training_step(batch, 1)["grad_norm"], before)
    assert float(before) > 1e-3
    moved = weights(clipped) - start
    torch.testing.assert_close(moved.norm(), torch.tensor(0.1 * 1e-3), rtol=1e-3, atol=0)
    torch.testing.assert_close(moved, (weights(free) - start) * (1e-3 / before), rtol=1e-3, atol=3e-8)


def test_the_moving_average_follows_the_network_and_restores(batch):
    model = build(ema_decay=0.5)
    start = weights(model)
    model.training_step(batch, 1)
    average = torch.nn.utils.parameters_to_vector(model.ema.parameters())
    torch.testing.assert_close(average, 0.5 * start + 0.5 * weights(model))
    torch.testing.assert_close(model.restore(batch["lq"]), model.ema.network(batch["lq"]))
    assert not torch.allclose(model.restore(batch["lq"]), model.network(batch["lq"]))
    assert set(model.weights()) == {"params", "params_ema"}


def test_channels_last_changes_only_the_memory_layout(batch):
    plain, last = build(), build(channels_last=True)
    assert last.network.conv_first.weight.is_contiguous(memory_format=torch.channels_last)
    lq = {**batch, "lq": batch["lq"].contiguous(memory_format=torch.channels_last)}
    plain.training_step(batch, 1)
    last.training_step(lq, 1)
    torch.testing.assert_close(weights(plain), weights(last))


def test_a_resumed_run_continues_bit_for_bit(batch):
    section = {"optim_g": {"type": "Adam", "lr": 1e-2}, "ema_decay": 0.9}
    through, first, second = build(**section), build(**section), build(**section, seed=3)
    for iteration in (1, 2, 3, 4):
        through.training_step(batch, iteration)
    for iteration in (1, 2):
        first.training_step(batch, iteration)
    second.load_state_dict(first.state_dict())
    for iteration in (3, 4):
        second.training_step(batch, iteration)
    assert torch.equal(weights(through), weights(second))
    assert all(map(torch.equal, through.ema.parameters(), second.ema.parameters()))


def test_a_state_of_another_model_is_rejected():
    with pytest.raises(ValueError, match="expected the parts network_g, optimizer, got ema, network_g, optimizer"):
        build().load_state_dict(build(ema_decay=0.9).state_dict())


def test_weights_that_do_not_match_are_listed():
    model = build()
    other = build(network_g={**NETWORK, "upscale": 4}).network.state_dict()
    with pytest.raises(ValueError, match=r"do not match EDSR:\n  upsample.2.bias \(not in the network\)"):
        model.load_weights(other)
    mismatches = model.load_weights(other, strict=False)
    assert [key.partition(" ")[0] for key in mismatches] == ["upsample.2.bias", "upsample.2.weight"]
    assert torch.equal(model.network.conv_first.weight, other["conv_first.weight"])


def test_the_initial_weights_depend_only_on_the_seed():
    torch.manual_seed(1)
    one = weights(build(seed=4))
    torch.manual_seed(2)
    assert torch.equal(one, weights(build(seed=4)))
    assert not torch.equal(one, weights(build(seed=5)))


def test_the_optimizer_is_built_once_after_the_model_is_moved(batch):
    model = build()
    parameters = list(model.network.parameters())
    assert model.to(torch.device("cpu")) is model and model.optimizer is None
    model.configure_optimizer()
    optimizer = model.optimizer
    model.training_step(batch, 1)
    model.to(torch.device("cpu"))
    assert model.optimizer is optimizer
    assert [id(one) for one in parameters] == [id(one) for one in optimizer.param_groups[0]["params"]]
    with pytest.raises(AssertionError, match="built once"):
        model.configure_optimizer()


def test_compute_losses_changes_nothing_and_equals_the_losses_of_a_step(batch):
    model = build(ema_decay=0.9)
    before = copy.deepcopy(model.state_dict())
    losses = model.compute_losses(batch)
    losses["l_pix"].backward()
    gradients = [parameter.grad.clone() for parameter in model.network.parameters()]
    for name in ("network_g", "ema"):
        assert all(torch.equal(value, before[name][key]) for key, value in model.state_dict()[name].items())
    assert torch.equal(model.training_step(batch, 1)["l_pix"], losses["l_pix"].detach())
    for parameter, gradient in zip(model.network.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_plug_in_losses_need_no_base_class_and_may_observe_metrics(batch):
    class Plain(torch.nn.Module):
        def forward(self, output, gt):
            return (output - gt).square().mean()

        def observe(self, metrics):
            self.metrics = metrics

    model, plain = build(), Plain()
    assert model.criteria.observers == []
    model.criteria.add("l_percep", plain)
    assert {"l_pix", "l_percep"} <= model.training_step(batch, 1).keys()
    model.after_evaluation({"psnr": 30.0})
    assert model.criteria.observers == [plain] and plain.metrics == {"psnr": 30.0}


@pytest.mark.slow
def test_a_compiled_step_equals_an_eager_step(batch):
    plain, compiled = build(), build(compile=True)
    for iteration in (1, 2):
        plain.training_step(batch, iteration)
        compiled.training_step(batch, iteration)
    torch.testing.assert_close(weights(plain), weights(compiled))
    assert compiled.weights()["params"].keys() == plain.weights()["params"].keys()


def test_missing_and_invalid_options_are_rejected():
    with pytest.raises(ValueError, match="training requires"):
        build(optim_g=None).require_trainable()
    with pytest.raises(ValueError, match="RestorationModel: training requires"):
        build(pixel_opt=None).require_trainable()
    with pytest.raises(ValueError, match=r"ema_decay: expected a number in \[0, 1\)"):
        build(ema_decay=1.0)
    with pytest.raises(RegistryError, match="RestorationModel has no argument 'negatives'"):
        MODELS.build({"type": "RestorationModel", "network_g": NETWORK, "negatives": {}})


def test_an_fp16_step_is_close_to_an_fp32_step(batch):
    exact, rough = build(grad_clip=0.5), build(grad_clip=0.5, precision="fp16")
    start = weights(exact)
    for iteration in (1, 2):
        one, other = exact.training_step(batch, iteration), rough.training_step(batch, iteration)
    assert other["loss_scale"] == 2.0**16 and "loss_scale" not in one
    assert one["l_pix"] != other["l_pix"]
    torch.testing.assert_close(other["l_pix"], one["l_pix"], rtol=1e-2, atol=0)
    torch.testing.assert_close(other["grad_norm"], one["grad_norm"], rtol=1e-2, atol=0)
    moved, expected = weights(rough) - start, weights(exact) - start
    assert (moved - expected).norm() < 0.02 * expected.norm()


def test_fp16_accumulation_gives_the_step_of_the_whole_batch(batch):
    whole, divided = build(precision="fp16"), build(precision="fp16", accumulation_steps=2)
    start = weights(whole)
    one, other = whole.training_step(batch, 1), divided.training_step(batch, 1)
    torch.testing.assert_close(one["grad_norm"], other["grad_norm"], rtol=1e-2, atol=0)
    moved = weights(whole) - start
    assert (weights(divided) - weights(whole)).norm() < 0.02 * moved.norm()


def overflowing(model, bad):
    """Return ``training_step`` with gradients that overflow in the iterations in ``bad``."""
    step = model.training_step

    def training_step(batch, iteration):
        weight = model.network.conv_first.weight
        hook = weight.register_hook(lambda gradient: gradient * float("inf") if iteration in bad else gradient)
        try:
            return step(batch, iteration)
        finally:
            hook.remove()

    return training_step


@pytest.mark.parametrize("grad_clip", [None, 0.1])
def test_an_fp16_step_that_overflows_is_skipped_and_halves_the_scale(batch, grad_clip):
    model = build(precision="fp16", optim_g={"type": "Adam", "lr": 1e-2}, ema_decay=0.5, grad_clip=grad_clip)
    training_step = overflowing(model, bad={2})
    training_step(batch, 1)
    before, average = weights(model), torch.nn.utils.parameters_to_vector(model.ema.parameters()).clone()
    scalars = training_step(batch, 2)
    assert torch.equal(weights(model), before)
    assert scalars["grad_norm"] == 0 and scalars["loss_scale"] == 2.0**16
    assert all(state["step"] == 1 for state in model.optimizer.state_dict()["state"].values())
    followed = torch.nn.utils.parameters_to_vector(model.ema.parameters())
    torch.testing.assert_close(followed, 0.5 * average + 0.5 * before)  # the average follows the unchanged network
    scalars = training_step(batch, 3)
    assert scalars["loss_scale"] == 2.0**15 and 0 < scalars["grad_norm"] < float("inf")
    assert not torch.equal(weights(model), before)


def test_gradients_that_are_infinite_at_any_scale_are_reported(batch):
    model = build(precision="fp16")
    training_step = overflowing(model, bad=set(range(1, 40)))
    norms = [training_step(batch, iteration)["grad_norm"] for iteration in range(1, 35)]
    assert norms[:33] == [0] * 33  # from a scale of 65536 to one of 1/65536
    assert not norms[33].isfinite()


def test_a_resumed_fp16_run_continues_with_its_loss_scale(batch):
    section = {"precision": "fp16", "optim_g": {"type": "Adam", "lr": 1e-2}, "ema_decay": 0.9}
    through, first, second = build(**section), build(**section), build(**section, seed=3)
    steps = overflowing(through, bad={2, 4})
    scales = [float(steps(batch, iteration)["loss_scale"]) for iteration in (1, 2, 3, 4, 5)]
    assert scales == [65536, 65536, 32768, 32768, 16384]
    steps = overflowing(first, bad={2})
    for iteration in (1, 2, 3):
        steps(batch, iteration)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps = overflowing(second, bad={4})
    assert [float(steps(batch, iteration)["loss_scale"]) for iteration in (4, 5)] == scales[3:]
    assert torch.equal(weights(through), weights(second))
    assert through.state_dict()["loss_scale"] == second.state_dict()["loss_scale"]


@pytest.mark.parametrize(("saved", "resumed"), [("fp16", "bf16"), ("fp32", "fp16")])
def test_a_state_can_be_loaded_in_another_precision(saved, resumed, batch):
    before, after = build(precision=saved), build(precision=resumed, seed=3)
    before.training_step(batch, 1)
    after.load_state_dict(before.state_dict())
    assert torch.equal(weights(before), weights(after))
    assert after.training_step(batch, 2)["grad_norm"] > 0


@pytest.fixture
def process_group():
    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("find", [False, True])
def test_unused_parameters_are_named_if_several_processes_do_not_expect_them(batch, monkeypatch, find):
    model = build()
    model.network.never = torch.nn.Conv2d(1, 1, 1)
    model.network.frozen = torch.nn.Conv2d(1, 1, 1).requires_grad_(False)

    class Processes(FakeCommunicator):
        def wrap(self, network):
            return DistributedDataParallel(network, find_unused_parameters=find)

    model.parallelize(Processes(lambda value: value))
    if find:
        assert model.training_step(batch, 1)["l_pix"] > 0
        return
    with pytest.raises(ArgumentError, match=r"never.weight, never.bias\. .*find_unused_parameters: true"):
        model.training_step(batch, 1)
