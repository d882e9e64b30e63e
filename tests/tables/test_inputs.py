"""Image lists and digests of the user's own images and weights."""

import hashlib
import os

import pytest

from mcir.data.prepare import create_lmdb
from mcir.tables.inputs import held_out_lists, image_facts, weights_digest
from tests.data.images import noise, save


@pytest.fixture
def folder(tmp_path):
    for number in range(7):
        (tmp_path / f"{number}.png").write_bytes(bytes(number))
    return tmp_path


def test_every_fifth_image_is_held_out_and_list_names_depend_on_the_images(folder, tmp_path):
    lists = held_out_lists(folder, tmp_path / "out")
    assert lists["val"].read_text().split() == ["0.png", "5.png"]
    assert lists["train"].read_text().split() == ["1.png", "2.png", "3.png", "4.png", "6.png"]
    assert held_out_lists(folder, tmp_path / "out") == lists
    (folder / "6.png").write_bytes(b"another one")
    assert held_out_lists(folder, tmp_path / "out")["train"] != lists["train"]


def test_the_facts_of_an_lmdb_include_its_size_and_time(tmp_path):
    for number, name in enumerate("ab"):
        save(tmp_path / name / "0.png", noise(8, 8, seed=number))
        create_lmdb(tmp_path / name, tmp_path / f"{name}.lmdb")
        os.utime(tmp_path / f"{name}.lmdb/data.mdb", (number, number))
    one, other = image_facts(tmp_path / "a.lmdb"), image_facts(tmp_path / "b.lmdb")
    assert one[:-1] == other[:-1] == ["0.png "] and one != other
    assert image_facts(tmp_path / "a.lmdb") == one


def test_one_image_is_too_few(tmp_path):
    (tmp_path / "0.png").touch()
    with pytest.raises(ValueError, match="expected at least two images, for training and for testing, got 1"):
        held_out_lists(tmp_path, tmp_path)


def test_a_digest_depends_on_the_content_of_a_file(tmp_path):
    file = tmp_path / "a.pth"
    file.write_bytes(b"weights")
    assert weights_digest(str(file), "--vgg") == hashlib.sha256(b"weights").hexdigest()[:16]
    assert weights_digest("random", "--vgg") == weights_digest("imagenet", "--vgg") == ""
    with pytest.raises(ValueError, match="--resnet: expected random, imagenet or a weight file; there is no file b"):
        weights_digest("b.pth", "--resnet")
