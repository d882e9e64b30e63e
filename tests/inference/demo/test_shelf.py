"""Files of visitors: which are theirs, and how long they stay."""

import os
import time

import pytest

from mcir.inference.demo.shelf import Shelf


def put(folder, name, size=10, age=0.0):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(size))
    os.utime(file, 2 * (time.time() - age,))
    return file


def test_it_holds_its_files_and_nothing_else(tmp_path):
    folder, outside = tmp_path / "shelf", put(tmp_path, "secret.txt")
    inside = put(folder, "a/b.png")
    (folder / "link.png").symlink_to(outside)
    shelf = Shelf(folder)
    assert shelf.holds(str(inside))
    assert shelf.holds(f"{folder}/a/../a/b.png")
    refused = [outside, folder, folder / "a", folder / "none.png", folder / "link.png", folder / "../secret.txt"]
    assert not [path for path in map(str, refused) if shelf.holds(path)]
    assert not [path for path in ("", "x" * 5000, "/etc/passwd\0.png", "file:///etc/passwd") if shelf.holds(path)]


def test_a_neighbour_of_a_like_name_is_outside(tmp_path):
    (tmp_path / "shelf").mkdir()
    assert not Shelf(tmp_path / "shelf").holds(str(put(tmp_path / "shelf-2", "a.png")))


def test_what_is_old_goes_with_its_folder(tmp_path):
    old, new = put(tmp_path, "old/a.png", age=100), put(tmp_path, "new/a.png", age=10)
    os.utime(old.parent, 2 * (time.time() - 100,))
    Shelf(tmp_path, kept=50).sweep()
    assert new.exists()
    assert not old.parent.exists()


def test_the_oldest_go_until_the_others_have_room(tmp_path):
    files = [put(tmp_path, f"{age}/a.png", size=100_000, age=age) for age in (1, 2, 3, 4)]
    Shelf(tmp_path, room=250_000).sweep()
    assert [file.exists() for file in files] == [True, True, False, False]


def test_many_small_files_take_room_too(tmp_path):
    for number in range(20):
        put(tmp_path, f"{number}.png", size=1, age=number)
    Shelf(tmp_path, room=10 * 2**16).sweep()
    assert sorted(int(file.stem) for file in tmp_path.iterdir()) == list(range(10))


@pytest.mark.parametrize("kept", [0.0, 1e9])
def test_what_belongs_to_the_page_stays(kept, tmp_path):
    thumbnail = put(tmp_path, "page/cat.webp", size=90_000, age=1000)
    shelf = Shelf(tmp_path, kept=kept, room=50_000)
    shelf.keep()
    theirs = put(tmp_path, "a.png", size=90_000, age=500)
    shelf.sweep()
    assert thumbnail.exists()
    assert not theirs.exists()
