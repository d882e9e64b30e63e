"""The protocols of individual papers, compared with values of their code and with slow reference implementations."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch.nn import functional as F

from mcir.metrics import (
    PSNR,
    PSNRB,
    SSIM3D,
    DerainPSNR,
    DerainSSIM,
    FloatPSNR,
    FloatSSIM,
    FloatSSIM3D,
    PooledSSIM,
    RaindropPSNR,
    RaindropSSIM,
    ZeroPaddedSSIM,
)

FOLDER = Path(__file__).parents[1] / "golden" / "metrics"
GOLDEN = json.loads((FOLDER / "protocols.json").read_text())
METRIC = {
    # metric and tolerance; the tolerance is above 1e-12 if the official code uses float32
    "derain_matlab_psnr_y": (DerainPSNR(), 1e-12),
    "derain_matlab_ssim_y": (DerainSSIM(), 1e-12),
    "idt_raindrop_psnr_y": (RaindropPSNR(), 1e-12),
    "idt_raindrop_ssim_y": (RaindropSSIM(), 1e-12),
    **{
        f"swinir_psnrb_crop{crop}_{kind}": (PSNRB(crop, kind == "y"), 3e-6 if kind == "y" else 1e-12)
        for crop in (0, 4)
        for kind in ("rgb", "y")
    },
    **{f"nafnet_ssim3d_crop{crop}_rgb": (SSIM3D(crop), 2e-6) for crop in (0, 4)},
    **{f"nafnet_ssim_crop{crop}_y": (SSIM3D(crop, True), 1e-8) for crop in (0, 4)},
}


def pair(shape=(2, 3, 20, 27), seed=0):
    generator = torch.Generator().manual_seed(seed)
    gt = torch.rand(shape, generator=generator)
    return gt + 0.2 * (torch.rand(shape, generator=generator) - 0.5), gt


def stored(case):
    with np.load(FOLDER / "basicsr.npz") as golden:  # (H, W, BGR)
        return [
            torch.from_numpy(golden[f"{case}.{name}"][..., ::-1].copy()).permute(2, 0, 1)[None] / 255
            for name in ("out", "gt")
        ]


@pytest.mark.parametrize("case", GOLDEN["cases"])
@pytest.mark.parametrize("name", METRIC)
def test_values_of_saved_images_equal_the_official_ones(case, name):
    metric, tolerance = METRIC[name]
    assert metric(*stored(case)).item() == pytest.approx(GOLDEN["cases"][case][name], abs=tolerance)


def test_every_stored_value_is_compared():
    assert all(values.keys() == METRIC.keys() for values in GOLDEN["cases"].values())


@pytest.mark.parametrize("case", ["ffa_1x3x48x40", "ffa_2x3x33x37"])
def test_values_of_floats_equal_ffa_nets(case):
    expected = GOLDEN["float"][case]
    with np.load(FOLDER / "protocols.npz") as golden:
        output, gt = (torch.from_numpy(golden[f"{case}.{name}"]) for name in ("out", "gt"))
    error = (10 ** (-FloatPSNR()(output, gt) / 10)).mean().item()  # FFA-Net computes the PSNR of the whole batch
    assert -10 * math.log10(error) == pytest.approx(expected["psnr"], abs=1e-6)
    assert ZeroPaddedSSIM()(output, gt).mean().item() == pytest.approx(expected["ssim"], abs=1e-6)


@pytest.mark.parametrize("case", [name for name in GOLDEN["float"] if name.startswith("dehazeformer")])
def test_values_of_floats_equal_dehazeformers(case):
    expected = GOLDEN["float"][case]
    shape = (1, 3, *map(int, case.split("_")[1].split("x")))
    uniform = [np.random.default_rng(seed).random(shape) for seed in (expected["seed"], expected["seed"] + 50)]
    gt = 2 * uniform[0] - 1
    output = gt + 0.4 * (uniform[1] - 0.5)
    output, gt = (torch.from_numpy(x.astype(np.float32)) / 2 + 0.5 for x in (output, gt))
    assert FloatPSNR()(output, gt).item() == pytest.approx(expected["psnr"], abs=1e-5)
    assert PooledSSIM()(output, gt).item() == pytest.approx(expected["ssim"], abs=1e-6)
    assert (expected["down_ratio"] > 1) == (abs(FloatSSIM()(output, gt).item() - expected["ssim"]) > 5e-6)


@pytest.mark.parametrize("sides", [(384, 390), (385, 400), (640, 644)])
def test_pooling_depends_on_the_shorter_side(sides):
    output, gt = pair((1, 1, *sides))
    ratio = max(1, round(min(sides) / 256))
    pooled = [F.adaptive_avg_pool2d(x.clamp(0, 1).double(), [side // ratio for side in sides]) for x in (output, gt)]
    assert PooledSSIM()(output, gt).item() == pytest.approx(FloatSSIM()(*pooled).item(), abs=1e-12)


def test_three_dimensional_window_equals_a_3d_convolution():
    output, gt = pair()
    axis = torch.exp(-((torch.arange(11.0, dtype=torch.float64) - 5) ** 2) / 4.5)
    axis /= axis.sum()
    kernel = torch.einsum("i,j,k->ijk", axis, axis, axis)[None, None]

    def blur(x):
        return F.conv3d(F.pad(x[:, None], [5] * 6, mode="replicate"), kernel)[:, 0]

    x, y = ((x.clamp(0, 1) * 255).round().double() for x in (output, gt))
    mean_x, mean_y = blur(x), blur(y)
    c1, c2 = 2.55**2, 7.65**2
    structure = (2 * (blur(x * y) - mean_x * mean_y) + c2) / (blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2 + c2)
    expected = ((2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1) * structure).mean((1, 2, 3))
    torch.testing.assert_close(SSIM3D()(output, gt), expected, rtol=0, atol=1e-11)


def test_the_unrounded_ssim_over_colours_equals_the_rounded_one_for_saved_images():
    output, gt = pair()
    saved = [(images.clamp(0, 1) * 255).round() / 255 for images in (output, gt)]
    for luma in (False, True):
        metric, rounded = FloatSSIM3D(2, luma), SSIM3D(2, luma)
        torch.testing.assert_close(metric(*saved), rounded(output, gt), rtol=0, atol=1e-7)
        assert (metric(output, gt) - rounded(output, gt)).abs().min() > 1e-6


def test_raindrop_values_equal_opencv_and_scikit_image():
    output, gt = pair((1, 3, 21, 30))
    lumas = []
    for images in (output, gt):
        saved = (images[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()[:20, :28]
        lumas.append(cv2.cvtColor(saved, cv2.COLOR_RGB2YCrCb)[..., 0])
    error = ((lumas[0].astype(float) - lumas[1]) ** 2).mean()
    assert RaindropPSNR()(output, gt).item() == pytest.approx(10 * math.log10(255**2 / error), abs=1e-12)
    assert RaindropSSIM()(output, gt).item() == pytest.approx(structural_similarity(*lumas), abs=1e-12)


def test_the_deraining_luma_is_rounded_half_up():
    colour = torch.tensor([20.0, 60.0, 120.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4) / 255
    exact = 16 + (65.481 * 20 + 128.553 * 60 + 24.966 * 120) / 255
    black = torch.zeros_like(colour)  # luma 16
    rounded = math.floor(exact + 0.5) - 16
    assert abs(rounded - (exact - 16)) > 0.01
    assert DerainPSNR()(colour, black).item() == pytest.approx(20 * math.log10(255 / rounded), abs=1e-12)
    red, green, blue = 88, 0, 142  # colour whose luma has a fraction of exactly 0.5
    assert (65481 * red + 128553 * green + 24966 * blue) % 255000 == 127500
    half = torch.tensor([red, green, blue]).view(1, 3, 1, 1).expand(1, 3, 4, 4) / 255
    rounded = (65481 * red + 128553 * green + 24966 * blue + 127500) // 255000
    assert DerainPSNR()(half, black).item() == pytest.approx(20 * math.log10(255 / rounded), abs=1e-12)


def test_visible_blocks_lower_psnrb():
    gt = torch.full((1, 1, 32, 32), 0.5)
    blocks = torch.zeros(4, 4)
    blocks[::2, ::2] = blocks[1::2, 1::2] = 1
    blocks = gt + 0.02 * (blocks.repeat_interleave(8, 0).repeat_interleave(8, 1) - 0.5)
    shifted = blocks.roll((4, 4), (2, 3))  # the same differences, but not at block borders
    assert PSNR()(blocks, gt).item() == pytest.approx(PSNR()(shifted, gt).item(), abs=0.5)
    assert PSNRB()(blocks, gt).item() < PSNR()(blocks, gt).item() - 3
    assert PSNRB()(shifted, gt).item() == pytest.approx(PSNR()(shifted, gt).item(), abs=1e-12)


def test_psnrb_equals_a_loop_over_pixels():
    output, gt = pair((1, 2, 32, 24))
    x, y = ((x[0].clamp(0, 1) * 255).round().double().numpy() for x in (output, gt))
    ratios = []
    for a, b in zip(x, y, strict=True):
        steps = {True: [], False: []}
        for row in range(32):
            for column in range(24):
                if column < 23:
                    steps[column % 8 == 7].append((a[row, column] - a[row, column + 1]) ** 2)
                if row < 31:
                    steps[row % 8 == 7].append((a[row, column] - a[row + 1, column]) ** 2)
        excess = max(0, np.mean(steps[True]) - np.mean(steps[False]))
        ratios.append(10 * math.log10(255**2 / (((a - b) ** 2).mean() + 3 / math.log2(24) * excess)))
    assert PSNRB()(output, gt).item() == pytest.approx(np.mean(ratios), abs=1e-9)


@pytest.mark.parametrize("case", ["ffa_1x3x48x40", "ffa_2x3x33x37"])
@pytest.mark.parametrize(
    ("name", "metric", "tolerance"),
    [
        ("basicsr_psnr_pt_rgb", FloatPSNR(), 1e-6),
        ("basicsr_psnr_pt_y", FloatPSNR(test_y_channel=True), 1e-5),
        ("basicsr_ssim_pt_rgb_crop2", FloatSSIM(crop_border=2), 1e-7),
    ],
)
def test_values_of_floats_equal_basicsrs_values_of_tensors(case, name, metric, tolerance):
    with np.load(FOLDER / "protocols.npz") as golden:
        values = metric(*(torch.from_numpy(golden[f"{case}.{image}"]) for image in ("out", "gt")))
    if "psnr" in name:
        values = -10 * torch.log10(10 ** (-values / 10) + 1e-8)  # BasicSR adds 1e-8 to the error
    assert values.tolist() == pytest.approx(GOLDEN["float"][case][name], abs=tolerance)
