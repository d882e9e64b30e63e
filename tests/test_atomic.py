"""Atomic file writes."""

import errno
import shutil

import pytest

from mcir.atomic import atomic_file, write_atomically


def test_a_failed_write_does_not_change_the_old_file(tmp_path):
    target = tmp_path / "deep" / "x.bin"
    write_atomically(target, b"old")
    with pytest.raises(TypeError):
        write_atomically(target, "not bytes")
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["x.bin"]


def test_the_file_appears_when_it_is_complete(tmp_path):
    with atomic_file(tmp_path / "x.bin", durable=True) as temporary:
        temporary.write_bytes(b"half")
        assert not (tmp_path / "x.bin").exists()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x.bin", b"half")]


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(OSError, match="No space left") as caught, atomic_file(tmp_path / "x.bin"):
        raise RuntimeError("unexpected pos 64 vs 0")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "x.bin"))
