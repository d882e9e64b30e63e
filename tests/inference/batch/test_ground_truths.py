"""Ground truths are found by names."""

from pathlib import Path

import pytest

from mcir.data.errors import DataError
from mcir.inference.batch.ground_truths import GroundTruths
from mcir.inference.batch.jobs import Job
from tests.inference.batch.conftest import touch, unheard


def jobs_of(*names):
    return [Job(name, Path("in", name), Path("out", name)) for name in names]


def found_in(folder, *names, tell=unheard):
    truths = GroundTruths(folder).of(jobs_of(*names), tell)
    return {job.name: path.relative_to(folder).as_posix() for job, path in truths.items()}


def test_ground_truths_lie_in_the_same_folders_or_in_one(tmp_path):
    touch(tmp_path, "sub/a.png", "b.jpg")
    assert found_in(tmp_path, "sub/a.jpg", "other/b.png") == {"sub/a.jpg": "sub/a.png", "other/b.png": "b.jpg"}
    touch(tmp_path, "a.png")
    assert found_in(tmp_path, "sub/a.jpg", "a.jpg") == {"sub/a.jpg": "sub/a.png", "a.jpg": "a.png"}


def test_the_scale_may_stand_at_the_end_of_a_pictures_name(tmp_path):
    touch(tmp_path, "baby.png", "sub/img_001.png", "matrix4.png")
    found = found_in(tmp_path, "babyx2.png", "sub/img_001x4.png", "matrix4.png")
    assert found == {"babyx2.png": "baby.png", "sub/img_001x4.png": "sub/img_001.png", "matrix4.png": "matrix4.png"}
    touch(tmp_path, "babyx2.png")
    assert found_in(tmp_path, "babyx2.png") == {"babyx2.png": "babyx2.png"}


def test_of_several_the_one_with_the_pictures_ending_is_taken(tmp_path):
    touch(tmp_path, "a.png", "a.jpg", "b.png", "b.tif", "c.png")
    told = []
    found = found_in(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg", tell=lambda *fault: told.append(fault))
    assert found == {"a.jpg": "a.jpg", "c.jpg": "c.png"}
    assert told == [
        ("in/b.jpg", "several ground truths, b.png, b.tif"),
        ("in/d.jpg", f"no ground truth {tmp_path}/d (of any ending)"),
    ]


def test_a_wrong_folder_of_ground_truths_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        GroundTruths(tmp_path / "none")
    with pytest.raises(DataError, match="no picture found"):
        GroundTruths(tmp_path)
    touch(tmp_path, "x.png")
    with pytest.raises(DataError, match=r"none of 2 pictures has a ground truth; in/a.png: no ground truth \S+/a "):
        found_in(tmp_path, "a.png", "b.png")


def test_one_ground_truth_for_one_picture(tmp_path):
    touch(tmp_path, "truth.png")
    truths = GroundTruths(tmp_path / "truth.png")
    (job,) = jobs_of("a.jpg")
    assert truths.of([job], unheard) == {job: tmp_path / "truth.png"}
    assert truths.files == [tmp_path / "truth.png"]
    with pytest.raises(DataError, match="is one ground truth for 2 pictures"):
        truths.of(jobs_of("a.jpg", "b.jpg"), unheard)
