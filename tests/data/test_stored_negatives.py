"""Tests of stored negatives: how they are matched with pairs, and messages about wrong ones."""

import numpy as np
import pytest

from mcir.data.errors import DataError
from mcir.data.storage import Folder, Memory
from mcir.data.stored_negatives import StoredNegatives
from mcir.data.transforms import Window
from tests.data.images import noise, save, truncate


def test_the_same_part_of_each_storage_is_read():
    one = Memory({"a.png": noise(8, 9), "b.png": noise(6, 7)})
    two = Memory({"b.jpg": noise(6, 7, seed=1), "a.bmp": noise(8, 9, seed=1), "more.png": noise(2, 2)})
    stored = StoredNegatives([one, two], ["b", "a"], [(6, 7), (8, 9)], "my set")
    assert stored.bits == 8
    first, second = stored.read_crops(1, Window(2, 3, 4, 5))
    assert np.array_equal(first, one.read("a.png")[2:6, 3:8]) and np.array_equal(second, two.read("a.bmp")[2:6, 3:8])


def test_bits_are_the_maximum_of_all_negatives():
    deep = Memory({"a": noise(8, 9, dtype=np.uint16)})
    assert StoredNegatives([Memory({"a": noise(8, 9)}), deep], ["a"], [(8, 9)], "s").bits == 16


def test_all_problems_are_listed(tmp_path):
    names = ["good", "twice", "gone", "small", "truncated"]
    for name in ("good.png", "twice.png", "twice.bmp", "truncated.png"):
        save(tmp_path / name, noise(8, 9))
    save(tmp_path / "small.png", noise(4, 9))
    truncate(tmp_path / "truncated.png")
    with pytest.raises(DataError) as error:
        StoredNegatives([Folder(tmp_path)], names, [(8, 9)] * 5, "my set")
    text = str(error.value)
    assert "my set, dataroot_negatives: 4 problems" in text
    assert f"{tmp_path}/twice: several negatives, {tmp_path}/twice.bmp, {tmp_path}/twice.png" in text
    assert f"{tmp_path}/gone: no such negative (with any extension)" in text
    assert f"{tmp_path}/small.png: 9×4 pixels, expected 9×8, the size of the restored image" in text
    assert f"{tmp_path}/truncated.png: " in text
