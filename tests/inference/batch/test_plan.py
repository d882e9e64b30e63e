"""Paths, ground truths and sizes are checked before anything is computed, and images are grouped."""

from pathlib import Path

import pytest

from mcir.data.errors import DataError
from mcir.inference.batch.plan import (
    Job,
    Task,
    batches,
    find_ground_truths,
    match_ground_truths,
    plan_outputs,
    probe_inputs,
)
from mcir.inference.batch.search import find_images
from mcir.inference.images import PictureInfo
from tests.data.images import noise, save, truncate
from tests.inference.batch.conftest import no_report, touch

# -- outputs ----------------------------------------------------------------------------------------------------------


def targets(inputs, out, *more, excluded=None, **options):
    found = find_images([str(text) for text in inputs], [out] if excluded is None else excluded, no_report)
    folder, jobs = plan_outputs(found, out, *more, **options)
    return {job.name: job.target.relative_to(folder).as_posix() for job in jobs}


def test_structure_and_extensions_are_kept(photos, tmp_path):
    planned = targets([photos], tmp_path / "out")
    assert planned == {name: name for name in ("a.JPG", "b.png", "sub/c.tif", "sub/deep er/ü [1].webp")}


def test_extension_and_suffix(photos, tmp_path):
    assert targets([photos / "sub"], tmp_path / "out", ".png", "_x2") == {
        "c.tif": "c_x2.png",
        "deep er/ü [1].webp": "deep er/ü [1]_x2.png",
    }
    assert targets([photos / "notes.txt"], tmp_path / "out") == {"notes.txt": "notes.png"}
    for suffix in ("a/b", "../x", "\0"):
        with pytest.raises(DataError, match="without slashes"):
            targets([photos], tmp_path / "out", None, suffix)


def test_comparisons_mirror_the_results(photos, tmp_path):
    found = find_images([str(photos)], [], no_report)
    folder, jobs = plan_outputs(found, tmp_path / "out", compare=True)
    shown = [job.comparison.relative_to(folder / "comparisons").as_posix() for job in jobs]
    assert shown == ["a.JPG.png", "b.png", "sub/c.tif.png", "sub/deep er/ü [1].webp.png"]
    assert all(job.comparison is None for job in plan_outputs(found, tmp_path / "out")[1])


def test_one_file(photos, tmp_path):
    out = tmp_path / "x" / "better.png"
    found = find_images([str(photos / "a.JPG")], [], no_report)
    folder, (job,) = plan_outputs(found, out, compare=True)
    assert (folder, job.target, job.comparison) == (out.parent, out, out.parent / "comparisons/better.png")
    for inputs in ([photos], [photos / "a.JPG", photos / "b.png"], [photos / "b.*"]):
        with pytest.raises(
            DataError, match="expected a folder for several images or a folder of images, got a file name"
        ):
            targets(inputs, out)
    for options in ((".jpg",), (None, "_x2")):
        with pytest.raises(DataError, match="--suffix and --format have no effect on a complete file name"):
            targets([photos / "a.JPG"], out, *options)
    out.mkdir(parents=True)
    assert targets([photos / "a.JPG"], out) == {"a.JPG": "a.JPG"}  # a folder with any name


def test_invalid_outputs(photos, tmp_path):
    with pytest.raises(DataError, match=r"notes.txt: expected a folder, or a file with one of"):
        targets([photos], photos / "notes.txt")
    with pytest.raises(DataError, match=r"b.gif: expected a folder, or a file with one of .bmp, "):
        targets([photos / "b.png"], tmp_path / "b.gif")


