"""The record of the starts of a run: machine, versions, git revision and changed options."""

import json
import subprocess

import pytest
import torch

import mcir
from mcir.checked_json import read_records, read_text
from mcir.engine.environment import git_revision, record_collapse, record_start
from mcir.engine.guard import NotFiniteError

CPU = {"device": torch.device("cpu"), "iteration": 0}


@pytest.fixture
def repository(tmp_path):
    def git(*arguments):
        settings = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *settings, "-C", str(folder), *arguments], check=True, capture_output=True)

    folder = tmp_path / "repository"
    folder.mkdir()
    git("init")
    (folder / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    git("tag", "-a", "v1", "-m", "a tag is not a revision")
    return folder


def test_the_revision_shows_changes_of_tracked_files(repository):
    revision = git_revision(repository)
    assert len(revision) == 40 and set(revision) <= set("0123456789abcdef")
    (repository / "new").write_text("for example results")
    assert git_revision(repository) == revision
    (repository / "file").write_text("2")
    assert git_revision(repository) == f"{revision}-dirty"


def test_without_git_or_a_commit_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "plain").mkdir()
    assert git_revision(tmp_path / "plain") is None
    subprocess.run(["git", "init", "-q", str(tmp_path / "plain")], check=True)
    assert git_revision(tmp_path / "plain") is None
    assert git_revision(tmp_path / "nowhere") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_revision(tmp_path) is None


def test_each_start_is_a_line(tmp_path, repository, monkeypatch):
    monkeypatch.chdir(repository)
    record_start(tmp_path, "a: 1\nb: 2\n", CPU)
    record_start(tmp_path, "a: 1\nb: 3\n", {**CPU, "iteration": 7})
    first, second = (json.loads(line) for line in (tmp_path / "environment.jsonl").read_text().splitlines())
    assert (first["device"], first["torch"], first["mcir"]) == ("cpu", torch.__version__, mcir.__version__)
    assert (first["git"], first["cuda"]) == (git_revision(repository), None)
    assert first["cpu"] and first["cores"] >= 1 and first["threads"] == torch.get_num_threads()
    assert (first["iteration"], second["iteration"]) == (0, 7)
    assert (first["changes"], second["changes"]) == ([], ["b: 2 → 3"])
    assert read_text(tmp_path / "options.yml") == ("a: 1\nb: 3\n", "")


def test_a_collapse_is_recorded_until_the_next_start(tmp_path):
    with pytest.raises(NotFiniteError), record_collapse(tmp_path, "a: 1\n"):
        raise NotFiniteError(7, ["l_pix", "grad_norm"], ["one.png"])
    (record,) = read_records(tmp_path / "collapse.json").records
    assert record == {"iteration": 7, "scalars": ["l_pix", "grad_norm"], "options": "a: 1\n"}
    with pytest.raises(OSError), record_collapse(tmp_path / "other", ""):
        raise OSError
    assert not (tmp_path / "other").exists()
    record_start(tmp_path, "a: 1\n", CPU)
    assert not (tmp_path / "collapse.json").exists()


def test_a_damaged_option_file_does_not_prevent_a_start(tmp_path):
    (tmp_path / "options.yml").write_bytes(b"\xff\n")
    record_start(tmp_path, "a: 1\n", CPU)
    assert json.loads((tmp_path / "environment.jsonl").read_text())["changes"] == ["a: nothing → 1"]


def test_a_gpu_is_recorded_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    record_start(tmp_path, "", {"device": torch.device("cuda", 1)})
    start = json.loads((tmp_path / "environment.jsonl").read_text())
    assert (start["device"], start["cuda"]) == ("card 1", torch.version.cuda)
