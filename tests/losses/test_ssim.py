"""The SSIM loss compared with IDT's numbers and with the formula."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mcir.losses import SSIMLoss

GOLDEN = Path(__file__).parents[1] / "golden" / "losses"


def literal(output, gt):
    """−SSIM with the two-dimensional 11×11 window, and gradients from autograd."""
    axis = torch.arange(11, dtype=output.dtype) - 5
    kernel = torch.exp(-(axis[:, None] ** 2 + axis**2) / 4.5)
    kernel = (kernel / kernel.sum()).expand(output.shape[1], 1, -1, -1)

    def blur(x):
        return F.conv2d(x, kernel, padding=5, groups=x.shape[1])

    x, y = blur(output), blur(gt)
    var_x, var_y, both = blur(output**2) - x**2, blur(gt**2) - y**2, blur(output * gt) - x * y
    return -((2 * x * y + 1e-4) * (2 * both + 9e-4) / ((x**2 + y**2 + 1e-4) * (var_x + var_y + 9e-4))).mean()


def pair(shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    gt = torch.rand(shape, generator=generator, dtype=torch.float64)
    output = gt + 0.6 * (torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5)
    return output.to(dtype).requires_grad_(), gt.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_equal_idts(dtype):
    expected = json.loads((GOLDEN / "fidelity.json").read_text())["cases"]["idt_ssim_loss"]
    with np.load(GOLDEN / "fidelity.npz") as golden:
        output, gt, gradient = (torch.from_numpy(golden[f"idt_ssim_loss.{name}"]) for name in ("out", "gt", "grad"))
    output = output.to(dtype).requires_grad_()
    loss = SSIMLoss()(output, gt.to(dtype))
    loss.backward()
    tolerance = 1e-7 if dtype == torch.float32 else 1e-12
    assert loss.item() == pytest.approx(expected["value_f64"], abs=3e-7 if dtype == torch.float32 else 1e-8)
    assert output.grad.norm().item() == pytest.approx(expected["grad_l2_f64"], rel=10 * tolerance + 1e-6)
    torch.testing.assert_close(output.grad.float(), gradient, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("shape", [(2, 3, 24, 17), (1, 1, 5, 30), (1, 2, 3, 1)])
def test_value_and_gradient_equal_the_formula(shape):
    output, gt = pair(shape)
    loss, expected = SSIMLoss(loss_weight=0.7)(output, gt), 0.7 * literal(output, gt)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    (found,), (reference,) = (torch.autograd.grad(value, output) for value in (loss, expected))
    torch.testing.assert_close(found, reference, rtol=1e-9, atol=1e-14)


def test_gradients_are_correct():
    output, gt = pair((1, 2, 6, 4))
    assert torch.autograd.gradcheck(lambda x, y: SSIMLoss(loss_weight=0.7)(x, y), (output, gt.requires_grad_()))
    assert torch.autograd.gradgradcheck(lambda x: SSIMLoss(loss_weight=0.7)(x, gt.detach()), (output,))


def test_equal_images_are_the_minimum():
    output, gt = pair((1, 3, 16, 16))
    assert SSIMLoss()(gt, gt).item() == pytest.approx(-1, abs=1e-12)
    best = gt.clone().requires_grad_()
    SSIMLoss()(best, gt).backward()
    assert best.grad.abs().max() < 1e-12
    assert SSIMLoss()(output, gt) > SSIMLoss()(gt, gt)


def test_the_output_is_not_clamped():
    output, gt = pair((1, 1, 12, 12))
    assert SSIMLoss()(output + 2, gt) != SSIMLoss()((output + 2).clamp(0, 1), gt)
