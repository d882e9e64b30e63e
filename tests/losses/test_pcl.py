import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mcir.losses import PCLLoss
from tests.golden.deterministic import vgg_state_dict

GOLDEN = Path(__file__).parents[1] / "golden" / "losses"
TINY: dict[str, Any] = {"layer_weights": {"relu1_1": 0.2, "conv2_1": 0.3, "pool2": 0.5}, "weights": "random"}


def images(negatives: int, positives: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    stack = torch.rand(1 + negatives + positives, 2, 3, 12, 10, dtype=dtype, generator=generator)
    return stack[0], stack[1 : 1 + negatives], stack[1 + negatives :]


def literal(loss: PCLLoss, output: Tensor, negatives: Tensor, positives: Tensor) -> Tensor:
    """A cross-entropy over similarities for each positive, with one graph over all."""
    total = output.new_zeros(())
    for layer, weight in loss.layer_weights.items():
        anchor = loss.features(output)[layer]

        def similarity(image: Tensor, anchor: Tensor = anchor, layer: str = layer) -> Tensor:
            return F.cosine_similarity(anchor, loss.features(image.detach())[layer], dim=1).mean((1, 2))

        for positive in positives:
            logits = torch.stack([similarity(image) for image in (positive, *negatives)], dim=1) / loss.temperature
            target = torch.zeros(len(output), dtype=torch.int64)
            total = total + weight * F.cross_entropy(logits, target) / len(positives)
    return loss.loss_weight * total


def value_and_gradient(function: Any, output: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    leaf = output.clone().requires_grad_()
    value = function(leaf, *others)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


@pytest.mark.parametrize(("count", "positives"), [(1, 1), (4, 1), (2, 3)])
@pytest.mark.parametrize("temperature", [1.0, 0.05])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_equals_the_literal_formula(
    count: int, positives: int, temperature: float, dtype: torch.dtype, tolerance: float
) -> None:
    loss = PCLLoss(**TINY, temperature=temperature, loss_weight=0.7).to(dtype)
    stacks = images(count, positives, dtype)
    value, gradient = value_and_gradient(loss, *stacks)
    expected, reference = value_and_gradient(lambda *x: literal(loss, *x), *stacks)
    assert value.dtype == dtype and value.shape == ()
    assert math.isclose(value.item(), expected.item(), rel_tol=tolerance)
    assert (gradient - reference).abs().max() <= tolerance * reference.abs().max()


@pytest.mark.parametrize("name", ["pcl_vgg_infonce", "pcl_vgg_infonce_resized"])
def test_value_and_gradient_are_the_official_ones(tmp_path: Path, name: str) -> None:
    torch.save(vgg_state_dict("vgg19", 30), tmp_path / "vgg.pth")
    facts = json.loads((GOLDEN / "contrast.json").read_text())
    case = facts["cases"][name]
    loss = PCLLoss(weights=str(tmp_path / "vgg.pth"))
    with np.load(GOLDEN / f"{name}.npz") as golden:
        output, positives, small, gradient = (torch.from_numpy(golden[key]) for key in ("sr", "hr", "lr", "grad"))
    for dtype, tolerance in ((torch.float32, 3e-6), (torch.float64, 1e-12)):
        negatives = torch.stack(
            [
                image
                if image.shape == output.shape
                else F.interpolate(image, output.shape[2:], mode="bicubic", align_corners=True).clamp(0, 1)
                for image in small.to(dtype)
            ]
        )
        value, found = value_and_gradient(loss.to(dtype), output.to(dtype), negatives, positives.to(dtype))
        assert math.isclose(value.item(), case["value_f64"], rel_tol=tolerance)
        assert math.isclose(found.norm().item(), case["grad_l2_f64"], rel_tol=tolerance)
        rest = found.flatten()[:: facts["gradient_step"]] - gradient
        assert rest.abs().max() <= 3e-6 * gradient.abs().max()


def test_each_branch_gets_the_gradient_that_it_should() -> None:
    """Unlike in the released code, the output does; negatives, positives and the feature network do not."""
    loss = PCLLoss(**TINY).double()
    output, negatives, positives = images(2, 2)
    negatives.requires_grad_()
    positives.requires_grad_()
    _, gradient = value_and_gradient(loss, output, negatives, positives)
    assert negatives.grad is None and positives.grad is None
    assert not list(loss.parameters()) and not any(buffer.requires_grad for buffer in loss.buffers())
    other = positives.detach().flip(-1)
    for changed in ((negatives.flip(-1), positives), (negatives, other)):  # both push
        assert (value_and_gradient(loss, output, *changed)[1] - gradient).norm() > 1e-3 * gradient.norm() > 0
    assert not loss(output, negatives, positives).requires_grad
    with torch.no_grad():
        step = 0.01 * gradient / gradient.abs().max()
        assert loss(output - step, negatives, positives) < loss(output, negatives, positives)


def test_places_where_nothing_is_active_have_neither_similarity_nor_slope() -> None:
    from mcir.losses.pcl import InfoNCE

    anchor = torch.rand(1, 4, 2, 2, dtype=torch.float64)
    anchor[:, :, 0, 0] = 0
    contrast = InfoNCE(anchor, 1.0)
    contrast.repel(anchor.roll(1, dims=3))
    contrast.attract(torch.zeros_like(anchor), 1)
    slope = contrast.slope()
    assert slope.isfinite().all() and not slope[:, :, 0, 0].any() and slope.any()
    similarity = F.cosine_similarity(anchor, anchor.roll(1, dims=3), dim=1).mean()
    assert math.isclose(contrast.value.item(), math.log(1 + math.exp(similarity)), rel_tol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.01}, "temperature is a finite number, at least 0.05, not 0.01"),
        ({"temperature": math.inf}, "temperature is a finite number, at least 0.05, not inf"),
        ({"temperature": math.nan}, "temperature is a finite number, at least 0.05, not nan"),
        ({"layer_weights": {}}, "layer_weights names no layer"),
        ({"loss_weight": math.nan}, "the weight of loss_weight is a finite number"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PCLLoss(**{**TINY, **arguments})


def test_images_are_checked() -> None:
    output, negatives, positives = images(2, dtype=torch.float32)
    loss = PCLLoss(**TINY)
    with pytest.raises(ValueError, match=r"needs positives, such as \[gt\]"):
        loss(output, negatives)
    with pytest.raises(ValueError, match=r"the negatives are \(N, 2, 3, 12, 10\) with N ≥ 1"):
        loss(output, negatives[:0], positives)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("which", range(3))
def test_what_is_not_finite_is_not_hidden(which: int, broken: float) -> None:
    stacks = images(1)
    stacks[which].view(-1)[0] = broken
    value, _ = value_and_gradient(PCLLoss(**TINY).double(), *stacks)
    assert not value.isfinite()
