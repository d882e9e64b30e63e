"""Tests of stored images: size, number, damaged files, and resumed runs."""

import cv2
import numpy as np
import pytest
import torch

from mcir.report.comparison import comparison, picture
from mcir.report.progress import evenly, read_images, remove_after, store_images
from tests.report.runs import compared


def kept(run, data_set="Set5"):
    pictures, problems = read_images(run)
    assert not problems
    return pictures[data_set]


def level(file):
    return cv2.imread(str(file)).mean() / 255


def test_input_output_and_ground_truth_are_stored(tmp_path):
    for iteration in (100, 20):
        store_images(tmp_path, "Set5", "folder/baby", iteration, compared(iteration / 200))
    ((name, image),) = kept(tmp_path).items()
    assert name == "folder/baby"
    assert image.size == (40, 40) and list(image.outputs) == [20, 100]
    assert (level(image.input), level(image.gt)) == pytest.approx((0, 1), abs=0.01)
    assert [level(file) for file in image.outputs.values()] == pytest.approx([0.1, 0.5], abs=0.01)
    assert image.largest == max(file.stat().st_size for file in (image.input, image.gt, *image.outputs.values()))
    assert not list(tmp_path.rglob("*.part"))


def test_the_centre_of_a_large_image_is_stored(tmp_path):
    gradient = torch.linspace(0, 1, 500).expand(3, 400, 500)
    store_images(tmp_path, "Set5", "a", 1, comparison(gradient, gradient, gradient, ("", "")))
    image = kept(tmp_path)["a"]
    assert image.size == (384, 384)
    output = cv2.imread(str(image.outputs[1])).astype(float)
    assert abs(output - picture(gradient)[8:392, 58:442].astype(float)).mean() < 1


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b"])
def test_a_name_that_leads_out_is_rejected(tmp_path, name):
    with pytest.raises(ValueError, match="leads out of"):
        store_images(tmp_path / "run", "Set5", name, 1, compared(0.5))
    assert not list(tmp_path.rglob("*.jpg"))


def test_at_most_forty_outputs_are_kept_including_the_last(tmp_path):
    for iteration in range(1, 101):
        store_images(tmp_path, "Set5", "a", iteration, compared(0.5, side=12))
        outputs = list(kept(tmp_path)["a"].outputs)
        assert len(outputs) == min(iteration, 40)
        assert (outputs[0], outputs[-1]) == (1, iteration)
    assert max(np.diff(outputs)) <= 4


def test_outputs_of_repeated_iterations_are_removed(tmp_path):
    for iteration in (1, 2, 3):
        store_images(tmp_path, "Set5", "b/a", iteration, compared(0.5))
    remove_after(tmp_path, 2)
    assert list(kept(tmp_path)["b/a"].outputs) == [1, 2]
    (tmp_path / "progress" / "Set5" / "b" / "a" / "input.jpg").unlink()
    remove_after(tmp_path, 1)
    assert list(read_images(tmp_path)[0]["Set5"]["b/a"].outputs) == [1]
    remove_after(tmp_path / "nowhere", 2)


def test_damaged_and_missing_files_are_listed_and_the_others_are_read(tmp_path):
    for name in "abcde":
        for iteration in (1, 2):
            store_images(tmp_path, "Set5", name, iteration, compared(0.5))
    images = kept(tmp_path)
    images["a"].outputs[1].write_bytes(b"no picture")
    images["a"].outputs[2].write_bytes(images["a"].outputs[2].read_bytes()[:-9])  # truncated
    images["b"].gt.unlink()
    images["c"].input.write_bytes(b"")
    store_images(tmp_path, "Set5", "d", 3, compared(0.5, side=50))  # a different image with the same name
    for file in images["e"].outputs.values():
        file.unlink()
    found, problems = read_images(tmp_path)
    seen = {name: (bool(i.input), bool(i.gt), list(i.outputs)) for name, i in found["Set5"].items()}
    assert seen == {"b": (True, False, [1, 2]), "c": (False, True, [1, 2]), "d": (True, True, [1, 2])}
    assert found["Set5"]["c"].largest > 100
    assert problems == [
        "progress/Set5/a/1.jpg, progress/Set5/a/2.jpg, progress/Set5/c/input.jpg: cannot be read.",
        "progress/Set5/b/gt.jpg, progress/Set5/e/<iteration>.jpg: missing.",
        "progress/Set5/d/3.jpg: differs in size from the other images of its folder.",
    ]
    assert read_images(tmp_path / "nowhere") == ({}, [])


def test_an_input_of_a_different_size_does_not_hide_the_outputs(tmp_path):
    store_images(tmp_path, "Set5", "a", 1, compared(0.5))
    store_images(tmp_path, "Set5", "b", 1, compared(0.5, side=50))
    kept(tmp_path)["b"].input.replace(kept(tmp_path)["a"].input)
    image = read_images(tmp_path)[0]["Set5"]["a"]
    assert (image.size, image.input, list(image.outputs)) == ((40, 40), None, [1])


def test_only_the_first_six_of_many_files_are_listed(tmp_path):
    for number in range(150):
        store_images(tmp_path, "Set5", f"{number:03}", 1, compared(0.5, side=8))
        (tmp_path / "progress" / "Set5" / f"{number:03}" / "gt.jpg").unlink()
    pictures, (line,) = read_images(tmp_path)
    assert len(pictures["Set5"]) == 150
    assert line.startswith("progress/Set5/000/gt.jpg, progress/Set5/001/gt.jpg, ")
    assert line.endswith("/005/gt.jpg and 144 more: missing.")


@pytest.mark.parametrize(
    ("iterations", "number", "expected"),
    [
        ([], 3, []),
        ([5], 1, [5]),
        ([1, 2, 3], 3, [1, 2, 3]),
        ([1, 2, 3, 4, 5], 3, [1, 3, 5]),
        ([1, 2, 3, 100], 3, [1, 3, 100]),
        ([1, 2, 3], 1, [1, 3]),
    ],
)
def test_evenly(iterations, number, expected):
    assert evenly(iterations, number) == expected
