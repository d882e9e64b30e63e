"""The contract that every registered loss fulfils: shapes, dtypes, gradients, determinism and errors."""

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from mcir.errors import ArgumentError
from mcir.losses import Loss
from mcir.losses.dense import Projected
from mcir.registry import LOSSES
from tests.losses.helpers import value_and_grad

LAYERS = {"relu1_1": 0.4, "relu2_1": 0.6}
DENSE = {"hidden": 4, "dim": 5}


@dataclass
class Case:
    """One configuration of a loss.

    Attributes:
        name: registered name.
        arguments: arguments of a small configuration.
        invalid: values that must be rejected, by argument.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    invalid: dict[str, list[Any]] = field(default_factory=dict)


def feature_case(name: str, invalid: dict[str, list[Any]] | None = None, **arguments: Any) -> Case:
    always_invalid = {
        "layer_weights": [{}, {"relu3_9": 1.0}, {"relu1_1": math.nan}],
        "weights": ["nowhere.pth"],
        "normalize": ["Unit"],
        "network": ["resnet81"],
        "channels": [[], [0, 1], [0, 1, -1]],
    }
    arguments = {"layer_weights": LAYERS, "weights": "random", **arguments}
    return Case(name, arguments, invalid={**always_invalid, **(invalid or {})})


REDUCTION = {"reduction": ["none"]}
TEMPERATURE = {"temperature": [0.0, -1.0, math.inf, math.nan]}
CRITERION = {"criterion": ["L1"]}
MOMENTUM = {**TEMPERATURE, "hidden": [0], "dim": [0], "momentum": [1.1], "momentum_iter": [-1]}
CURRICULUM = {
    "eps": [0.0],
    "difficulties": [[], [30.0, math.nan]],
    "curriculum": [1.5, math.nan],
    "input_weight": [0.0, math.inf],
}
CASES = [
    Case("L1Loss", invalid=REDUCTION),
    Case("L1Loss", {"reduction": "sum"}),
    Case("MSELoss", invalid=REDUCTION),
    Case("CharbonnierLoss", invalid={**REDUCTION, "eps": [0.0, math.inf, math.nan]}),
    Case("PSNRLoss", {"toY": True}, invalid=REDUCTION),
    Case("SSIMLoss"),
    feature_case("PerceptualLoss", {**CRITERION, "style_weight": [math.nan], "perceptual_weight": [0.0, math.inf]}),
    feature_case("PerceptualLoss", style_weight=1.0, criterion="fro"),
    feature_case("PerceptualLoss", layer_weights={"layer1": 1.0}, network="resnet18", range_norm=True),
    feature_case("SPNLoss", CRITERION),
    feature_case("SPNLoss", criterion="l2"),
    feature_case("SPNLoss", criterion="fro", normalize="none", use_input_norm=False),
    feature_case("ContrastiveRegularization", {"eps": [0.0, math.inf]}),
    feature_case("CurricularContrastiveRegularization", CURRICULUM, difficulties=[20.0, 30.0]),
    feature_case("PCLLoss", {"temperature": [0.01, math.inf, math.nan]}, temperature=0.1),
    Case("ResidualContrastiveLoss", invalid={**REDUCTION, **TEMPERATURE, "residual_scale": [-1.0]}),
    Case(
        "ResidualContrastiveLoss",
        {"distance": {"type": "MaximumMeanDiscrepancy"}, "residual_scale": 255.0},
        invalid=TEMPERATURE,
    ),
    Case(
        "ConsistencyLoss",
        {"layer_weights": {"layer1": 1.0}, "network": "resnet18", "weights": "random"},
        invalid={**REDUCTION, "layer_weights": [{"layer9": 1.0}], "weights": ["nowhere.pth"]},
    ),
    feature_case("ConsistencyLoss", layer_weights={"layer1": 1.0}, network="resnet18", reduction="sum"),
    Case("VADeRLoss", {"pixels": 9, **DENSE}, invalid={**MOMENTUM, "pixels": [0], "queue_size": [0]}),
    Case("DenseCLLoss", {"grid": 3, **DENSE}, invalid={**MOMENTUM, "grid": [0], "dense_share": [1.5]}),
    Case("PixContrastLoss", {"grid": 3, **DENSE}, invalid={**MOMENTUM, "grid": [0], "max_distance": [0.0, math.inf]}),
]
STATE = {"CurricularContrastiveRegularization": ["best_psnr"]}


def case_id(case: Case) -> str:
    shown = {name: value for name, value in case.arguments.items() if isinstance(value, (str, float, bool))}
    return "-".join([case.name, *(f"{name}={value}" for name, value in shown.items() if name != "weights")])


every_case = pytest.mark.parametrize("case", CASES, ids=case_id)
first_cases = {case.name: case for case in reversed(CASES)}.values()
every_loss = pytest.mark.parametrize("case", first_cases, ids=[case.name for case in first_cases])


def build(case: Case, **changes: Any) -> Loss:
    loss = LOSSES.build({"type": case.name, **case.arguments, **changes})
    assert isinstance(loss, Loss)
    return loss


def inputs(loss: Loss, batch: int = 2, dtype: torch.dtype = torch.float32) -> tuple[Tensor, list[Any]]:
    """Return the tensor that gets a gradient, and the other arguments of ``forward``."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype)

    if loss.compares == "views":
        boxes = torch.tensor([[[0.0, 0, 9, 9], [2.0, 3, 11, 12]]]).expand(batch, 2, 4)
        key = Projected(random(batch, 4, 3, 3), random(batch, 5, 3, 3), random(batch, 5, 1, 1))
        queues = {name: torch.nn.functional.normalize(random(7, 5)) for name in ("cells", "image")}
        return random(batch, 5, 3, 3), [key, boxes, queues]
    if loss.compares == "residuals":  # zero mean, and a different standard deviation in each image
        spread = torch.linspace(0.1, 0.3, batch, dtype=dtype).view(-1, 1, 1, 1)
        return (random(batch, 3, 16, 16) - 0.5) * spread, [(random(batch, 3, 16, 16) - 0.5) * spread]
    output = random(batch, 3, 16, 16)
    other = (output + 0.2 * random(batch, 3, 16, 16)).clamp(0, 1)
    return output, [random(2, batch, 3, 16, 16), [other]] if loss.compares == "negatives" else [other]


