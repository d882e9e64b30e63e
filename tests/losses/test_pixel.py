"""Pixel losses compared with NumPy formulas and with NAFNet's numbers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mcir.losses import CharbonnierLoss, L1Loss, MSELoss, PSNRLoss

GOLDEN = Path(__file__).parents[1] / "golden" / "losses"
KINDS = [L1Loss, MSELoss, CharbonnierLoss, PSNRLoss]


def numpy_terms(kind: type, output: np.ndarray, gt: np.ndarray) -> np.ndarray:
    difference = output - gt
    return {
        L1Loss: np.abs(difference),
        MSELoss: difference**2,
        CharbonnierLoss: np.sqrt(difference**2 + 1e-12),
        PSNRLoss: np.array([10 * math.log10((image**2).mean() + 1e-8) for image in difference]),
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_value_equals_numpys(kind: type, reduction: Any) -> None:
    rng = np.random.default_rng(0)
    output, gt = rng.random((2, 3, 5, 4)), rng.random((2, 3, 5, 4))
    loss = kind(loss_weight=0.7, reduction=reduction)(torch.from_numpy(output), torch.from_numpy(gt))
    assert loss.shape == () and loss.dtype == torch.float64
    assert math.isclose(loss.item(), 0.7 * getattr(numpy_terms(kind, output, gt), reduction)(), rel_tol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradient_is_correct(kind: type, reduction: Any) -> None:
    torch.manual_seed(0)
    output, gt = torch.rand(1, 2, 3, 4, dtype=torch.float64, requires_grad=True), torch.rand(1, 2, 3, 4).double()
    assert torch.autograd.gradcheck(lambda x: kind(loss_weight=0.7, reduction=reduction)(x, gt), (output,))


@pytest.mark.parametrize("kind", KINDS)
def test_equal_images_have_a_finite_gradient(kind: type) -> None:
    output = torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    kind()(output, output.detach().clone()).backward()
    assert not output.grad.any()


def test_the_eps_of_charbonnier_is_added_to_the_square():
    zero = torch.zeros(1, 1, 1, 1)
    assert math.isclose(CharbonnierLoss(eps=0.25)(zero, zero).item(), 0.5)


@pytest.mark.parametrize(("case", "luma"), [("nafnet_psnr_loss", False), ("nafnet_psnr_loss_y", True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_psnr_loss_equals_nafnets_value(case: str, luma: bool, dtype: torch.dtype) -> None:
    expected = json.loads((GOLDEN / "fidelity.json").read_text())["cases"][case]
    with np.load(GOLDEN / "fidelity.npz") as golden:
        output, gt, gradient = (torch.from_numpy(golden[f"{case}.{name}"]) for name in ("out", "gt", "grad"))
    output = output.to(dtype).requires_grad_()
    loss = PSNRLoss(toY=luma)(output, gt.to(dtype))
    loss.backward()
    exact = "value_f64" in expected and dtype == torch.float64  # the official luma is float32 throughout
    assert loss.item() == pytest.approx(expected["value_f64" if exact else "value"], abs=1e-12 if exact else 1e-5)
    torch.testing.assert_close(output.grad.float(), gradient, rtol=1e-4, atol=1e-7)


def test_psnr_loss_averages_the_psnr_of_the_images() -> None:
    gt = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    output = gt + torch.tensor([0.1, 0.001]).double().view(2, 1, 1, 1)
    assert math.isclose(PSNRLoss()(output, gt).item(), (-20 - 60) / 2, abs_tol=0.05)
    assert math.isclose(PSNRLoss()(gt, gt).item(), -80)


def test_the_luma_of_images_that_are_not_rgb_is_rejected() -> None:
    with pytest.raises(ValueError, match="toY requires RGB images, got 1 channels"):
        PSNRLoss(toY=True)(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4))
