"""Tests of side-by-side comparisons: the crop, its alignment, and the maps."""

import pytest
import torch

from mcir.report.comparison import colour_map, error_map, picture
from mcir.report.page import Report, Section
from mcir.report.side_by_side import CROP, Restored, most_different, side_by_side
from tests.pages import Page
from tests.report.test_run_pictures import chromium  # noqa: F401 (a fixture)


def shown(figure):
    """The images and the captions of a figure."""
    page = Page(Report("title", [Section("Images", figures=[figure])]).as_html())
    captions = [text for text in page.words if text.strip()]
    return page.pictures, captions[captions.index("Images") + 1 :]


def compare(lq, first, second, gt=None, scores=""):
    return shown(side_by_side("an image", lq, Restored("plain", first, scores), Restored("spn", second), gt))


def largest_mean(divergence, height, width, step):
    """The position with the largest mean, by trying all multiples of a step and the last position."""
    rows, columns = (
        [*range(0, side - crop, step), side - crop]
        for side, crop in zip(divergence.shape, (height, width), strict=True)
    )
    means = {(y, x): divergence[y : y + height, x : x + width].mean().item() for y in rows for x in columns}
    return max(means, key=means.get)


@pytest.mark.parametrize(("height", "width"), [(256, 320), (144, 400), (100, 272)])
def test_the_crop_is_where_the_images_differ_most(height, width):
    torch.manual_seed(0)
    divergence = torch.rand(height, width)
    rows, columns = most_different(divergence)
    assert (rows.start, columns.start) == largest_mean(divergence, min(CROP, height), CROP, 16)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (min(CROP, height), CROP)


@pytest.mark.parametrize("spot", [(0, 0), (299, 0), (0, 406), (299, 406), (150, 200)])
def test_a_difference_anywhere_is_in_the_crop(spot):
    divergence = torch.zeros(300, 407)
    divergence[spot] = 1
    rows, columns = most_different(divergence)
    assert rows.start <= spot[0] < rows.stop <= 300
    assert columns.start <= spot[1] < columns.stop <= 407


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_the_crop_of_the_input_is_aligned(scale):
    torch.manual_seed(1)
    lq = torch.rand(3, 70, 90)
    first = lq.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    second = first.clone()
    second[:, 60 * scale :, 70 * scale :] = 0
    pictures, _ = compare(lq, first, second)
    assert (pictures[0] == pictures[1]).all()  # an enlarged input equals the first image
    assert (pictures[2] == 0).any()
    assert pictures[0].shape[0] % scale == 0


def test_a_small_image_is_shown_whole():
    torch.manual_seed(2)
    lq, first, second, gt = torch.rand(4, 3, 24, 28)
    pictures, captions = compare(lq, first, second, gt, scores="20.00 dB")
    for drawn, image in zip(pictures, (lq, first, second, gt), strict=False):
        assert (drawn == picture(image)).all()
    errors = torch.stack([(first - gt).abs().mean(0), (second - gt).abs().mean(0)])
    limit = 255 * torch.quantile(errors, 0.99).item()
    assert (pictures[4] == error_map(first, gt, limit)).all()
    assert (pictures[5] == error_map(second, gt, limit)).all()
    divergence = (first - second).abs().mean(0)
    limit_of_both = 255 * torch.quantile(divergence, 0.99).item()
    assert (pictures[6] == colour_map(divergence, limit_of_both)).all()
    assert captions == [
        "input",
        "plain: 20.00 dB",
        "spn",
        "ground truth",
        f"error of plain (brightest: {limit:.1f} of 255)",
        f"error of spn (brightest: {limit:.1f} of 255)",
        f"divergence |plain − spn| (brightest: {limit_of_both:.1f} of 255)",
        "an image",
    ]


def test_the_whole_image_of_a_crop_has_a_frame():
    torch.manual_seed(3)
    lq = torch.rand(3, 400, 800)
    second = lq.clone()
    second[:, 250:, 500:600] += 0.2
    pictures, captions = compare(lq, lq, second, lq)
    assert [drawn.shape[:2] for drawn in pictures] == [(CROP, CROP)] * 4 + [(160, 320)] + [(CROP, CROP)] * 3
    assert captions[4].startswith("divergence |plain − spn|, whole image")
    white = (pictures[4] == 255).all(-1).nonzero()
    bounds = [white[0].min(), white[0].max(), white[1].min(), white[1].max()]
    rows, columns = most_different((lq - second.clamp(0, 1)).abs().mean(0))
    expected = [end * 0.4 for part in (rows, columns) for end in (part.start, part.stop)]
    assert bounds == pytest.approx(expected, abs=2)
    without_gt, _ = compare(lq, lq, second)
    assert [drawn.shape[:2] for drawn in without_gt] == [(CROP, CROP)] * 3 + [(160, 320), (CROP, CROP)]


def test_equal_images_have_a_dark_map():
    image = torch.rand(3, 20, 20)
    pictures, captions = compare(image, image, image)
    assert (pictures[-1] == pictures[-1][0, 0]).all()
    assert captions[-2] == "divergence |plain − spn| (brightest: 1.0 of 255)"


def test_grey_ground_truths_of_colour_images():
    image, gt = torch.rand(3, 20, 20), torch.rand(1, 21, 22)
    pictures, _ = compare(image, image, 1 - image, gt)
    assert pictures[3].shape == pictures[4].shape == (20, 20, 3)
    assert (pictures[3][..., 0] == pictures[3][..., 2]).all()


@pytest.mark.parametrize(("width", "columns"), [(1280, 4), (375, 2)])
def test_the_cells_in_a_browser(chromium, tmp_path, width, columns):  # noqa: F811
    torch.manual_seed(4)
    lq, first, second = torch.rand(3, 3, 200, 300)
    figure = side_by_side("an image", lq, Restored("plain", first), Restored("spn", second), lq)
    file = tmp_path / "page.html"
    file.write_text(Report("title", [Section("Images", figures=[figure])]).as_html(), encoding="utf-8")
    page = chromium.new_page(viewport={"width": width, "height": 900})
    unexpected = []
    page.on("console", lambda message: unexpected.append(message.text))
    page.goto(file.as_uri())
    boxes = [cell.bounding_box() for cell in page.locator(".cells img").all()]
    page.close()
    assert len(boxes) == 8 and not unexpected
    rows = [[box["x"] for box in boxes if box["y"] == top] for top in sorted({box["y"] for box in boxes})]
    assert [len(row) for row in rows] == [columns] * (8 // columns)
    assert rows == [sorted(row) for row in rows] and max(box["x"] + box["width"] for box in boxes) <= width