def call(loss: Loss, output: Tensor, others: list[Any]) -> Tensor:
    if loss.compares == "views":
        query = Projected(others[0].features, output, others[0].image.detach() * 0.5)
        return loss(query, *others)
    return loss(output, *others)


def _map(function: Callable[[Tensor], Tensor], values: Any) -> Any:
    """Apply a function to every tensor in the arguments of a loss."""
    if isinstance(values, Tensor):
        return function(values)
    if isinstance(values, Projected):
        return Projected(*(function(part) for part in values))
    if isinstance(values, dict):
        return {name: function(value) for name, value in values.items()}
    return [_map(function, value) for value in values]


def tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    nested = values.values() if isinstance(values, dict) else values
    return [tensor for value in nested if value is not None for tensor in tensors(value)]


def test_every_loss_has_a_case() -> None:
    own = [name for name in LOSSES.names() if LOSSES.get(name).__module__.startswith("mcir.")]
    assert {case.name for case in CASES} == set(own)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_is_a_finite_scalar_in_at_least_float32_with_a_gradient(case: Case, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    loss = build(case).to(torch.float64 if dtype == torch.float64 else torch.float32)
    output, others = inputs(loss, dtype=dtype)
    before = [tensor.clone() for tensor in tensors(others)]
    value, grad = value_and_grad(lambda leaf: call(loss, leaf, others), output)
    assert value.shape == () and value.isfinite()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert grad.shape == output.shape and grad.dtype == dtype and grad.isfinite().all() and grad.any()
    if dtype == torch.bfloat16:  # images in half precision are compared in float32
        in_float32 = call(loss, output.float(), _map(torch.Tensor.float, others))
        torch.testing.assert_close(value, in_float32, rtol=1e-5, atol=0)
    assert all(torch.equal(*pair) for pair in zip(before, tensors(others), strict=True)), "an input was overwritten"


@pytest.mark.parametrize("case", [case for case in CASES if "layer_weights" in case.arguments], ids=case_id)
def test_feature_losses_repeat_grey_images(case: Case) -> None:
    loss = build(case).double()
    output, others = inputs(loss, dtype=torch.float64)
    grey, grey_others = _map(lambda images: images[..., :1, :, :], [output, others])
    rgb, rgb_others = _map(lambda images: images.repeat_interleave(3, dim=-3), [grey, grey_others])
    value, grad = value_and_grad(lambda leaf: call(loss, leaf, grey_others), grey)
    expected, expected_grad = value_and_grad(lambda leaf: call(loss, leaf, rgb_others), rgb)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, expected_grad.sum(dim=1, keepdim=True))
    with pytest.raises(ValueError, match=r"with 1 or 3 channels, got .*'channels' selects"):
        call(loss, *_map(lambda images: images.repeat_interleave(2, dim=-3), [grey, grey_others]))


@every_case
def test_only_the_output_gets_a_gradient(case: Case) -> None:
    loss = build(case)
    output, others = inputs(loss)
    if loss.compares == "residuals":
        pytest.skip("both anchors and keys get gradients")
    for tensor in tensors(others):
        tensor.requires_grad_(tensor.is_floating_point())
    if loss.compares == "views":
        others[1] = others[1].detach()
    elif loss.compares == "image" and not hasattr(loss, "features"):
        others[0].requires_grad_(False)  # pixel losses are symmetric
    value_and_grad(lambda leaf: call(loss, leaf, others), output)
    assert all(tensor.grad is None for tensor in tensors(others))
    with torch.no_grad():
        assert not call(loss, output.requires_grad_(), others).requires_grad


