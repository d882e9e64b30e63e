"""The photographs that `mcir prepare photographs` writes."""

import cv2
import numpy as np
import pytest

from mcir.cli import main
from mcir.data.storage import Folder

KINDS = ("haze", "rain", "noise", "blur", "jpeg")


def test_photographs_and_degraded_versions_are_pairs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["prepare", "photographs", "clear", *[word for kind in KINDS for word in (f"--{kind}", kind)]]
    assert main(command) == 0
    assert capsys.readouterr().out == "clear: 60 written, 0 existed, from 10 images\n"
    names = Folder("clear").keys()
    assert len(names) == 10
    for kind in KINDS:
        assert Folder(kind).keys() == names
        clear, degraded = (cv2.imread(f"{folder}/astronaut.png").astype(float) for folder in ("clear", kind))
        assert clear.shape == degraded.shape == (512, 512, 3)
        assert 1 < np.abs(clear - degraded).mean() < 100
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.png")}
    assert main(command) == 0
    assert "0 written, 60 existed" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.png")} == before


def test_files_of_the_user_are_kept(tmp_path, capsys):
    (tmp_path / "rocket.png").write_bytes(b"mine")
    assert main(["prepare", "photographs", str(tmp_path)]) == 1
    assert "rocket.png: exists with another content" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["rocket.png"]


@pytest.mark.parametrize("target", ["file", "file/below"])
def test_a_file_is_not_a_folder(tmp_path, monkeypatch, capsys, target):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["prepare", "photographs", target]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
