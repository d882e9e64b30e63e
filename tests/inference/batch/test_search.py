"""Files, folders and patterns name images."""

import os

import pytest

from mcir.data.errors import DataError
from mcir.inference.batch.search import find_images
from tests.inference.batch.conftest import no_report, touch


def names_in(*inputs, excluded=(), report=no_report):
    return [one.name for one in find_images([str(text) for text in inputs], excluded, report)]


def test_folders_are_searched_at_any_depth(photos):
    assert names_in(photos) == ["a.JPG", "b.png", "sub/c.tif", "sub/deep er/ü [1].webp"]


def test_named_files_may_have_any_extension(photos):
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
def test_patterns(photos, pattern, found):
    assert names_in(photos / pattern) == found


def test_existing_paths_are_not_patterns(tmp_path):
    touch(tmp_path / "in [1]", "a*.png", "ab.png", "1.png")
    assert names_in(tmp_path / "in [1]") == ["1.png", "a*.png", "ab.png"]
    assert names_in(tmp_path / "in [1]" / "a*.png") == ["a*.png"]
    assert names_in(tmp_path / "in [1]" / "a?.png") == ["a*.png", "ab.png"]


def test_relative_patterns(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert names_in("*.png") == ["b.png"]
    assert names_in("sub") == ["c.tif", "deep er/ü [1].webp"]
    assert names_in(".") == names_in(photos)


def test_duplicates_are_removed(photos):
    assert names_in(photos / "b.png", photos, photos / "**/*.png") == [
        "b.png",
        "a.JPG",
        "sub/c.tif",
        "sub/deep er/ü [1].webp",
    ]
    assert names_in(photos / "sub/c.tif", photos)[:1] == ["c.tif"]
    assert "sub/c.tif" not in names_in(photos / "sub/c.tif", photos)


def test_results_and_ground_truths_are_excluded(photos):
    touch(photos, "restored/b.png", "gt/b.png")
    excluded = [photos / "restored", photos / "gt"]
    expected = ["a.JPG", "b.png", "sub/c.tif", "sub/deep er/ü [1].webp"]
    assert names_in(photos, excluded=excluded) == expected
    assert names_in(photos / "*", excluded=excluded) == expected
    assert names_in(photos / "**/*.png", excluded=excluded) == ["b.png"]
    expanded_by_the_shell = sorted(path for path in photos.iterdir() if not path.name.startswith("."))
    assert names_in(*expanded_by_the_shell, excluded=excluded) == [
        "a.JPG",
        "b.png",
        "notes.txt",
        "c.tif",
        "deep er/ü [1].webp",
    ]
    assert names_in(photos / "restored", excluded=excluded) == ["b.png"]  # named itself


def test_links_are_followed_but_not_in_circles(photos, tmp_path):
    touch(tmp_path / "elsewhere", "far.png")
    (photos / "link").symlink_to(tmp_path / "elsewhere")
    (photos / "sub/up").symlink_to(photos)
    (tmp_path / "elsewhere/self").symlink_to(".")
    assert names_in(photos) == ["a.JPG", "b.png", "link/far.png", "sub/c.tif", "sub/deep er/ü [1].webp"]


def test_unreadable_folders_are_reported(photos, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    reports = []
    assert names_in(photos, report=lambda *problem: reports.append(problem)) == ["a.JPG", "b.png"]
    assert reports == [(f"{photos}/sub/", "Permission denied")]


def test_no_image(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(DataError, match=rf"no image found in {tmp_path}; searched for \.bmp, .*\.webp"):
        names_in(tmp_path)


def test_paths_that_are_not_files_are_reported(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "dead.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    for text in (tmp_path, tmp_path / "*"):
        reports = []
        assert names_in(text, report=lambda *problem, reports=reports: reports.append(problem)) == ["a.png"]
        assert dict(reports)[f"{tmp_path}/pipe.png"] == "is a named pipe, not a file"
        assert sorted(name for name, _ in reports) == [f"{tmp_path}/{name}.png" for name in ("dead", "pipe")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none.png", "'none.png': no such file or folder"),
        ("none/*.png", r"'none/\*.png': no such file or folder, and no image matches it"),
        ("*.tif", r"'\*.tif': no such file"),
        ("", "'': no such file"),
        ("dead.png", "'dead.png': no such file"),
        ("pipe.png", "'pipe.png' is a named pipe, not a file"),
    ],
)
def test_invalid_inputs(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(touch(tmp_path, "a.png"))
    (tmp_path / "dead.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=message):
        names_in("a.png", text)
