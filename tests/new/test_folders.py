"""Folders of users: what can be used, and what the messages say about the rest."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mcir.data.errors import DataError
from mcir.new.folders import inspect_folder, usable_images, usable_pairs
from mcir.new.plan import relative, split


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write_image(path, height=64, width=64, channels=3, dtype=np.uint8):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        data = cv2.imencode(".png", np.full((height, width, channels), 99, dtype))[1].tobytes()
        Path(path).write_bytes(data)

    return write_image


def test_a_hostile_folder(write):
    for name in ("it's.png", 'quo"te.png', "colon: x.png", "ünïcode.png", "sub/a.png", " lead.png", "new\nline.png"):
        write(f"all/{name}")
    write("all/tiny.png", 4, 4)
    write("all/grey.png", channels=1)
    write("all/deep.png", 80, 90, dtype=np.uint16)
    Path("all/cut.png").write_bytes(Path("all/grey.png").read_bytes()[:60])
    Path("all/text.jpg").write_text("hello")
    for name in ("a.gif", "b.gif", "c.heic", "notes", ".hidden.txt"):
        Path("all", name).touch()
    found = inspect_folder("all")
    assert found.describe() == "10 images of 4×4 to 90×80 pixels, 10 png, 1 grey, 1 of 16 bits"
    assert found.others == ["a.gif", "b.gif", "c.heic", "notes"]
    assert [problem.partition(":")[0] for problem in found.problems] == ["all/cut.png", "all/text.jpg"]
    usable = usable_images(found, scale=2)
    assert "sub/a.png" in usable.names and "colon: x.png" in usable.names
    assert len(usable.names) == 7
    wrong = "\n".join(usable.problems)
    assert "tiny.png: 4×4 pixels, expected at least 32" in wrong
    assert " lead.png: expected a name without" in wrong


@pytest.mark.parametrize("files", [[], ["a.txt"], ["a.png"]])
def test_a_folder_without_images(tmp_path, files):
    for name in files:
        (tmp_path / name).write_text("no image")
    with pytest.raises(DataError, match="there is no readable image"):
        inspect_folder(str(tmp_path))


def test_images_that_are_all_too_small(write):
    write("four/a.png", 4, 4)
    with pytest.raises(DataError, match="expected images of at least 64×64 pixels, got 1 image of 4×4"):
        usable_images(inspect_folder("four"), scale=4)


@pytest.mark.parametrize("template", ["{}", "{}x4", "{}_1_0.8"])
def test_names_of_pairs_are_detected(write, template):
    for index in range(5):
        write(f"gt/{index}.png", 96, 96)
        write(f"lq/{template.format(index)}.png", 24, 24)
    usable, scale = usable_pairs(inspect_folder("gt"), inspect_folder("lq"), None)
    assert scale == 4
    assert len(usable.names) == 5
    assert usable.filename_tmpl == {"{}_1_0.8": "{}_*"}.get(template, template)


def test_pairs_with_mistakes(write):
    for index in range(4):
        write(f"gt/{index}.png")
        write(f"lq/{index}.png", *((64, 60) if index == 0 else (64, 64)))
    write("gt/alone.png")
    write("lq/lost.png")
    usable, _ = usable_pairs(inspect_folder("gt"), inspect_folder("lq"), 1)
    assert usable.names == ["1.png", "2.png", "3.png"]
    assert sorted(problem.partition(":")[0] for problem in usable.problems) == [
        "gt/0.png",
        "gt/alone.png",
        "lq/lost.png",
    ]


def test_swapped_folders_other_scales_and_other_names(write):
    for index in range(3):
        write(f"large/{index}.png", 96, 96)
        write(f"small/{index}.png", 48, 48)
        write(f"other/z{index}.png", 48, 48)
    large, small, other = map(inspect_folder, ("large", "small", "other"))
    with pytest.raises(DataError, match="Swap the two folders"):
        usable_pairs(small, large, 2)
    with pytest.raises(DataError, match=r"No pair has the scale 4.*expected --scale 2"):
        usable_pairs(large, small, 4)
    with pytest.raises(DataError, match="must have the same name"):
        usable_pairs(large, other, 2)


@pytest.mark.parametrize(("count", "val"), [(1, 1), (2, 1), (9, 1), (10, 2), (200, 16)])
def test_the_split_is_deterministic_and_disjoint(write, count, val):
    for index in range(count):
        write(f"gt/{index}.png", 32, 32)
    usable = usable_images(inspect_folder("gt"), 1)
    data = split("gt", None, usable, 1)
    assert data == split("gt", None, usable, 1)
    assert len(data.val) == val
    assert data.is_shared == (count == 1)
    assert count == 1 or sorted(data.train + data.val) == sorted(usable.names)


def test_paths_are_relative_to_the_option_file():
    assert relative("photos", Path("options")) == "../photos"
    assert relative("/data/photos", Path("options")) == "/data/photos"
    with pytest.raises(ValueError, match=r"expected a path without '\$'"):
        relative("$photos", Path())
