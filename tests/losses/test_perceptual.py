"""The perceptual loss compared with its formula and with official numbers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mcir.losses import PerceptualLoss
from mcir.losses.perceptual import distance, frobenius, gram
from tests.golden.deterministic import vgg_state_dict

GOLDEN = Path(__file__).parents[1] / "golden" / "losses"
LAYERS = {"relu1_2": 0.2, "conv2_1": 0.7}


def literal(loss: PerceptualLoss, output: Tensor, gt: Tensor) -> Tensor:
    """A literal implementation of the formula."""
    outputs, targets, total = loss.features(output), loss.features(gt.detach()), 0.0
    for name, weight in loss.layer_weights.items():
        a, b = outputs[name], targets[name]
        styles = []
        for maps in (a, b):
            channels, height, width = maps.shape[1:]
            styles.append(torch.einsum("bchw,bdhw->bcd", maps, maps) / (channels * height * width))
        for factor, difference in ((loss.perceptual_weight, a - b), (loss.style_weight, styles[0] - styles[1])):
            if loss.criterion == "fro":
                total += factor * weight * difference.pow(2).sum().sqrt()
            else:
                total += factor * weight * difference.abs().pow(int(loss.criterion[1])).mean()
    return total


@pytest.mark.parametrize("criterion", ["l1", "l2", "fro"])
@pytest.mark.parametrize("factors", [(1.0, 0.0), (0.0, 2.0), (0.5, 3.0)])
def test_value_and_gradient_equal_the_formula(criterion: Any, factors: tuple[float, float]) -> None:
    torch.manual_seed(0)
    perceptual, style = factors
    loss = PerceptualLoss(
        LAYERS,
        vgg_type="vgg16",
        weights="random",
        perceptual_weight=perceptual,
        style_weight=style,
        criterion=criterion,
    ).double()
    output, gt = torch.rand(2, 2, 3, 10, 12, dtype=torch.float64).unbind()
    found = []
    for function in (loss, lambda a, b: literal(loss, a, b)):
        leaf, other = output.clone().requires_grad_(), gt.clone().requires_grad_()
        value = function(leaf, other)
        value.backward()
        assert other.grad is None
        found.append((value.item(), leaf.grad))
    assert math.isclose(found[0][0], found[1][0], rel_tol=1e-12)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-11, atol=1e-16)


@pytest.mark.parametrize("name", ["spn_single", "spn_multi4_w0.001", "spn_vgg16_fro"])
def test_distances_equal_the_official_ones(name: str, tmp_path: Path) -> None:
    facts = json.loads((GOLDEN / "spn.json").read_text())["cases"][name]
    torch.save(vgg_state_dict("vgg16", 16), tmp_path / "vgg.pth")
    loss = PerceptualLoss(
        facts["layer_weights"],
        vgg_type="vgg16",
        weights=str(tmp_path / "vgg.pth"),
        criterion=facts["criterion"],
        perceptual_weight=facts["perceptual_weight"],
    )
    with np.load(GOLDEN / f"{name}.npz") as golden, torch.no_grad():
        output, negatives = torch.from_numpy(golden["out"]), torch.from_numpy(golden["neg"])
        for negative, expected in zip(negatives, facts["perceptual_each_negative_f64"], strict=True):
            assert math.isclose(loss.float()(output, negative).item(), expected, rel_tol=1e-6)
            assert math.isclose(loss.double()(output.double(), negative.double()).item(), expected, rel_tol=1e-12)


def test_half_precision_features_are_compared_in_float32() -> None:
    torch.manual_seed(0)
    a, b = torch.rand(2, 2, 8, 16, 16).bfloat16().unbind()
    with torch.autocast("cpu", torch.bfloat16):
        for criterion in ("l1", "l2", "fro"):
            for f in (lambda x: x, gram):
                found, exact = distance(f(a), f(b), criterion), distance(f(a.double()), f(b.double()), criterion)
                assert found.dtype == torch.float32
                assert math.isclose(found.item(), exact.item(), rel_tol=1e-5)


def test_frobenius_norm_of_millions_of_numbers_is_accurate() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 64, 160, 160)
    assert math.isclose(frobenius(x).item(), x.double().square().sum().sqrt().item(), rel_tol=1e-6)


@pytest.mark.parametrize("criterion", ["l1", "l2", "fro"])
def test_equal_images_have_a_finite_gradient(criterion: Any) -> None:
    loss = PerceptualLoss({"relu1_1": 1.0}, vgg_type="vgg16", weights="random", style_weight=1.0, criterion=criterion)
    output = torch.rand(1, 3, 8, 8, requires_grad=True)
    value = loss(output, output.detach().clone())
    value.backward()
    assert value == 0 and not output.grad.any()
