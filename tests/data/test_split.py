"""Tests of splits and subsets by names."""

from itertools import pairwise

import pytest

from mcir.data.errors import DataError
from mcir.data.paired import PairedImageDataset
from mcir.data.prepare import create_lmdb
from mcir.data.split import create_split, select_subset, shuffled
from mcir.errors import ArgumentError
from tests.data.images import noise, save

NAMES = [f"{index:04d}" for index in range(200)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for index in range(60):
        save(root / f"room {index % 6}" / f"{index:02d}.png", noise(8, 8, seed=index))
    return root


def lists(folder):
    return {path.stem: path.read_text(encoding="utf-8").splitlines() for path in folder.iterdir()}


def test_the_order_never_changes():
    """``printf 0:a | sha256sum`` starts with 9df3; b: e021, c: be08, d: 7d98, e: e078."""
    assert shuffled(["a", "b", "c", "d", "e"], 0) == [3, 0, 2, 1, 4]


def test_smaller_subsets_are_part_of_larger_ones():
    subsets = [select_subset(NAMES, count, 3) for count in (1, 10, 50, 200)]
    assert [len(subset) for subset in subsets] == [1, 10, 50, 200]
    assert all(set(small) < set(large) for small, large in pairwise(subsets))
    assert all(subset == sorted(subset) for subset in subsets)
    assert select_subset(NAMES, 50, 4) != subsets[2]


def test_names_have_the_same_order_in_another_set():
    every_other = NAMES[::2]
    common = [NAMES[index] for index in shuffled(NAMES, 0) if NAMES[index] in every_other]
    assert [every_other[index] for index in shuffled(every_other, 0)] == common


@pytest.mark.parametrize("count", [0, -1, 201])
def test_subsets_have_between_one_and_all_images(count):
    with pytest.raises(ArgumentError, match=f"max_images: expected 1 … 200, .* got {count}"):
        select_subset(NAMES, count, 0)


def test_lists_are_disjoint_and_cover_all_images(tmp_path, images):
    first = create_split(images, tmp_path, val=5, test=0.2)
    assert (first.images, first.written, first.skipped) == (60, 3, 0)
    found = lists(tmp_path)
    assert {arguments: len(names) for arguments, names in found.items()} == {"train": 43, "val": 5, "test": 12}
    assert len(set().union(*found.values())) == 60
    assert all(names == sorted(names) for names in found.values())
    again = create_split(images, tmp_path, val=5, test=0.2)
    assert (again.written, again.skipped) == (0, 3)


def test_shorter_lists_are_part_of_longer_ones(tmp_path, images):
    sizes = ({"train": 10, "test": 4}, {"train": 30, "test": 4, "val": 20}, {"train": 30, "test": 10})
    for number, size in enumerate(sizes):
        create_split(images, tmp_path / str(number), **size)
    one, two, three = (lists(tmp_path / str(number)) for number in range(3))
    assert set(one["train"]) < set(two["train"]) and two["train"] == three["train"]
    assert one["test"] == two["test"] and set(two["test"]) < set(three["test"])
    assert "val" not in one


def test_lists_depend_only_on_names_and_seed(tmp_path, images):
    create_lmdb(images, tmp_path / "x.lmdb")
    create_split(tmp_path / "x.lmdb", tmp_path / "database", test=9)
    create_split(images, tmp_path / "files", test=9)
    create_split(images, tmp_path / "other", test=9, seed=1)
    assert lists(tmp_path / "database") == lists(tmp_path / "files") != lists(tmp_path / "other")


def test_the_images_of_a_folder_stay_together(tmp_path, images):
    create_split(images, tmp_path, val=1, test=2, folders=True)
    found = {arguments: {name.partition("/")[0] for name in names} for arguments, names in lists(tmp_path).items()}
    assert {arguments: len(folders) for arguments, folders in found.items()} == {"train": 3, "val": 1, "test": 2}
    assert len(set().union(*found.values())) == 6 and len(lists(tmp_path)["test"]) == 20


def test_data_sets_read_the_lists(tmp_path, images):
    create_split(images, tmp_path, test=7)
    arguments = {"degradation": {"type": "GaussianNoise", "sigma": 5}}
    dataset = PairedImageDataset(str(images), meta_info_file=str(tmp_path / "test.txt"), **arguments)
    assert [f"{dataset.name(index)}.png" for index in range(7)] == lists(tmp_path)["test"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": 50, "test": 11}, "50 for training, 0 for validation and 11 for testing, .* got 60 images"),
        ({"test": 60}, "0 for training"),
        ({"val": 6, "folders": True}, "0 for training, 6 for validation .* got 6 folders"),
        ({"val": -1}, "val: .*got -1"),
        ({"test": 2.5}, r"test: .*got 2\.5"),
        ({"test": 0.001}, r"test: expected .* of 60 images, got 0\.001"),
        ({"train": float("inf")}, "train: .*got inf"),
        ({"train": 0}, "0 for training"),
    ],
)
def test_wrong_numbers_are_rejected(tmp_path, images, arguments, message):
    with pytest.raises(DataError, match=message):
        create_split(images, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_existing_lists_are_not_overwritten(tmp_path, images):
    create_split(images, tmp_path, val=5, test=5)
    before = lists(tmp_path)
    for arguments, name in (
        ({"val": 5, "test": 6}, "test"),
        ({"test": 5}, "val"),
        ({"val": 5, "test": 5, "seed": 1}, "train"),
    ):
        with pytest.raises(DataError, match=rf"{name}\.txt: differs"):
            create_split(images, tmp_path, **arguments)
    assert lists(tmp_path) == before
    with pytest.raises(DataError, match="expected a folder outside of the source"):
        create_split(images, images / "splits")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        create_split(tmp_path / "empty", tmp_path / "out")
