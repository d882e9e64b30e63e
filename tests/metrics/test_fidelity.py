"""PSNR and SSIM compared with BasicSR's values and with slow reference implementations."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mcir.metrics import PSNR, SSIM
from mcir.registry import METRICS

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"
CASES = json.loads((GOLDEN / "basicsr.json").read_text())["cases"]


def pair(seed: int = 0, shape: tuple[int, ...] = (2, 3, 20, 27)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gt = torch.rand(shape, generator=generator)
    return gt + 0.2 * (torch.rand(shape, generator=generator) - 0.5), gt


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("crop", [0, 4])
@pytest.mark.parametrize("luma", [False, True])
def test_values_equal_basicsrs(case: str, crop: int, luma: bool) -> None:
    with np.load(GOLDEN / "basicsr.npz") as golden:
        output, gt = (  # stored as (H, W, BGR)
            torch.from_numpy(golden[f"{case}.{name}"][..., ::-1].copy()).permute(2, 0, 1)[None] / 255
            for name in ("out", "gt")
        )
    for name, tolerance in (("psnr", 1e-6), ("ssim", 1e-8)):
        metric = METRICS.build({"type": f"calculate_{name}", "crop_border": crop, "test_y_channel": luma})
        expected = CASES[case][f"basicsr_{name}_crop{crop}_{'y' if luma else 'rgb'}"]
        if not luma:
            tolerance = 1e-12  # BasicSR's luma is float32, ours is not rounded
        assert math.isclose(metric(output, gt).item(), expected, abs_tol=tolerance)


def plain_ssim(output: np.ndarray, gt: np.ndarray) -> float:
    """SSIM of two images (C, H, W) in [0, 255] under the whole 11×11 window."""
    axis = np.arange(11) - 5
    window = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 1.5**2))
    kernel = torch.from_numpy(window / window.sum()).view(1, 1, 11, 11)

    def blur(x: np.ndarray) -> np.ndarray:
        return F.conv2d(torch.from_numpy(x)[:, None], kernel).numpy()

    mean_x, mean_y = blur(output), blur(gt)
    var_x, var_y = blur(output**2) - mean_x**2, blur(gt**2) - mean_y**2
    covariance = blur(output * gt) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * covariance + c2) / (var_x + var_y + c2)).mean())


@pytest.mark.parametrize("crop", [0, 3])
@pytest.mark.parametrize("shape", [(2, 3, 20, 27), (1, 1, 17, 18)])
def test_values_equal_a_slow_reference(crop: int, shape: tuple[int, ...]) -> None:
    output, gt = pair(1, shape)
    found = PSNR(crop)(output, gt), SSIM(crop)(output, gt)
    assert all(values.shape == (shape[0],) and values.dtype == torch.float64 for values in found)
    inner = (slice(None), slice(crop, shape[2] - crop), slice(crop, shape[3] - crop))
    for index in range(shape[0]):
        a, b = (np.rint(x[index].clamp(0, 1).numpy() * np.float32(255))[inner].astype(float) for x in (output, gt))
        assert math.isclose(found[0][index], 20 * math.log10(255 / math.sqrt(((a - b) ** 2).mean())), abs_tol=1e-9)
        assert math.isclose(found[1][index], plain_ssim(a, b), abs_tol=1e-9)


def test_luma_equals_its_formula() -> None:
    output, gt = pair(2)
    lumas = []
    for images in (output, gt):
        red, green, blue = (images.clamp(0, 1) * 255).round().double().unbind(1)
        lumas.append((65.481 * red + 128.553 * green + 24.966 * blue) / 255 + 16)
    expected = [20 * math.log10(255 / math.sqrt(e)) for e in (lumas[0] - lumas[1]).square().mean((1, 2)).tolist()]
    assert PSNR(test_y_channel=True)(output, gt).tolist() == pytest.approx(expected, abs=1e-9)


def test_images_are_clamped_and_rounded_like_saved_images() -> None:
    gt = torch.full((1, 1, 12, 12), 100 / 255)
    # 100.49 is rounded to 100; 100.5 and 101.5 are rounded to the even neighbour; values outside [0, 1] are clamped
    assert PSNR()(gt + 0.49 / 255, gt).item() == math.inf
    halves = torch.tensor([100.5, 101.5, 102.5]).view(3, 1, 1, 1).expand(3, 1, 12, 12) / 255
    saved = torch.tensor([100.0, 102.0, 102.0]).view(3, 1, 1, 1).expand(3, 1, 12, 12) / 255
    assert ((halves * 255) % 1 == 0.5).all()
    assert PSNR()(halves, saved).tolist() == [math.inf] * 3
    assert PSNR()(torch.full_like(gt, 1.7), torch.ones_like(gt)).item() == math.inf
    assert PSNR()(torch.full_like(gt, -3.0), torch.zeros_like(gt)).item() == math.inf


def test_basicsr_names_are_aliases() -> None:
    assert METRICS.get("calculate_psnr") is PSNR and METRICS.get("calculate_ssim") is SSIM
