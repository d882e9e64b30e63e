"""Which pictures are found."""

import os

import pytest

from mcir.data.errors import DataError
from mcir.inference.batch.search import find_pictures
from tests.inference.batch.conftest import touch, unheard


def names_in(*inputs, apart=(), tell=unheard):
    return [one.name for one in find_pictures([str(text) for text in inputs], apart, tell)]


def test_a_folder_is_searched_at_any_depth_for_pictures_that_are_not_hidden(photos):
    assert names_in(photos) == ["a.JPG", "b.png", "sub/c.tif", "sub/deep er/ü [1].webp"]


def test_a_file_is_taken_whatever_its_ending_and_bears_its_own_name(photos):
    assert names_in(photos / "sub/c.tif", photos / "notes.txt") == ["c.tif", "notes.txt"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", ["a.JPG", "b.png", "sub/c.tif", "sub/deep er/ü [1].webp"]),
        ("*.png", ["b.png"]),
        ("[ab].*", ["a.JPG", "b.png"]),
        ("?.png", ["b.png"]),
        ("**/*.tif", ["sub/c.tif"]),
        ("**", ["a.JPG", "b.png", "sub/c.tif", "sub/deep er/ü [1].webp"]),
        ("s*/*", ["sub/c.tif", "sub/deep er/ü [1].webp"]),
        ("sub/*.tif", ["c.tif"]),
    ],
)
def test_a_pattern_keeps_the_structure_below_its_fixed_part(photos, pattern, found):
    assert names_in(photos / pattern) == found


def test_what_is_there_is_no_pattern(tmp_path):
    touch(tmp_path / "in [1]", "a*.png", "ab.png", "1.png")
    assert names_in(tmp_path / "in [1]") == ["1.png", "a*.png", "ab.png"]
    assert names_in(tmp_path / "in [1]" / "a*.png") == ["a*.png"]
    assert names_in(tmp_path / "in [1]" / "a?.png") == ["a*.png", "ab.png"]


def test_a_relative_pattern_starts_here(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert names_in("*.png") == ["b.png"]
    assert names_in("sub") == ["c.tif", "deep er/ü [1].webp"]
    assert names_in(".") == names_in(photos)


def test_what_is_named_twice_is_restored_once_by_its_first_name(photos):
    assert names_in(photos / "b.png", photos, photos / "**/*.png") == [
        "b.png",
        "a.JPG",
        "sub/c.tif",
        "sub/deep er/ü [1].webp",
    ]
    assert names_in(photos / "sub/c.tif", photos)[:1] == ["c.tif"]
    assert "sub/c.tif" not in names_in(photos / "sub/c.tif", photos)


def test_results_and_ground_truths_within_an_input_are_left_out(photos):
    touch(photos, "restored/b.png", "gt/b.png")
    apart = [photos / "restored", photos / "gt"]
    expected = ["a.JPG", "b.png", "sub/c.tif", "sub/deep er/ü [1].webp"]
    assert names_in(photos, apart=apart) == expected
    assert names_in(photos / "*", apart=apart) == expected
    assert names_in(photos / "**/*.png", apart=apart) == ["b.png"]
    as_the_shell_has_it = sorted(path for path in photos.iterdir() if not path.name.startswith("."))
    assert names_in(*as_the_shell_has_it, apart=apart) == ["a.JPG", "b.png", "notes.txt", "c.tif", "deep er/ü [1].webp"]
    assert names_in(photos / "restored", apart=apart) == ["b.png"]  # asked for by its own name: `place` decides


def test_a_link_to_a_folder_is_followed_but_not_in_a_circle(photos, tmp_path):
    touch(tmp_path / "elsewhere", "far.png")
    (photos / "link").symlink_to(tmp_path / "elsewhere")
    (photos / "sub/up").symlink_to(photos)
    (tmp_path / "elsewhere/self").symlink_to(".")
    assert names_in(photos) == ["a.JPG", "b.png", "link/far.png", "sub/c.tif", "sub/deep er/ü [1].webp"]


def test_a_folder_that_cannot_be_read_is_told(photos, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    told = []
    assert names_in(photos, tell=lambda *fault: told.append(fault)) == ["a.JPG", "b.png"]
    assert told == [(f"{photos}/sub/", "Permission denied")]


def test_nothing_found_says_where_and_for_what_was_looked(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(DataError, match=rf"no picture found in {tmp_path}, at any depth; looked for \.bmp, .*\.webp"):
        names_in(tmp_path)


def test_what_is_no_file_in_a_folder_is_told(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "dead.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    for text in (tmp_path, tmp_path / "*"):
        told = []
        assert names_in(text, tell=lambda *fault, told=told: told.append(fault)) == ["a.png"]
        assert told == [(f"{tmp_path}/dead.png", "a link to nothing"), (f"{tmp_path}/pipe.png", "not a file")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none.png", "none.png: is not there"),
        ("none/*.png", r"none/\*.png: no picture fits this pattern"),
        ("*.tif", r"\*.tif: no picture fits this pattern"),
        ("", "an input is empty"),
        ("dead.png", "dead.png: neither a file nor a folder"),
        ("pipe.png", "pipe.png: neither a file nor a folder"),
    ],
)
def test_an_input_that_is_nothing_is_an_error_beside_others(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(touch(tmp_path, "a.png"))
    (tmp_path / "dead.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=message):
        names_in("a.png", text)
