"""Tests of folders and memory as storages."""

import numpy as np
import pytest

from mcir.data.errors import DataError
from mcir.data.lmdb_store import LmdbStore
from mcir.data.prepare import create_lmdb
from mcir.data.storage import Folder, Memory, open_storage, stem
from mcir.data.transforms import Window
from mcir.errors import ArgumentError
from tests.data.images import noise, save


def test_a_folder_lists_its_images_at_any_depth(tmp_path):
    for name in ("b.png", "a.JPG", "deep/er/c.tif", "deep/a b ü.png"):
        save(tmp_path / name, noise(8, 9))
    for name in ("notes.txt", ".hidden.png", ".cache/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert Folder(tmp_path).keys() == ["a.JPG", "b.png", "deep/a b ü.png", "deep/er/c.tif"]


def test_a_folder_reads_crops_and_headers(tmp_path):
    image = noise(20, 30)
    save(tmp_path / "sub" / "x.png", image)
    folder = Folder(tmp_path)
    assert np.array_equal(folder.read("sub/x.png"), image)
    assert np.array_equal(folder.read("sub/x.png", Window(2, 3, 10, 20)), image[2:12, 3:23])
    assert folder.info("sub/x.png") == (20, 30, 3, 8)
    assert folder.path("sub/x.png") == str(tmp_path / "sub" / "x.png")


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        Folder(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="is a file"):
        Folder(tmp_path / "file")
    with pytest.raises(DataError, match=r"gone\.png"):
        Folder(tmp_path).read("gone.png")
    with pytest.raises(DataError, match="No such file"):
        Folder(tmp_path).info("gone.png")


def test_memory_has_the_same_interface():
    image = noise(6, 7, 1, np.uint16)
    memory = Memory({"b": image, "a": noise(3, 3)})
    assert memory.keys() == ["a", "b"]
    assert memory.info("b") == (6, 7, 1, 16)
    assert np.array_equal(memory.read("b", Window(1, 2, 3, 4)), image[1:4, 2:6])


def test_the_path_or_the_option_selects_the_backend(tmp_path):
    save(tmp_path / "in" / "x.png", noise(5, 5))
    create_lmdb(tmp_path / "in", tmp_path / "x.lmdb")
    create_lmdb(tmp_path / "in", tmp_path / "other")
    assert isinstance(open_storage(tmp_path / "in"), Folder)
    assert isinstance(open_storage(tmp_path / "x.lmdb", {"type": "disk"}), LmdbStore)
    assert isinstance(open_storage(tmp_path / "other", {"type": "lmdb"}), LmdbStore)
    with pytest.raises(ArgumentError, match=r"io_backend: expected .*, got"):
        open_storage(tmp_path / "in", {"type": "petrel"})
    with pytest.raises(DataError, match="no LMDB database"):
        open_storage(tmp_path / "in", {"type": "lmdb"})


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a.png", "a"),
        ("x/a.b.png", "x/a.b"),
        ("x.y/a", "x.y/a"),
        ("1_0.74031.png", "1_0.74031"),
        ("x/.png", "x/.png"),
        ("a.", "a."),
    ],
)
def test_stem(key, expected):
    assert stem(key) == expected
