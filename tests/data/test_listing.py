"""Tests of the list of images in a folder: links, folders that cannot be read, and paths that are not files."""

import os
import socket
import subprocess
import sys

import pytest

from mcir.data.errors import DataError
from mcir.data.listing import list_images
from mcir.data.prepare import create_lmdb
from mcir.data.storage import Folder
from mcir.data.verify import verify
from mcir.inference.batch.search import find_images
from tests.data.images import noise, save


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def no_report(path, reason):
    raise AssertionError(f"{path}: {reason}")


def test_links_to_the_folder_itself_add_nothing(tmp_path):
    touch(tmp_path, "lq/0.png")
    gt = touch(tmp_path / "gt", "1.png", "a/2.png", "b/3.png")
    for link, target in {"gt": gt, "up": "..", "a/b": "../b", "b/a": "../a", "a/self": ".", "b/root": "../.."}.items():
        (gt / link).symlink_to(target)
    assert list_images(gt, no_report) == ["1.png", "a/2.png", "b/3.png"]
    (tmp_path / "other").symlink_to(gt)
    assert list_images(tmp_path / "other", no_report) == ["1.png", "a/2.png", "b/3.png"]


def test_links_to_other_folders_are_followed_each(tmp_path):
    touch(tmp_path / "clean", "1.png", "sub/2.png", "sub/.hidden/3.png")
    (tmp_path / "clean/sub/up").symlink_to("..")
    gt = touch(tmp_path / "gt", ".store/4.png")
    for name in ("blur", "noise"):
        (gt / name).symlink_to("../clean")
    (gt / "stored").symlink_to(".store")
    expected = ["blur/1.png", "blur/sub/2.png", "noise/1.png", "noise/sub/2.png", "stored/4.png"]
    assert list_images(gt, no_report) == expected


def test_folders_that_link_to_each_other_take_no_time(tmp_path):
    folders = [touch(tmp_path / "far" / str(number), "x.png") for number in range(12)]
    for folder in folders:
        for other in folders:
            (folder / f"to{other.name}").symlink_to(other)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to("../far")
    assert len(list_images(tmp_path / "in", no_report)) == 12


def test_a_deep_folder(tmp_path):
    deep = tmp_path
    for _ in range(4):
        deep = deep / "/".join("d" * 300)
        deep.mkdir(parents=True)
    touch(deep, "x.png")
    try:
        assert list_images(tmp_path, no_report) == ["d/" * 1200 + "x.png"]
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # Python's recursive removal fails at this depth


NAMES = ["line\nbreak.png", "\udcff.png", "x.PNG", "e\u0301.png", "\u00e9.png", " .png", "-rf.png", "a.png/b.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_any_name(tmp_path):
    touch(tmp_path, *NAMES)
    assert list_images(tmp_path, no_report) == sorted(NAMES)


@pytest.fixture
def special(tmp_path):
    """A folder with an image and paths that are not files."""
    folder = tmp_path / "special"
    save(folder / "1.png", noise(16, 16))
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(folder / "socket.png"))
    (folder / "null.png").symlink_to("/dev/null")
    (folder / "dead.png").symlink_to("nowhere")
    (folder / "self.png").symlink_to("self.png")
    (folder / "unmounted").symlink_to("/nowhere/at/all")
    (folder / "notes.txt").symlink_to("nowhere")
    return folder


def test_paths_that_are_not_files_are_reported_and_never_opened(special):
    reports = {}
    assert list_images(special, reports.__setitem__) == ["1.png"]
    names = ["dead.png", "null.png", "pipe.png", "self.png", "socket.png", "unmounted"]
    assert sorted(reports) == [f"{special}/{name}" for name in names]
    assert reports[f"{special}/pipe.png"] == "is a named pipe, not a file"
    assert "missing" in reports[f"{special}/unmounted"]
    found = {}
    assert [one.name for one in find_images([str(special)], [], found.__setitem__)] == ["1.png"]
    assert found == reports
    assert len(verify(special).problems) == len(reports)
    for function in (lambda: Folder(special).keys(), lambda: create_lmdb(special, special.with_name("x.lmdb"))):
        with pytest.raises(DataError) as error:
            function()
        assert all(f"{path}: {reason}" in str(error.value) for path, reason in reports.items())


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.png", "b/2.png")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"1 problem\n.*/b/: Permission denied"):
        Folder(tmp_path).keys()
    assert any("b/: Permission denied" in line for line in verify(tmp_path).problems)
