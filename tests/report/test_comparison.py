"""Tests of display images, error maps and comparisons."""

import cv2
import numpy as np
import pytest
import torch

from mcir.report.comparison import ERROR_LIMIT, comparison, error_map, picture, save_picture


def test_a_picture_is_clamped_rounded_rgb():
    values = torch.tensor([-0.5, 0.0, 0.5 / 255, 1.5 / 255, 100.4 / 255, 254.6 / 255, 1.0, 7.0])
    expected = [0, 0, 0, 2, 100, 255, 255, 255]  # halves go to the even number
    image = torch.stack([values, values.flip(0), torch.zeros(8)]).view(3, 2, 4)
    drawn = picture(image)
    assert drawn.dtype == np.uint8
    assert drawn.shape == (2, 4, 3)
    assert drawn.flags.c_contiguous
    assert drawn[..., 0].ravel().tolist() == expected
    assert drawn[..., 1].ravel().tolist() == expected[::-1]
    assert not drawn[..., 2].any()


def test_a_grey_image_becomes_three_equal_channels():
    drawn = picture(torch.rand(1, 5, 7))
    assert drawn.shape == (5, 7, 3)
    assert (drawn == drawn[..., :1]).all()
    assert len(np.unique(drawn)) > 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_any_float_is_drawn(dtype):
    levels = torch.tensor([0.0, 0.25, 1.0], dtype=dtype).view(3, 1, 1).requires_grad_()
    assert picture(levels).ravel().tolist() == [0, 64, 255]


def brightness(error):
    gt = torch.full((3, 2, 2), 0.5)
    drawn = error_map(gt + error / 255, gt)
    assert (drawn == drawn[0, 0]).all()
    return int(drawn[0, 0].astype(int).sum())


def test_equal_images_have_a_dark_error_map_and_more_error_is_brighter():
    inferno = cv2.applyColorMap(np.uint8([[0, 255]]), cv2.COLORMAP_INFERNO)[0, :, ::-1].astype(int).sum(-1)
    assert brightness(0) == inferno[0] < 20
    levels = [brightness(error) for error in (0, 2, 8, 16, ERROR_LIMIT)]
    assert levels == sorted(set(levels))
    assert brightness(ERROR_LIMIT) == brightness(2 * ERROR_LIMIT) == inferno[1]
    assert brightness(-8) == brightness(8)


def test_the_limit_sets_the_brightest_error():
    gt = torch.full((3, 2, 2), 0.5)
    assert (error_map(gt + 2 / 255, gt, 2) == error_map(gt + 1, gt)).all()


def test_the_error_of_the_clamped_output_is_averaged_over_channels():
    white = torch.ones(3, 1, 1)
    assert (error_map(white + 5, white) == error_map(white, white)).all()
    one_channel = torch.tensor([1.0, 1.0, 1.0 - 12 / 255]).view(3, 1, 1)
    assert (error_map(one_channel, white) == error_map(white - 4 / 255, white)).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(16, 60), (40, 30)])
def test_a_comparison_shows_all_four_side_by_side(channels, height, width):
    upscaled, output, gt = torch.rand(3, channels, height, width)
    drawn = comparison(upscaled, output, gt, ("bicubic: psnr 21.00 dB", "output: psnr 25.00 dB"))
    gap = (drawn.shape[1] - 4 * width) // 3
    top = drawn.shape[0] - height
    assert gap > 0
    assert top > 0
    expected = [picture(upscaled), picture(output), picture(gt), error_map(output, gt)]
    for column, image in enumerate(expected):
        left = column * (width + gap)
        assert (drawn[top:, left : left + width] == image).all()
    captions = drawn[:top]
    assert (captions == 255).any()
    assert all((captions[:, column * (width + gap) :][:, :width] < 255).any() for column in range(4))


def test_a_caption_stays_above_its_image():
    image = torch.rand(3, 8, 60)
    none = comparison(image, image, image, ("", ""))
    long = comparison(image, image, image, ("a very long caption " * 9, ""))
    different = (none != long).any(-1)
    assert different.any()
    assert not different[:, 60:].any()
    assert not different[-8:].any()


def test_a_saved_picture_is_lossless(tmp_path):
    drawn = picture(torch.rand(3, 9, 11))
    save_picture(drawn, tmp_path / "new", "folder/name")
    assert (cv2.imread(str(tmp_path / "new" / "folder" / "name.png"))[:, :, ::-1] == drawn).all()


def test_an_image_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        save_picture(np.zeros((2, 2, 3), np.uint8), tmp_path / "file", "name")


@pytest.mark.parametrize("name", ["../name", "a/../../name", "/name"])
def test_a_name_that_leads_out_of_the_folder_is_rejected(tmp_path, name):
    with pytest.raises(ValueError, match="leads out of"):
        save_picture(np.zeros((2, 2, 3), np.uint8), tmp_path / "folder", name)
    assert not list(tmp_path.rglob("*.png"))
