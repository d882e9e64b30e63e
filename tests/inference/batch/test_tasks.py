"""Headers are read before anything is computed, and images are grouped."""

from pathlib import Path

import pytest

from mcir.inference.batch.jobs import Job
from mcir.inference.batch.tasks import Task, batches, probe_inputs
from mcir.inference.images import PictureInfo
from tests.data.images import noise, save, truncate


@pytest.fixture
def jobs(tmp_path):
    for name, (height, width) in {"a.png": (20, 24), "b.png": (20, 24), "c.png": (24, 20)}.items():
        save(tmp_path / "in" / name, noise(height, width))
    return [Job(name, tmp_path / "in" / name, tmp_path / "out" / name) for name in ("a.png", "b.png", "c.png")]


def probe(jobs, truths=None, scale=2, border=0, skip_existing=False):
    reports = {}
    tasks = probe_inputs(jobs, truths or {}, scale, border, skip_existing, reports.__setitem__)
    return tasks, reports


def test_headers(jobs):
    tasks, reports = probe(jobs)
    assert [task.job for task in tasks] == jobs
    assert tasks[2].info == PictureInfo(24, 20, 3, 8, False)
    assert not any(task.exists or task.is_evaluated for task in tasks)
    assert tasks[0].megapixels == pytest.approx(480e-6)
    assert not reports


def test_files_that_are_not_images_are_reported(jobs):
    jobs[0].source.write_text("words")
    truncate(jobs[2].source)
    tasks, reports = probe(jobs)
    assert [task.job for task in tasks] == [jobs[1]]
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


def test_only_complete_results_of_the_right_size_exists(jobs):
    save(jobs[0].target, noise(40, 48))
    save(jobs[1].target, noise(20, 24))
    jobs[2].target.write_bytes(b"half")
    assert [task.exists for task in probe(jobs, skip_existing=True)[0]] == [True, False, False]
    assert not any(task.exists for task in probe(jobs)[0])


def task(name="a", height=10, width=10, channels=3, bits=8, alpha=False, gt=None, exists=False, comparison=None):
    job = Job(name, Path(name), Path("out", name), comparison)
    return Task(job, gt, exists, PictureInfo(height, width, channels, bits, alpha))


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
    found = [[int(one.job.name) for one in batch] for batch in batches(tasks, 3, lambda one: 1, 100)]
    assert found == [[0, 2, 4], [1, 3, 5], [6], [8], [7]] or found == [[0, 2, 4], [1, 3, 5], [6], [7], [8]]
    assert [len(batch) for batch in batches(tasks, 1, lambda one: 1, 100)] == [1] * 9
    assert [batch[0].job.name for batch in batches(tasks, 1, lambda one: 1, 100)] == [one.job.name for one in tasks]


def test_groups_are_limited_by_memory():
    tasks = [task(str(n)) for n in range(7)]
    assert [len(batch) for batch in batches(tasks, 5, lambda one: 10, 25)] == [2, 2, 2, 1]
    assert [len(batch) for batch in batches(tasks, 5, lambda one: 10, 5)] == [1] * 7