def test_results_that_collide(tmp_path):
    touch(tmp_path, "x/a.png", "y/a.png", "x/a.jpg")
    with pytest.raises(DataError, match=rf"y/a.png: its result \S+out/a.png is also the result of {tmp_path}/x/a.png"):
        targets([tmp_path / "x", tmp_path / "y"], tmp_path / "out")
    with pytest.raises(DataError, match="also the result of"):
        targets([tmp_path / "x"], tmp_path / "out", ".png")
    assert len(targets([tmp_path / "x"], tmp_path / "out")) == 2
    assert len(targets([tmp_path / "*/a.png"], tmp_path / "out")) == 2
    touch(tmp_path, "z/comparisons/a.png", "z/a.png")
    assert len(targets([tmp_path / "z"], tmp_path / "out")) == 2
    with pytest.raises(DataError, match=r"comparisons/a.png is also the result of"):
        targets([tmp_path / "z"], tmp_path / "out", compare=True)


def test_inputs_are_never_overwritten(photos, tmp_path, monkeypatch):
    before = sorted(photos.rglob("*"))
    with pytest.raises(DataError, match="would overwrite the input"):
        targets([photos], photos)
    with pytest.raises(DataError, match="would overwrite the input"):
        targets([photos / "b.png"], photos / "b.png")
    with pytest.raises(DataError, match="would overwrite the input"):
        targets([photos / "b.png"], photos)
    monkeypatch.chdir(photos)
    with pytest.raises(DataError, match="would overwrite the input"):
        targets(["b.png"], photos / "sub" / "..")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/b.png").symlink_to(photos / "b.png")
    for out in (photos, tmp_path / "links"):
        with pytest.raises(DataError, match="would overwrite the input"):
            targets([tmp_path / "links"], out, excluded=[])
    with pytest.raises(DataError, match=r"would overwrite the input \S+b.png"):
        targets([photos / "sub/c.tif"], photos / "b.png", protected=[photos / "b.png"])
    assert sorted(photos.rglob("*")) == before


def test_results_are_never_among_the_inputs(photos, tmp_path):
    with pytest.raises(DataError, match="would be one of the input images of the next run"):
        targets([photos], photos, None, "_x2")
    with pytest.raises(DataError, match="would be one of the input images"):
        targets([photos / "*.png"], photos, None, "_x2")
    touch(tmp_path / "in", "in/a.png")
    with pytest.raises(DataError, match="would be one of the input images"):
        targets([tmp_path / "in"], tmp_path)
    assert targets([photos / "b.png"], photos, None, "_x2") == {"b.png": "b_x2.png"}  # allowed for files that are named
    assert targets([photos], photos / "restored")
    assert targets([photos / "sub"], photos)["c.tif"] == "c.tif"


