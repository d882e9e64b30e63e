"""Ground truths are found by their names."""

from pathlib import Path

import pytest

from mcir.data.errors import DataError
from mcir.inference.batch.ground_truths import find_ground_truths, match_ground_truths
from mcir.inference.batch.jobs import Job
from tests.inference.batch.conftest import no_report, touch


def jobs_of(*names):
    return [Job(name, Path("in", name), Path("out", name)) for name in names]


def found_in(folder, *names, report=no_report):
    truths = match_ground_truths(jobs_of(*names), folder, find_ground_truths(folder), report)
    return {job.name: path.relative_to(folder).as_posix() for job, path in truths.items()}


def test_same_folders_or_one_folder(tmp_path):
    touch(tmp_path, "sub/a.png", "b.jpg")
    assert found_in(tmp_path, "sub/a.jpg", "other/b.png") == {"sub/a.jpg": "sub/a.png", "other/b.png": "b.jpg"}
    touch(tmp_path, "a.png")
    assert found_in(tmp_path, "sub/a.jpg", "a.jpg") == {"sub/a.jpg": "sub/a.png", "a.jpg": "a.png"}


def test_names_that_end_with_the_scale(tmp_path):
    touch(tmp_path, "baby.png", "sub/img_001.png", "matrix4.png")
    found = found_in(tmp_path, "babyx2.png", "sub/img_001x4.png", "matrix4.png")
    assert found == {"babyx2.png": "baby.png", "sub/img_001x4.png": "sub/img_001.png", "matrix4.png": "matrix4.png"}
    touch(tmp_path, "babyx2.png")
    assert found_in(tmp_path, "babyx2.png") == {"babyx2.png": "babyx2.png"}


def test_the_extension_of_the_image_is_preferred(tmp_path):
    touch(tmp_path, "a.png", "a.jpg", "b.png", "b.tif", "c.png")
    reports = []
    found = found_in(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg", report=lambda *problem: reports.append(problem))
    assert found == {"a.jpg": "a.jpg", "c.jpg": "c.png"}
    assert reports == [
        ("in/b.jpg", f"several ground truths: {tmp_path}/b.png, {tmp_path}/b.tif"),
        ("in/d.jpg", f"no ground truth {tmp_path}/d with any extension"),
    ]


def test_wrong_folders(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        find_ground_truths(tmp_path / "none")
    with pytest.raises(DataError, match="no image found"):
        find_ground_truths(tmp_path)
    touch(tmp_path, "x.png")
    with pytest.raises(DataError, match=r"none of 2 images has a ground truth; in/a.png: no ground truth \S+/a "):
        found_in(tmp_path, "a.png", "b.png")


def test_one_file_for_one_image(tmp_path):
    touch(tmp_path, "truth.png")
    truth = tmp_path / "truth.png"
    (job,) = jobs_of("a.jpg")
    assert find_ground_truths(truth) == [truth]
    assert match_ground_truths([job], truth, [truth], no_report) == {job: truth}
    with pytest.raises(DataError, match="expected a folder for 2 images, got one ground truth"):
        match_ground_truths(jobs_of("a.jpg", "b.jpg"), truth, [truth], no_report)
