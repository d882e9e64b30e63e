import json
import math
from pathlib import Path
from typing import Any

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
def test_values_are_basicsr_s(case: str, crop: int, luma: bool) -> None:
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

    def blurred(x: np.ndarray) -> np.ndarray:
        return F.conv2d(torch.from_numpy(x)[:, None], kernel).numpy()

    mean_x, mean_y = blurred(output), blurred(gt)
    var_x, var_y = blurred(output**2) - mean_x**2, blurred(gt**2) - mean_y**2
    covariance = blurred(output * gt) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * covariance + c2) / (var_x + var_y + c2)).mean())


@pytest.mark.parametrize("crop", [0, 3])
@pytest.mark.parametrize("shape", [(2, 3, 20, 27), (1, 1, 17, 18)])
def test_batches_by_hand(crop: int, shape: tuple[int, ...]) -> None:
    output, gt = pair(1, shape)
    found = PSNR(crop)(output, gt), SSIM(crop)(output, gt)
    assert all(values.shape == (shape[0],) and values.dtype == torch.float64 for values in found)
    inner = (slice(None), slice(crop, shape[2] - crop), slice(crop, shape[3] - crop))
    for index in range(shape[0]):
        a, b = (np.rint(x[index].clamp(0, 1).numpy() * np.float32(255))[inner].astype(float) for x in (output, gt))
        assert math.isclose(found[0][index], 20 * math.log10(255 / math.sqrt(((a - b) ** 2).mean())), abs_tol=1e-9)
        assert math.isclose(found[1][index], plain_ssim(a, b), abs_tol=1e-9)


def test_luma_by_hand() -> None:
    output, gt = pair(2)
    lumas = []
    for images in (output, gt):
        red, green, blue = (images.clamp(0, 1) * 255).round().double().unbind(1)
        lumas.append((65.481 * red + 128.553 * green + 24.966 * blue) / 255 + 16)
    expected = [20 * math.log10(255 / math.sqrt(e)) for e in (lumas[0] - lumas[1]).square().mean((1, 2)).tolist()]
    assert PSNR(test_y_channel=True)(output, gt).tolist() == pytest.approx(expected, abs=1e-9)


def test_equal_images() -> None:
    _, gt = pair()
    assert PSNR()(gt, gt).tolist() == [math.inf, math.inf]
    assert SSIM()(gt, gt).tolist() == pytest.approx([1, 1], abs=1e-12)


def test_images_are_compared_as_they_would_be_saved() -> None:
    gt = torch.full((1, 1, 12, 12), 100 / 255)
    # 100.49 is saved as 100; 100.5 and 101.5 go to the even neighbour; what leaves [0, 1] is clamped
    assert PSNR()(gt + 0.49 / 255, gt).item() == math.inf
    halves = torch.tensor([100.5, 101.5, 102.5]).view(3, 1, 1, 1).expand(3, 1, 12, 12) / 255
    saved = torch.tensor([100.0, 102.0, 102.0]).view(3, 1, 1, 1).expand(3, 1, 12, 12) / 255
    assert ((halves * 255) % 1 == 0.5).all()
    assert PSNR()(halves, saved).tolist() == [math.inf] * 3
    assert PSNR()(torch.full_like(gt, 1.7), torch.ones_like(gt)).item() == math.inf
    assert PSNR()(torch.full_like(gt, -3.0), torch.zeros_like(gt)).item() == math.inf


def test_half_precision_and_graphs_are_welcome() -> None:
    output, gt = pair()
    for metric in (PSNR(), SSIM()):
        assert not metric(output.clone().requires_grad_(), gt).requires_grad
        half = output.bfloat16()
        assert torch.equal(metric(half, gt), metric(half.float(), gt))


def test_what_a_table_needs_to_know() -> None:
    assert (PSNR.unit, SSIM.unit) == ("dB", "")
    assert PSNR.higher_is_better and SSIM.higher_is_better
    assert METRICS.get("calculate_psnr") is PSNR and METRICS.get("calculate_ssim") is SSIM


@pytest.mark.parametrize(
    ("metric", "shapes", "message"),
    [
        (PSNR(), ((1, 3, 8, 8), (1, 3, 8, 9)), r"not \(1, 3, 8, 8\) with \(1, 3, 8, 9\)"),
        (PSNR(), ((3, 8, 8), (3, 8, 8)), r"two batches \(B, C, H, W\)"),
        (
            PSNR(4),
            ((1, 3, 8, 20), (1, 3, 8, 20)),
            "1×1 pixels; these have 8×20, of which a border of 4 leaves 0×12",
        ),
        (SSIM(), ((1, 3, 10, 20), (1, 3, 10, 20)), "at least 11×11 pixels; these have .*10×20"),
        (SSIM(1), ((1, 3, 12, 20), (1, 3, 12, 20)), "at least 11×11 pixels; these have .*10×18"),
        (PSNR(0, True), ((1, 1, 8, 8), (1, 1, 8, 8)), "compares the luma of RGB images, these have 1 channels"),
    ],
)
def test_what_cannot_be_compared(metric: Any, shapes: tuple[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(torch.rand(shapes[0]), torch.rand(shapes[1]))


@pytest.mark.parametrize("kind", [PSNR, SSIM])
def test_a_negative_border_is_refused(kind: type) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: crop_border starts at 0, not -1"):
        kind(crop_border=-1)
