"""Scores agree with the metrics on whole images; comparisons, tables and files show them."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from mcir.data.resize import imresize
from mcir.inference.batch import scores as scores_module
from mcir.inference.batch.scores import (
    Scores,
    check_sizes,
    draw_comparison,
    score,
    scores_table,
    write_scores,
)
from mcir.metrics import PSNR, SSIM
from mcir.report.comparison import comparison, picture
from tests.data.images import noise, smooth

WORSE = Scores(20.0, 0.5, 18.0, 0.25)
BETTER = Scores(30.0, 0.75, 21.0, 0.75)


def tensor(image):
    levels = torch.from_numpy(image.astype(np.float64) / np.iinfo(image.dtype).max)
    return levels.permute(2, 0, 1)[None].float()


def similar(image, seed=1, spread=9):
    """Return an image that differs a little."""
    most = np.iinfo(image.dtype).max
    error = np.random.default_rng(seed).normal(0, spread * most / 255, image.shape)
    return np.clip(image + error, 0, most).astype(image.dtype)


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("border", [0, 3])
@pytest.mark.parametrize("strip", [2**20, 1, 300])  # a strip has at least 80 rows
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_strips_give_the_scores_of_the_whole_image(monkeypatch, scale, border, strip, kind):
    monkeypatch.setattr(scores_module, "_STRIP_PIXELS", strip)
    gt = smooth(201 * scale, 17 * scale)
    gt = gt.astype(kind) * (257 if kind == "uint16" else 1)
    output, source = similar(gt), similar(np.ascontiguousarray(gt[::scale, ::scale]), 2)
    found = score(source, output, gt, scale, border)
    before = imresize(tensor(source).double(), scale) if scale > 1 else tensor(source)
    for metric, of_output, of_input in (
        (PSNR(border), found.psnr, found.psnr_of_input),
        (SSIM(border), found.ssim, found.ssim_of_input),
    ):
        assert of_output == pytest.approx(float(metric(tensor(output), tensor(gt))), rel=1e-10)
        assert of_input == pytest.approx(float(metric(before, tensor(gt).to(before.dtype))), rel=1e-10)


def test_larger_ground_truths_are_cropped():
    source, gt = smooth(20, 21), smooth(41, 43)
    output = similar(gt[:40, :42])
    assert score(source, output, gt, 2) == score(source, output, gt[:40, :42], 2)


def test_grey_images():
    grey = smooth(30, 30, 1)
    output = similar(grey)
    whole = np.repeat(grey, 3, axis=2)
    both_grey = score(grey, output, grey, 1)
    assert both_grey.psnr == pytest.approx(float(PSNR()(tensor(output), tensor(grey))), rel=1e-12)
    for mixed in (score(grey, output, whole, 1), score(whole, np.repeat(output, 3, axis=2), grey, 1)):
        assert mixed.psnr == pytest.approx(both_grey.psnr, rel=1e-12)
        assert mixed.ssim == pytest.approx(both_grey.ssim, rel=1e-12)
        assert mixed.ssim_of_input == 1


def test_equal_images_have_an_infinite_psnr():
    gt = noise(16, 16)
    assert score(gt, gt, gt, 1) == Scores(math.inf, 1, math.inf, 1)


@pytest.mark.parametrize(
    ("size", "gt_size", "scale", "border", "message"),
    [
        ((20, 30), (40, 62), 2, 0, "the ground truth has 62×40 pixels, the restored image 60×40"),
        ((20, 30), (20, 30), 2, 0, r"60×40 \(×2\)"),
        ((30, 20), (20, 30), 1, 0, "the ground truth has 30×20 pixels, the restored image 20×30$"),
        ((10, 30), (10, 30), 1, 0, "SSIM needs at least 11×11 pixels, got 30×10$"),
        ((7, 7), (14, 14), 2, 2, "at least 15×15 pixels with a border of 2"),
    ],
)
def test_sizes_that_cannot_be_compared(size, gt_size, scale, border, message):
    with pytest.raises(ValueError, match=message):
        check_sizes(size, gt_size, scale, border)


# -- comparisons ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_comparisons(scale, channels):
    source, output, gt = (noise(10 * each, 12 * each, channels) for each in (1, scale, scale))
    upscaled = imresize(tensor(source).double(), scale)[0] if scale > 1 else tensor(source)[0]
    name = "bicubic" if scale > 1 else "input"
    captions = (f"{name}: 18.00 dB, SSIM 0.2500", "output: 20.00 dB, SSIM 0.5000")
    parts = (upscaled, tensor(output)[0])
    assert (draw_comparison(source, output, gt, scale, WORSE) == comparison(*parts, tensor(gt)[0], captions)).all()
    assert (draw_comparison(source, output, None, scale, None) == comparison(*parts, None, (name, "output"))).all()


@pytest.mark.parametrize(("height", "width"), [(8, 40_000), (40_000, 6), (2100, 2300)])
@pytest.mark.parametrize("with_gt", [False, True])
def test_comparisons_of_large_images_are_shrunk(height, width, with_gt):
    output = np.zeros((height, width, 3), np.uint8)
    drawn = draw_comparison(output[::2, ::2], output, output if with_gt else None, 2, None)
    assert max(drawn.shape) <= scores_module.LONGEST_SIDE
    assert max(drawn.shape) > 0.9 * scores_module.LONGEST_SIDE


def test_shrunk_comparisons_show_the_same(monkeypatch):
    output = smooth(60, 60)
    monkeypatch.setattr(scores_module, "LONGEST_SIDE", 100)
    drawn = draw_comparison(output, output, None, 1, None)
    assert drawn.shape[1] <= 100
    left, right = drawn[28:, : drawn.shape[1] // 2 - 4], drawn[28:, drawn.shape[1] // 2 + 4 :]
    assert (left == right).all()
    assert abs(left.astype(float).mean() - picture(tensor(output)[0]).mean()) < 1


# -- files and tables -------------------------------------------------------------------------------------------------


def test_json_and_csv(tmp_path):
    equal = Scores(math.inf, 1.0, 21.0, 0.75)
    write_scores(tmp_path, {"sub/ü, 1.png": WORSE, "b.png": equal, "\udcff.png": BETTER}, {"scale": 2})
    tree = json.loads((tmp_path / "metrics.json").read_text("utf-8"))
    assert list(tree) == ["scale", "mean", "images"]
    assert tree["mean"]["psnr"] == "inf"
    assert tree["mean"]["ssim_of_input"] == pytest.approx(1.75 / 3)
    assert tree["images"]["sub/ü, 1.png"] == {"psnr": 20.0, "ssim": 0.5, "psnr_of_input": 18.0, "ssim_of_input": 0.25}
    assert list(tree["images"]) == ["sub/ü, 1.png", "b.png", "\\xff.png"]
    with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["picture"] for row in rows] == [*tree["images"], "mean"]
    assert rows[0] == {"picture": "sub/ü, 1.png", "psnr": "20.0", "ssim": "0.5"} | {
        "psnr_of_input": "18.0",
        "ssim_of_input": "0.25",
    }
    assert float(rows[1]["psnr"]) == math.inf


def rendered(scores, scale=1):
    console = Console(width=160, force_terminal=False)
    with console.capture() as capture:
        console.print(scores_table(scores, scale))
    return capture.get()


def test_table():
    text = rendered({"[b]x[/b].png": WORSE, "b.png": BETTER})
    assert "PSNR of input" in text
    assert "PSNR of bicubic" in rendered({"b.png": BETTER}, 4)
    cells = [part.strip() for part in next(line for line in text.splitlines() if "[b]x[/b].png" in line).split("│")]
    assert cells[2:8] == ["18.00 dB", "20.00 dB", "+2.00 dB", "0.2500", "0.5000", "+0.2500"]
    assert "mean of 2" in text
    assert "+5.50 dB" in text
    assert "+0.00 dB" in rendered({"b.png": Scores(math.inf, 1.0, math.inf, 1.0)})


def test_long_tables_are_cut():
    text = rendered({f"{number}.png": WORSE for number in range(scores_module.TABLE_ROWS + 7)})
    assert f"{scores_module.TABLE_ROWS - 1}.png" in text
    assert f" {scores_module.TABLE_ROWS}.png" not in text
    assert "… and 7 more" in text
    assert f"mean of {scores_module.TABLE_ROWS + 7}" in text
