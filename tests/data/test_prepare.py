"""Tests of preparations: their outputs, resumption, and protection of other files."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from mcir.data.errors import DataError
from mcir.data.lmdb_store import LmdbStore
from mcir.data.prepare import create_lmdb, create_lr, downscale, extract_subimages
from mcir.data.prepared_files import PreparedFiles
from mcir.data.resize import imresize
from mcir.data.storage import Folder
from mcir.data.verify import verify
from mcir.errors import ArgumentError
from tests.data.images import noise, save, smooth, truncate


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_subimages_cover_the_image_in_order(tmp_path):
    image = noise(70, 100)
    save(tmp_path / "in" / "deep" / "a.png", image)
    report = extract_subimages(tmp_path / "in", tmp_path / "out", size=40, step=20)
    tops, lefts = [0, 20, 30], [0, 20, 40, 60]
    assert (report.images, report.written, report.skipped) == (1, 12, 0)
    out = Folder(tmp_path / "out")
    assert out.keys() == [f"deep/a_s{number:03d}.png" for number in range(1, 13)]
    corners = [(top, left) for top in tops for left in lefts]
    for key, (top, left) in zip(out.keys(), corners, strict=True):
        assert np.array_equal(out.read(key), image[top : top + 40, left : left + 40])


@pytest.mark.parametrize(("side", "threshold", "count"), [(40, 0, 1), (60, 0, 2), (61, 0, 3), (61, 1, 2), (62, 1, 3)])
def test_the_last_square_depends_on_the_threshold(tmp_path, side, threshold, count):
    save(tmp_path / "in" / "a.png", noise(40, side))
    assert extract_subimages(tmp_path / "in", tmp_path / "out", 40, 20, threshold).written == count


def test_strip_gives_equal_names_and_depth_is_kept(tmp_path):
    save(tmp_path / "in" / "0001x4.png", noise(30, 30, 3, np.uint16))
    extract_subimages(tmp_path / "in", tmp_path / "out", 20, 10, strip="x4")
    out = Folder(tmp_path / "out")
    assert out.keys()[0] == "0001_s001.png"
    assert out.read("0001_s001.png").dtype == np.uint16


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_downscaled_as_by_matlab(tmp_path, dtype, channels):
    image = noise(31, 42, channels, dtype)
    save(tmp_path / "in" / "a.png", image)
    assert create_lr(tmp_path / "in", tmp_path / "out", 4).written == 1
    small = Folder(tmp_path / "out").read("a.png")
    exact = imresize(torch.from_numpy(image[:28, :40].astype(float)).permute(2, 0, 1), 1 / 4).permute(1, 2, 0)
    assert small.shape == (7, 10, channels) and small.dtype == dtype
    assert np.abs(small - exact.clamp(0, np.iinfo(dtype).max).numpy()).max() <= 0.5
    assert np.array_equal(small, downscale(image, 4))


PREPARATIONS = {
    "subimages": lambda source, target, **more: extract_subimages(source, target, 16, 8, **more),
    "lr": lambda source, target, **more: create_lr(source, target, 2, **more),
    "lmdb": lambda source, target, **more: create_lmdb(source, target, "raw", **more),
}


def pictures(target):
    """Return the images of a folder or database."""
    images = LmdbStore(target) if (target / "data.mdb").exists() else Folder(target)
    return {key: images.read(key).tobytes() for key in images.keys()}  # noqa: SIM118


@pytest.fixture(params=PREPARATIONS, ids=str)
def preparation(request):
    return PREPARATIONS[request.param]


def test_a_second_run_updates_only_changed_images(tmp_path, preparation):
    for index in range(3):
        save(tmp_path / "in" / f"{index}.png", noise(24, 24, seed=index))
    before = files(tmp_path / "in")
    steps = []
    first = preparation(tmp_path / "in", tmp_path / "out", progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    second = preparation(tmp_path / "in", tmp_path / "out", workers=1)
    assert (second.written, second.skipped) == (0, first.written)
    assert files(tmp_path / "in") == before
    for changed_s in (-(10**6), -1, 1, 10**6):  # an earlier time, too: a file restored from a backup, or by git
        save(tmp_path / "in" / "1.png", noise(24, 24, seed=changed_s % 97))
        time_ns = time.time_ns() + changed_s * 10**9
        os.utime(tmp_path / "in" / "1.png", ns=(time_ns, time_ns))
        third = preparation(tmp_path / "in", tmp_path / "out")
        assert (third.written, third.skipped) == (first.written // 3, first.written * 2 // 3)
        preparation(tmp_path / "in", tmp_path / "new")
        assert pictures(tmp_path / "out") == pictures(tmp_path / "new")
        shutil.rmtree(tmp_path / "new")


def test_a_source_of_the_same_time_and_another_size(tmp_path, preparation):
    save(tmp_path / "in" / "a.png", smooth(24, 24))
    os.utime(tmp_path / "in" / "a.png", ns=(0, 0))
    first = preparation(tmp_path / "in", tmp_path / "out")
    save(tmp_path / "in" / "a.png", noise(24, 24))
    os.utime(tmp_path / "in" / "a.png", ns=(0, 0))
    assert preparation(tmp_path / "in", tmp_path / "out").written == first.written


@pytest.mark.parametrize("name", [b"\xff\xfe.png", b"a\x1b[2J.png", b"a\nb.png", "ä % é.png".encode()])
def test_names_of_all_kinds_are_recognized(tmp_path, preparation, name):
    save(tmp_path / "in" / "a.png", noise(24, 24))
    (tmp_path / "in" / "a.png").rename(tmp_path / "in" / os.fsdecode(name))
    first = preparation(tmp_path / "in", tmp_path / "out")
    again = preparation(tmp_path / "in", tmp_path / "out")
    assert (again.written, again.skipped) == (0, first.written)


def test_squares_of_an_earlier_larger_image_are_removed(tmp_path):
    save(tmp_path / "in" / "a.png", noise(32, 32))
    extract_subimages(tmp_path / "in", tmp_path / "out", 16, 8)
    save(tmp_path / "in" / "a.png", noise(16, 24))
    assert extract_subimages(tmp_path / "in", tmp_path / "out", 16, 8).written == 2
    assert Folder(tmp_path / "out").keys() == ["a_s001.png", "a_s002.png"]


def test_a_missing_file_is_made_again_and_the_rest_of_a_killed_process_is_removed(tmp_path):
    save(tmp_path / "in" / "a.png", noise(24, 24))
    extract_subimages(tmp_path / "in", tmp_path / "out", 16, 8)
    (tmp_path / "out" / "a_s002.png").unlink()
    (tmp_path / "out" / ".a_s002.png.99999999").write_bytes(b"half")
    again = extract_subimages(tmp_path / "in", tmp_path / "out", 16, 8)
    assert (again.written, again.skipped) == (1, 3)
    assert {path.name for path in (tmp_path / "out").glob(".*")} == {".mcir_prepare.json", ".mcir_sources.jsonl"}


def test_a_replacement_that_was_interrupted_is_made_again(tmp_path):
    """A source was replaced, half of its files were made, and then the source was replaced by the earlier one."""
    save(tmp_path / "in" / "a.png", noise(24, 24))
    extract_subimages(tmp_path / "in", tmp_path / "out", 16, 8)
    file = PreparedFiles(tmp_path / "out", json.loads((tmp_path / "out" / ".mcir_prepare.json").read_text()))
    file.start("a.png")
    assert extract_subimages(tmp_path / "in", tmp_path / "out", 16, 8).written == 4


def test_damaged_settings_are_reported(tmp_path):
    save(tmp_path / "in" / "a.png", noise(24, 24))
    create_lr(tmp_path / "in", tmp_path / "out", 2)
    (tmp_path / "out" / ".mcir_prepare.json").write_bytes(b'{"made": \xff')
    with pytest.raises(DataError, match=r"\.mcir_prepare\.json: damaged"):
        create_lr(tmp_path / "in", tmp_path / "out", 2)


@pytest.mark.parametrize("target", ["in", "in/out", "link"])
def test_the_target_must_be_outside_of_the_source(tmp_path, preparation, target):
    save(tmp_path / "in" / "a.png", noise(24, 24))
    (tmp_path / "link").symlink_to(tmp_path / "in")
    before = files(tmp_path / "in")
    with pytest.raises(DataError, match="expected a folder outside of the source"):
        preparation(tmp_path / "in", tmp_path / target)
    assert files(tmp_path / "in") == before


def test_other_files_are_not_overwritten(tmp_path, preparation):
    save(tmp_path / "in" / "a.png", noise(24, 24))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"mine")
    with pytest.raises(DataError, match="nothing was written"):
        preparation(tmp_path / "in", tmp_path / "out")
    assert files(tmp_path / "out") == {"a.png": b"mine"}
    with pytest.raises(DataError, match="is a file"):
        preparation(tmp_path / "in", tmp_path / "out" / "a.png")


def test_unreadable_sources_are_reported_before_anything_is_written(tmp_path, preparation):
    for index in range(14):
        save(tmp_path / "in" / f"{index:02d}.png", noise(24, 24))
    for index in range(12):
        truncate(tmp_path / "in" / f"{index:02d}.png", 100)
    with pytest.raises(DataError, match=r"12 problems[\s\S]*00\.png: truncated[\s\S]*and 2 more"):
        preparation(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        preparation(tmp_path / "empty", tmp_path / "out")


def test_other_settings_and_equal_names_are_rejected(tmp_path):
    save(tmp_path / "in" / "a.png", noise(24, 24))
    create_lr(tmp_path / "in", tmp_path / "out", 2)
    with pytest.raises(DataError, match="was made with"):
        create_lr(tmp_path / "in", tmp_path / "out", 3)
    save(tmp_path / "in" / "a.jpg", noise(24, 24))
    with pytest.raises(DataError, match=r"a\.png: same output name as .*a\.jpg"):
        create_lr(tmp_path / "in", tmp_path / "other", 2)
    with pytest.raises(DataError, match=r"24×24 pixels, expected at least 32"):
        extract_subimages(tmp_path / "in", tmp_path / "other", 32, 16)
    for bad in ({"size": 0}, {"step": 0}, {"threshold": -1}):
        with pytest.raises(ArgumentError, match=next(iter(bad))):
            extract_subimages(tmp_path / "in", tmp_path / "other", **bad)
    with pytest.raises(ArgumentError, match="scale: expected an integer ≥ 2, got 1"):
        create_lr(tmp_path / "in", tmp_path / "other", 1)


SLOW = """
import sys, time
from mcir.data.prepare import create_lr
create_lr(sys.argv[1], sys.argv[2], 2, lambda done, total: (print(done, flush=True), time.sleep(0.05)), 1)
"""


def test_a_killed_run_leaves_only_complete_files(tmp_path):
    for index in range(20):
        save(tmp_path / "in" / f"{index:02d}.png", noise(64, 64, seed=index))
    command = [sys.executable, "-c", SLOW, str(tmp_path / "in"), str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while int(process.stdout.readline()) < 5:
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    done = len(Folder(tmp_path / "out").keys())
    assert verify(tmp_path / "out").ok and 5 <= done < 20
    assert create_lr(tmp_path / "in", tmp_path / "out", 2).skipped in (done - 1, done)  # the last one has no record yet
    report = verify(tmp_path / "in", tmp_path / "out")
    assert report.ok and report.images == 40


def test_paths_that_are_too_long_for_a_key_are_named(tmp_path):
    long = "/".join(["f" * 200] * 3) + "/a.png"
    save(tmp_path / "in" / long, noise(8, 8))
    with pytest.raises(DataError, match=r"a\.png: the path has more than \d+ bytes"):
        create_lmdb(tmp_path / "in", tmp_path / "x.lmdb")
