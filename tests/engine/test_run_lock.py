"""The lock on the folder of a run: exclusive between processes, and released when its process ends."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from mcir.engine.run_lock import RunDirInUseError, is_locked, lock_run_dir

HOLDER = """
import os, sys, time
from pathlib import Path
from mcir.engine.run_lock import lock_run_dir
with lock_run_dir(Path(sys.argv[1])):
    if not hasattr(os, "fork") or not os.fork():  # only the child prints: it has closed the inherited file by then
        print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that has locked the folder ``run`` and has a forked child, as a training has data workers."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "experiments/run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    process.stdout.close()


def test_a_second_process_is_rejected_until_the_first_is_killed(tmp_path, holder):
    folder = tmp_path / "experiments/run"
    for _ in range(2):  # a rejected attempt changes nothing
        with (
            pytest.raises(RunDirInUseError, match=f"run is in use by process {holder.pid} on {socket.gethostname()}. "),
            lock_run_dir(folder),
        ):
            pass
    with lock_run_dir(folder.with_name("other")):
        pass
    holder.kill()
    holder.wait()  # its child still runs
    with lock_run_dir(folder), pytest.raises(RunDirInUseError, match=f"process {os.getpid()} on"), lock_run_dir(folder):
        pass
    assert not folder.exists()


def test_is_locked_is_true_while_the_process_runs(tmp_path, holder, monkeypatch):
    folder = tmp_path / "experiments/run"
    assert is_locked(folder) and not is_locked(folder.with_name("other"))
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert is_locked(folder.relative_to(folder))  # the folder "."
    holder.kill()
    holder.wait()
    assert not is_locked(folder)
    with lock_run_dir(folder):
        assert is_locked(folder)
    assert not is_locked(folder)


def test_the_lock_ends_with_its_context(tmp_path):
    take = [sys.executable, "-c", HOLDER.partition("    if not")[0] + "    pass", str(tmp_path / "run")]
    with lock_run_dir(tmp_path / "run"):
        refused = subprocess.run(take, capture_output=True, text=True)
        assert "RunDirInUseError" in refused.stderr
    subprocess.run(take, check=True)
