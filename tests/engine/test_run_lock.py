"""A folder that one process holds: the others are told which, and its end frees the folder at once."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from mcir.engine.run_lock import RunDirInUseError, hold, is_held

HOLDER = """
import os, sys, time
from pathlib import Path
from mcir.engine.run_lock import hold
kept = hold(Path(sys.argv[1]))
if os.fork():
    print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder ``run``, with a child as those that load data are."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "experiments/run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline() == "held\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_who_comes_second_is_told_who_holds_it_and_gets_it_when_that_one_is_killed(tmp_path, holder):
    folder = tmp_path / "experiments/run"
    for _ in range(2):  # to be refused changes nothing
        with pytest.raises(RunDirInUseError, match=f"run is in use by process {holder.pid} on {socket.gethostname()}:"):
            hold(folder)
    hold(folder.with_name("other")).close()
    holder.kill()
    holder.wait()  # its child lives on
    with hold(folder):
        said = (tmp_path / "experiments/.run.lock").read_text()
    assert said == f"process {os.getpid()} on {socket.gethostname()}\n"
    assert not folder.exists()


def test_who_only_asks_is_told_and_takes_nothing(tmp_path, holder, monkeypatch):
    folder = tmp_path / "experiments/run"
    assert is_held(folder) and not is_held(folder.with_name("other"))
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert is_held(folder.relative_to(folder))  # the folder "."
    said = (tmp_path / "experiments/.run.lock").read_text()
    holder.kill()
    holder.wait()
    assert not is_held(folder) and (tmp_path / "experiments/.run.lock").read_text() == said


def test_it_is_free_again_when_the_file_is_closed(tmp_path):
    take = [sys.executable, "-c", HOLDER.partition("if os.fork")[0], str(tmp_path / "run")]
    with hold(tmp_path / "run"):
        refused = subprocess.run(take, capture_output=True, text=True)
        assert "RunDirInUseError" in refused.stderr
    subprocess.run(take, check=True)


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, caplog):
    def refuse(file, kind):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("mcir.engine.run_lock.fcntl.lockf", refuse)
    with caplog.at_level("WARNING", "mcir"):
        hold(tmp_path / "run").close()
    assert "no lock can be kept here" in caplog.text
