"""CR compared with its formula and with official numbers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mcir.losses import ContrastiveRegularization
from tests.losses.helpers import saved_bytes, stacks, value_and_grad

GOLDEN = Path(__file__).parents[1] / "golden" / "losses"
FACTS = json.loads((GOLDEN / "contrast.json").read_text())
TINY: dict[str, Any] = {"layer_weights": {"relu1_1": 0.2, "conv2_1": 0.3, "pool2": 0.5}, "weights": "random"}


def literal(
    loss: ContrastiveRegularization, output: Tensor, negatives: Tensor, positives: Tensor, weights: list[float]
) -> Tensor:
    """A literal implementation of the formula, with one graph for all images."""
    total = output.new_zeros(())
    for layer, weight in loss.layer_weights.items():
        anchor = loss.features(output)[layer]
        near = sum((anchor - loss.features(p.detach())[layer]).abs().mean() for p in positives) / len(positives)
        far = sum(
            weight_n * (anchor - loss.features(n.detach())[layer]).abs().mean()
            for weight_n, n in zip(weights, negatives, strict=True)
        )
        total = total + weight * near / (far + loss.eps)
    return loss.loss_weight * total


@pytest.mark.parametrize(("count", "positives"), [(1, 1), (3, 1), (2, 3)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-5)])
def test_value_and_gradient_equal_the_formula(count: int, positives: int, dtype: torch.dtype, tolerance: float) -> None:
    loss = ContrastiveRegularization(**TINY).to(dtype)
    images = stacks(count, positives, dtype)
    value, gradient = value_and_grad(loss, *images)
    expected, reference = value_and_grad(lambda *x: literal(loss, *x, [1 / count] * count), *images)
    assert value.dtype == dtype and value.shape == ()
    assert math.isclose(value.item(), expected.item(), rel_tol=tolerance)
    assert (gradient - reference).abs().max() <= tolerance * reference.abs().max()


def check_golden(name: str, loss: ContrastiveRegularization, tolerance: float) -> None:
    facts = FACTS["cases"][name]
    with np.load(GOLDEN / f"{name}.npz") as golden:
        arrays = {key: torch.from_numpy(golden[key]) for key in golden}
    negatives = torch.cat([arrays["negs"], arrays["inp"][None]]) if "negs" in arrays else arrays["n"][None]
    for dtype, near in ((torch.float32, 3e-6), (torch.float64, tolerance)):
        images = (arrays["a"].to(dtype), negatives.to(dtype), arrays["p"][None].to(dtype))
        value, gradient = value_and_grad(loss.to(dtype), *images)
        assert math.isclose(value.item(), facts["value_f64"], rel_tol=near)
        assert math.isclose(gradient.norm().item(), facts["grad_l2_f64"], rel_tol=near)
        rest = gradient.flatten()[:: FACTS["gradient_step"]] - arrays["grad"]
        assert rest.abs().max() <= 3e-6 * arrays["grad"].abs().max()


def test_value_and_gradient_equal_the_official_ones(vgg19: str) -> None:
    check_golden("aecr_cr", ContrastiveRegularization(weights=vgg19, loss_weight=1.0), 1e-12)


def test_gradient_descent_reduces_the_loss_to_zero_at_the_positive() -> None:
    loss = ContrastiveRegularization(**TINY).double()
    output, negatives, positives = stacks(2)
    value, gradient = value_and_grad(loss, output, negatives, positives)
    with torch.no_grad():
        assert loss(output - 0.01 * gradient / gradient.abs().max(), negatives, positives) < value
    assert loss(positives[0], negatives, positives) == 0


def test_memory_does_not_grow_with_the_negatives() -> None:
    loss = ContrastiveRegularization(**TINY)
    output, negatives, positives = stacks(6, dtype=torch.float32)
    output.requires_grad_()
    six = saved_bytes(lambda: loss(output, negatives, positives))
    assert six == saved_bytes(lambda: loss(output, negatives[:1], positives))


def test_positives_may_be_a_list_or_a_stack() -> None:
    loss = ContrastiveRegularization(**TINY)
    output, negatives, positives = stacks(2, 2, dtype=torch.float32)
    assert torch.equal(loss(output, negatives, list(positives)), loss(output, negatives, positives))
    with pytest.raises(ValueError, match=r"expected positives, for example \[gt\], got none"):
        loss(output, negatives)
