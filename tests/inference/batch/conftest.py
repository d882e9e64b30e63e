"""Folders of empty files."""

import pytest


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def no_report(name, reason):
    raise AssertionError(f"{name}: {reason}")


@pytest.fixture
def photos(tmp_path):
    names = "b.png", "a.JPG", "sub/c.tif", "sub/deep er/ü [1].webp", "notes.txt", ".hidden.png", ".cache/d.png"
    return touch(tmp_path / "photos", *names)