@every_case
def test_autocast_changes_features_only(case: Case) -> None:
    loss = build(case)
    output, others = inputs(loss)
    torch.manual_seed(0)
    expected, reference = value_and_grad(lambda leaf: call(loss, leaf, others), output)
    torch.manual_seed(0)
    leaf = output.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = call(loss, leaf, others)
    (grad,) = torch.autograd.grad(value, leaf)
    assert value.dtype == torch.float32 and grad.dtype == torch.float32
    if hasattr(loss, "features"):
        assert value != expected and math.isclose(value.item(), expected.item(), rel_tol=0.1)
        assert torch.cosine_similarity(grad.flatten(), reference.flatten(), dim=0) > 0.8
    else:
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(grad, reference)


@every_case
def test_is_deterministic_and_can_be_copied(case: Case) -> None:
    loss = build(case)
    output, others = inputs(loss)
    values = []
    for one in (loss, loss, build(case), copy.deepcopy(loss)):
        torch.manual_seed(0)
        values.append(call(one, output, others))
    assert all(torch.equal(value, values[0]) for value in values)


@every_case
def test_is_batch_mean_is_correct(case: Case) -> None:
    loss = build(case)
    if loss.compares not in ("image", "negatives"):
        assert not loss.is_batch_mean or loss.compares == "views"
        return
    output, others = inputs(loss, batch=2, dtype=torch.float64)
    loss.double()

    def part(number: int) -> Tensor:
        own = slice(number, number + 1)
        if loss.compares == "image":
            return call(loss, output[own], [others[0][own]])
        return call(loss, output[own], [others[0][:, own], [others[1][0][own]]])

    mean = (part(0) + part(1)) / 2
    assert math.isclose(mean.item(), call(loss, output, others).item(), rel_tol=1e-9) == loss.is_batch_mean


@every_case
def test_runs_on_the_meta_device(case: Case) -> None:
    with torch.device("meta"):
        loss = build(case)
    output, others = inputs(loss)
    on_meta = _map(lambda tensor: tensor.to("meta"), others)
    if case.name == "VADeRLoss":
        on_meta[1] = others[1]  # boxes stay on the CPU
    value = call(loss.to("meta"), output.to("meta").requires_grad_(), on_meta)
    assert value.is_meta and value.shape == ()
    value.backward()


@every_loss
def test_wrong_shapes_are_rejected(case: Case) -> None:
    loss = build(case)
    output, others = inputs(loss)
    if loss.compares == "views":
        pytest.skip("the shapes of projections are chosen by the model")
    name = case.name
    if loss.compares == "negatives":
        negatives, positives = others
        wrong: list[list[Any]] = [
            [n, positives] for n in (negatives[0], negatives[:0], negatives[:, :1], negatives[..., 1:])
        ]
        if name != "SPNLoss":
            wrong += [[negatives], [negatives, positives[0]], [negatives, []], [negatives, [positives[0][:1]]]]
    else:
        wrong = [[others[0][:1]], [others[0][:, :1]], [others[0][..., 1:]]]
    for arguments in wrong:
        with pytest.raises(ValueError, match=rf"{name}: expected "):
            loss(output, *arguments)


@every_loss
def test_the_weight_is_a_factor_and_arguments_are_keyword_only(case: Case) -> None:
    parameters = LOSSES.parameters(case.name)
    positional = [name for name, one in parameters.items() if one.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert positional == (["layer_weights"] if "layer_weights" in parameters else [])
    if "loss_weight" in parameters:
        values = []
        for weight in (0.5, 1.0):
            loss = build(case, loss_weight=weight)
            assert loss.loss_weight == weight
            torch.manual_seed(0)
            values.append(call(loss, *inputs(loss)))
        torch.testing.assert_close(2 * values[0], values[1])
        with pytest.raises(ArgumentError, match=r"loss_weight: expected a finite number (above|≥) 0, got nan"):
            build(case, loss_weight=math.nan)
    else:
        assert build(case).loss_weight == 1.0


@every_loss
def test_has_no_parameters_and_only_the_expected_state(case: Case) -> None:
    loss = build(case)
    assert not list(loss.parameters()) and not any(buffer.requires_grad for buffer in loss.buffers())
    assert list(loss.state_dict()) == STATE.get(case.name, [])


@pytest.mark.parametrize(
    ("case", "argument", "value"),
    [(case, argument, value) for case in CASES for argument, values in case.invalid.items() for value in values],
    ids=lambda value: case_id(value) if isinstance(value, Case) else str(value),
)
def test_invalid_arguments_are_rejected_by_name(case: Case, argument: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=rf"^{argument}(\.\w+)?: ") as caught:
        build(case, **{argument: value})
    assert caught.value.name == argument
