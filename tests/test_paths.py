"""Paths from users."""

import os

import pytest

from mcir.paths import MAX_NAME_BYTES, expand_path, file_problem, name_problem


def test_home_and_variables_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    monkeypatch.setenv("DATA", "~/data")
    assert expand_path("$DATA/x").as_posix() == expand_path("${DATA}/x").as_posix() == "/home/me/data/x"
    assert expand_path("a$b~").as_posix() == "a$b~"


def test_only_files_can_be_read(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"123")
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "dangling").symlink_to(tmp_path / "missing")
    assert file_problem(file) is file_problem(tmp_path / "link") is file_problem(file, max_bytes=3) is None
    assert file_problem(file, max_bytes=2) == "is too large (expected at most 2 bytes, got 3)"
    assert file_problem(tmp_path / "dangling") == file_problem(tmp_path / "missing") == "does not exist"
    assert file_problem(tmp_path) == "is a folder"
    assert "null" in file_problem("a\0b")
    assert "too long" in file_problem("a" * 5000)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the platform has no named pipes")
def test_pipes_and_devices_are_not_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert file_problem(tmp_path / "pipe") == "is a named pipe, not a file"
    assert file_problem("/dev/zero") == "is a device, not a file"


@pytest.mark.parametrize("name", ["a", "photos 2024 (1)", ".hidden", "ä", "ß" * (MAX_NAME_BYTES // 2), "a..b"])
def test_names_of_files(name):
    assert name_problem(name) is None


@pytest.mark.parametrize("name", ["", ".", "..", " ", "a/b", "a\\b", "../x", "a\0", "a\x1b[31m", "a\n", "ß" * 101])
def test_texts_that_are_not_names_of_files(name):
    assert name_problem(name)