def test_links_do_not_lead_results_out_of_the_folder(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(DataError, match=rf"would be written to {tmp_path}/elsewhere/c.tif, through a link"):
        targets([photos], tmp_path / "out")
    (tmp_path / "shortcut").symlink_to(tmp_path / "elsewhere")
    assert targets([photos], tmp_path / "shortcut")  # a link that is named


# -- ground truths ----------------------------------------------------------------------------------------------------


def job(name, root=Path(), comparison=None):
    return Job(root / "in" / name, name, root / "in", root / "out" / name, comparison)


def jobs_of(*names):
    return [job(name) for name in names]


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


# -- sizes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def jobs(tmp_path):
    for name, (height, width) in {"a.png": (20, 24), "b.png": (20, 24), "c.png": (24, 20)}.items():
        save(tmp_path / "in" / name, noise(height, width))
    return [job(name, tmp_path) for name in ("a.png", "b.png", "c.png")]


def probe(jobs, truths=None, scale=2, border=0, skip_existing=False):
    reports = {}
    tasks = probe_inputs(jobs, truths or {}, scale, border, skip_existing, reports.__setitem__)
    return tasks, reports


def test_headers(jobs):
    tasks, reports = probe(jobs)
    assert [task.source for task in tasks] == [job.source for job in jobs]
    assert tasks[2].info == PictureInfo(24, 20, 3, 8, False)
    assert not any(task.exists or task.is_evaluated for task in tasks)
    assert tasks[0].megapixels == pytest.approx(480e-6)
    assert not reports


def test_files_that_are_not_images_are_reported(jobs):
    jobs[0].source.write_text("words")
    truncate(jobs[2].source)
    tasks, reports = probe(jobs)
    assert [task.source for task in tasks] == [jobs[1].source]
    assert reports.keys() == {str(jobs[0].source), str(jobs[2].source)}


def test_ground_truths_that_do_not_fit_are_reported(jobs, tmp_path):
    sizes = {"a.png": (40, 48), "b.png": (40, 50), "c.png": (48, 40)}
    for name, size in sizes.items():
        save(tmp_path / "gt" / name, noise(*size))
    (tmp_path / "gt/c.png").write_bytes(b"")
    truths = {job: tmp_path / "gt" / job.name for job in jobs}
    tasks, reports = probe(jobs, truths)
    assert [task.gt for task in tasks] == [truths[jobs[0]], None, None]
    assert [task.is_evaluated for task in tasks] == [True, False, False]
    assert (
        reports[str(jobs[1].source)] == "not measured: the ground truth has 50×40 pixels, the restored image 48×40 (×2)"
    )
    assert "not measured: " in reports[str(jobs[2].source)]
    assert "c.png" in reports[str(jobs[2].source)]
    _, reports = probe(jobs[:1], truths, border=15)
    assert "SSIM needs at least 41×41 pixels with a border of 15" in reports[str(jobs[0].source)]


def test_only_complete_results_of_the_right_size_exist(jobs):
    save(jobs[0].target, noise(40, 48))
    save(jobs[1].target, noise(20, 24))
    jobs[2].target.write_bytes(b"half")
    assert [task.exists for task in probe(jobs, skip_existing=True)[0]] == [True, False, False]
    assert not any(task.exists for task in probe(jobs)[0])


def task(name="a", height=10, width=10, channels=3, bits=8, alpha=False, gt=None, exists=False, comparison=None):
    info = PictureInfo(height, width, channels, bits, alpha)
    return Task(**vars(job(name, comparison=comparison)), gt=gt, exists=exists, info=info)


def test_comparisons_that_exist_are_kept(tmp_path):
    assert task(comparison=tmp_path / "a.png").is_evaluated
    assert task(comparison=tmp_path / "a.png", exists=True).is_evaluated
    (tmp_path / "a.png").touch()
    assert not task(comparison=tmp_path / "a.png", exists=True).is_evaluated
    assert task(comparison=tmp_path / "a.png").is_evaluated
    assert task(comparison=tmp_path / "a.png", exists=True, gt=Path("gt")).is_evaluated


def test_memory_of_a_task():
    assert task().bytes(1) == 2 * 300
    assert task().bytes(2) == 5 * 300
    assert task(alpha=True, bits=16).bytes(2) == 5 * 800
    assert task(channels=1).bytes(1, depth=2) == 2 * 200
    assert task(gt=Path("gt")).bytes(1) == 4 * 300


def test_images_of_one_size_and_type_are_grouped():
    tasks = [task(str(n), width=10 + n % 2, exists=n == 6) for n in range(9)]
    found = [[int(one.name) for one in batch] for batch in batches(tasks, 3, lambda one: 1, 100)]
    assert found == [[0, 2, 4], [1, 3, 5], [6], [8], [7]] or found == [[0, 2, 4], [1, 3, 5], [6], [7], [8]]
    assert [len(batch) for batch in batches(tasks, 1, lambda one: 1, 100)] == [1] * 9
    assert [batch[0].name for batch in batches(tasks, 1, lambda one: 1, 100)] == [one.name for one in tasks]


def test_groups_are_limited_by_memory():
    tasks = [task(str(n)) for n in range(7)]
    assert [len(batch) for batch in batches(tasks, 5, lambda one: 10, 25)] == [2, 2, 2, 1]
    assert [len(batch) for batch in batches(tasks, 5, lambda one: 10, 5)] == [1] * 7
