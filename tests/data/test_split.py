"""Lists that split a data set: disjoint, nested, the same for everyone."""

import pytest

from mcir.data.errors import DataError
from mcir.data.paired import PairedImageDataset
from mcir.data.prepare import create_lmdb
from mcir.data.split import create_split
from tests.data.pictures import noise, save


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for index in range(60):
        save(root / f"room {index % 6}" / f"{index:02d}.png", noise(8, 8, seed=index))
    return root


def lists(folder):
    return {path.stem: path.read_text(encoding="utf-8").splitlines() for path in folder.iterdir()}


def test_lists_are_disjoint_and_together_everything(tmp_path, images):
    made = create_split(images, tmp_path, val=5, test=0.2)
    assert (made.images, made.written, made.skipped) == (60, 3, 0)
    found = lists(tmp_path)
    assert {kind: len(names) for kind, names in found.items()} == {"train": 43, "val": 5, "test": 12}
    assert len(set().union(*found.values())) == 60
    assert all(names == sorted(names) for names in found.values())
    again = create_split(images, tmp_path, val=5, test=0.2)
    assert (again.written, again.skipped) == (0, 3)


def test_shorter_lists_lie_in_longer_ones(tmp_path, images):
    sizes = ({"train": 10, "test": 4}, {"train": 30, "test": 4, "val": 20}, {"train": 30, "test": 10})
    for number, size in enumerate(sizes):
        create_split(images, tmp_path / str(number), **size)
    one, two, three = (lists(tmp_path / str(number)) for number in range(3))
    assert set(one["train"]) < set(two["train"]) and two["train"] == three["train"]
    assert one["test"] == two["test"] and set(two["test"]) < set(three["test"])
    assert "val" not in one


def test_the_rule_is_the_names_alone(tmp_path, images):
    create_lmdb(images, tmp_path / "x.lmdb")
    create_split(tmp_path / "x.lmdb", tmp_path / "of_base", test=9)
    create_split(images, tmp_path / "of_files", test=9)
    create_split(images, tmp_path / "other", test=9, seed=1)
    assert lists(tmp_path / "of_base") == lists(tmp_path / "of_files") != lists(tmp_path / "other")


def test_folders_stay_whole(tmp_path, images):
    create_split(images, tmp_path, val=1, test=2, folders=True)
    found = {kind: {name.partition("/")[0] for name in names} for kind, names in lists(tmp_path).items()}
    assert {kind: len(folders) for kind, folders in found.items()} == {"train": 3, "val": 1, "test": 2}
    assert len(set().union(*found.values())) == 6 and len(lists(tmp_path)["test"]) == 20


def test_data_sets_read_them(tmp_path, images):
    create_split(images, tmp_path, test=7)
    kind = {"degradation": {"type": "GaussianNoise", "sigma": 5}}
    dataset = PairedImageDataset(str(images), meta_info_file=str(tmp_path / "test.txt"), **kind)
    assert [f"{dataset.name(index)}.png" for index in range(7)] == lists(tmp_path)["test"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": 50, "test": 11}, "50 images for training, 0 for validation and 11 for testing; there are 60"),
        ({"test": 60}, "0 images for training"),
        ({"val": 6, "folders": True}, "0 folders for training, 6 for validation"),
        ({"val": -1}, "val is -1"),
        ({"test": 2.5}, r"test is 2\.5"),
        ({"test": 0.001}, r"test is 0\.001; of 60"),
        ({"train": float("inf")}, "train is inf"),
        ({"train": 0}, "0 images for training"),
    ],
)
def test_numbers_that_do_not_fit(tmp_path, images, arguments, message):
    with pytest.raises(DataError, match=message):
        create_split(images, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_other_lists_are_kept(tmp_path, images):
    create_split(images, tmp_path, val=5, test=5)
    before = lists(tmp_path)
    for arguments, name in (
        ({"val": 5, "test": 6}, "test"),
        ({"test": 5}, "val"),
        ({"val": 5, "test": 5, "seed": 1}, "train"),
    ):
        with pytest.raises(DataError, match=rf"{name}\.txt: is another list"):
            create_split(images, tmp_path, **arguments)
    assert lists(tmp_path) == before
    with pytest.raises(DataError, match="never written to"):
        create_split(images, images / "splits")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        create_split(tmp_path / "empty", tmp_path / "out")
