"""SPN compared with a literal implementation and with official numbers."""

import doctest
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import mcir.losses.spn
from mcir.losses import L1Loss, PerceptualLoss, SPNLoss
from mcir.losses import precomputed_grad as module
from tests.golden.deterministic import vgg_state_dict
from tests.losses.helpers import saved_bytes, value_and_grad

GOLDEN = Path(__file__).parents[1] / "golden" / "losses"
LAYERS = {"relu1_2": 0.2, "conv2_1": 0.3, "pool2": 0.5}
CRITERIA = ["l1", "l2", "fro"]


def literal(loss: SPNLoss, output: Tensor, negatives: Tensor) -> Tensor:
    """The loss as in the released code: one perceptual loss for each negative, which computes both features."""
    one = PerceptualLoss(loss.layer_weights, vgg_type="vgg16", weights="random", criterion=loss.criterion).to(
        output.dtype
    )
    return -loss.loss_weight * sum(one(output, negative.detach()) for negative in negatives) / len(negatives)


def images(count: int = 3, dtype: torch.dtype = torch.float32, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    output = torch.rand(batch, 3, 12, 10, dtype=dtype, generator=generator)
    noise = torch.rand(count, batch, 3, 12, 10, dtype=dtype, generator=generator)
    return output, (output + 0.3 * (noise - 0.5)).clamp(0, 1)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_value_and_gradient_equal_the_literal_loss(
    criterion: Any, count: int, dtype: torch.dtype, tolerance: float
) -> None:
    loss = SPNLoss(LAYERS, weights="random", criterion=criterion, loss_weight=0.3).to(dtype)
    output, negatives = images(count, dtype)
    value, gradient = value_and_grad(loss, output, negatives)
    expected, reference = value_and_grad(lambda *x: literal(loss, *x), output, negatives)
    assert value.dtype == dtype and value.shape == ()
    assert math.isclose(value.item(), expected.item(), rel_tol=tolerance)
    assert (gradient - reference).abs().max() <= tolerance * reference.abs().max()


def check_golden(name: str, weights: str) -> None:
    facts = json.loads((GOLDEN / "spn.json").read_text())["cases"][name]
    factor = facts["perceptual_weight"]
    loss = SPNLoss(
        facts["layer_weights"],
        vgg_type=facts["vgg_type"],
        weights=weights,
        criterion=facts["criterion"],
        loss_weight=factor,
    )
    with np.load(GOLDEN / f"{name}.npz") as golden:
        output, gt, negatives, gradient = (torch.from_numpy(golden[key]) for key in ("out", "gt", "neg", "grad"))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        leaf = output.to(dtype, copy=True).requires_grad_()
        pixel = L1Loss()(leaf, gt.to(dtype))
        value = pixel + loss.to(dtype)(leaf, negatives.to(dtype))
        value.backward()
        assert abs(value.item() - facts["value_f64"]) <= tolerance * (abs(facts["value_f64"]) + pixel.item())
        assert math.isclose(leaf.grad.norm().item(), facts["grad_l2_f64"], rel_tol=tolerance)
        assert (leaf.grad - gradient).abs().max() <= 1e-5 * gradient.abs().max()


@pytest.mark.parametrize("name", ["spn_single", "spn_multi4_w0.001", "spn_vgg16_fro"])
def test_value_and_gradient_equal_the_official_ones(name: str, tmp_path: Path) -> None:
    torch.save(vgg_state_dict("vgg16", 16), tmp_path / "vgg.pth")
    check_golden(name, str(tmp_path / "vgg.pth"))


def test_value_and_gradient_with_vgg19_equal_the_official_ones(tmp_path: Path) -> None:
    torch.save(vgg_state_dict("vgg19", 35), tmp_path / "vgg.pth")
    check_golden("spn_vgg19_l2", str(tmp_path / "vgg.pth"))


def test_large_batches_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = SPNLoss(LAYERS, weights="random")
    output, negatives = images(2, batch=5)
    whole = value_and_grad(loss, output, negatives)
    monkeypatch.setattr(module, "_CHUNK", 2 * 64 * 12 * 10)
    parts = value_and_grad(loss, output, negatives)
    assert math.isclose(whole[0].item(), parts[0].item(), rel_tol=1e-6)
    assert torch.equal(whole[1], parts[1])


def test_channels_last_gives_the_same_value_and_gradient() -> None:
    loss = SPNLoss(LAYERS, weights="random")
    output, negatives = images()
    expected, reference = value_and_grad(loss, output, negatives)
    loss.to(memory_format=torch.channels_last)
    strided = torch.stack([negative.contiguous(memory_format=torch.channels_last) for negative in negatives])
    value, gradient = value_and_grad(loss, output.contiguous(memory_format=torch.channels_last), strided)
    assert math.isclose(value.item(), expected.item(), rel_tol=1e-5)
    assert (gradient - reference).abs().max() <= 1e-5 * reference.abs().max()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_under_autocast_bfloat16_features_are_compared_in_float32(criterion: Any) -> None:
    loss = SPNLoss(LAYERS, weights="random", criterion=criterion)
    output, negatives = images()
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = value_and_grad(loss, output, negatives)
        expected, reference = value_and_grad(lambda *x: literal(loss, *x), output, negatives)
    assert math.isclose(value.item(), expected.item(), rel_tol=1e-5)
    assert (gradient - reference).norm() < 0.03 * reference.norm()


def test_the_features_of_the_output_and_of_each_negative_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, passes = SPNLoss(LAYERS, weights="random"), []
    stream = loss.features.network.stream

    def recording(x: Tensor, layers: Any) -> Any:
        passes.append((tuple(x.shape), x.requires_grad))
        return stream(x, layers)

    monkeypatch.setattr(loss.features.network, "stream", recording)
    value_and_grad(loss, *images(4))
    assert passes == [((2, 3, 12, 10), True)] + [((2, 3, 12, 10), False)] * 4


def test_memory_does_not_grow_with_the_negatives() -> None:
    loss = SPNLoss(weights="random")
    output, negatives = images(6)
    output.requires_grad_()
    six = saved_bytes(lambda: loss(output, negatives))
    assert six == saved_bytes(lambda: loss(output, negatives[:1]))
    assert six < 0.3 * saved_bytes(lambda: literal(loss, output, negatives))


def test_the_cost_is_two_passes_for_the_output_and_one_for_each_negative() -> None:
    """The output passes forward and backward through the feature network, and each negative passes forward."""
    with torch.device("meta"):
        loss = SPNLoss()
        output, negatives = torch.rand(2, 3, 16, 16, requires_grad=True), torch.rand(4, 2, 3, 16, 16)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        loss.features(output)
    once = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        loss(output, negatives).backward()
    assert counter.get_total_flops() == (2 + len(negatives)) * once


def test_the_gradient_is_scaled_by_the_gradient_of_the_total() -> None:
    loss = SPNLoss(LAYERS, weights="random")
    output, negatives = images()
    _, gradient = value_and_grad(loss, output, negatives)
    leaf = output.clone().requires_grad_()
    scaled = 5 * loss(leaf, negatives)
    scaled.backward(retain_graph=True)
    assert (leaf.grad - 5 * gradient).abs().max() <= 1e-5 * leaf.grad.abs().max()
    scaled.backward()
    assert (leaf.grad - 10 * gradient).abs().max() <= 1e-5 * leaf.grad.abs().max()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_negative_equal_to_the_output_has_no_gradient(criterion: Any) -> None:
    loss = SPNLoss(LAYERS, weights="random", criterion=criterion)
    output, _ = images()
    value, gradient = value_and_grad(loss, output, output[None])
    assert value == 0 and not gradient.any()


def test_gradient_descent_moves_the_output_away_from_the_negatives() -> None:
    loss = SPNLoss(LAYERS, weights="random", loss_weight=1.0)
    output, negatives = images()
    value, gradient = value_and_grad(loss, output, negatives)
    with torch.no_grad():
        assert loss(output - 0.1 * gradient, negatives) < value < 0


def test_the_examples_in_the_docstring_run() -> None:
    result = doctest.testmod(mcir.losses.spn)
    assert result.attempted > 5 and not result.failed
