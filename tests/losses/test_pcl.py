"""PCL compared with its formula and with official numbers."""

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
from mcir.losses.pcl import InfoNCE
from tests.losses.helpers import stacks, value_and_grad

GOLDEN = Path(__file__).parents[1] / "golden" / "losses"
TINY: dict[str, Any] = {"layer_weights": {"relu1_1": 0.2, "conv2_1": 0.3, "pool2": 0.5}, "weights": "random"}


def literal(loss: PCLLoss, output: Tensor, negatives: Tensor, positives: Tensor) -> Tensor:
    """A literal implementation: the cross-entropy over similarities for each positive, with one graph."""
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


@pytest.mark.parametrize(("count", "positives"), [(1, 1), (4, 1), (2, 3)])
@pytest.mark.parametrize("temperature", [1.0, 0.05])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_value_and_gradient_equal_the_formula(
    count: int, positives: int, temperature: float, dtype: torch.dtype, tolerance: float
) -> None:
    loss = PCLLoss(**TINY, temperature=temperature, loss_weight=0.7).to(dtype)
    images = stacks(count, positives, dtype)
    value, gradient = value_and_grad(loss, *images)
    expected, reference = value_and_grad(lambda *x: literal(loss, *x), *images)
    assert value.dtype == dtype and value.shape == ()
    assert math.isclose(value.item(), expected.item(), rel_tol=tolerance)
    assert (gradient - reference).abs().max() <= tolerance * reference.abs().max()


@pytest.mark.parametrize("name", ["pcl_vgg_infonce", "pcl_vgg_infonce_resized"])
def test_value_and_gradient_equal_the_official_ones(vgg19: str, name: str) -> None:
    facts = json.loads((GOLDEN / "contrast.json").read_text())
    case = facts["cases"][name]
    loss = PCLLoss(weights=vgg19)
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
        value, found = value_and_grad(loss.to(dtype), output.to(dtype), negatives, positives.to(dtype))
        assert math.isclose(value.item(), case["value_f64"], rel_tol=tolerance)
        assert math.isclose(found.norm().item(), case["grad_l2_f64"], rel_tol=tolerance)
        rest = found.flatten()[:: facts["gradient_step"]] - gradient
        assert rest.abs().max() <= 3e-6 * gradient.abs().max()


def test_zero_feature_vectors_have_similarity_zero_and_no_gradient() -> None:
    anchor = torch.rand(1, 4, 2, 2, dtype=torch.float64)
    anchor[:, :, 0, 0] = 0
    contrast = InfoNCE(anchor, 1.0)
    contrast.add_negative(anchor.roll(1, dims=3))
    contrast.add_positive(torch.zeros_like(anchor), 1)
    grad = contrast.grad()
    assert grad.isfinite().all() and not grad[:, :, 0, 0].any() and grad.any()
    similarity = F.cosine_similarity(anchor, anchor.roll(1, dims=3), dim=1).mean()
    assert math.isclose(contrast.value.item(), math.log(1 + math.exp(similarity)), rel_tol=1e-12)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("which", range(3))
def test_nan_and_infinity_are_not_hidden(which: int, broken: float) -> None:
    images = stacks(1)
    images[which].view(-1)[0] = broken
    value, _ = value_and_grad(PCLLoss(**TINY).double(), *images)
    assert not value.isfinite()
