"""The process pool."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from mcir.device import cpu_count
from mcir.tables.pool import run_parallel, worker_count
from tests.engine.conftest import ROOT


def location(number):
    return number, os.getpid(), torch.get_num_threads()


def failing(number):
    if number == 2:
        raise ValueError("the second")
    return number


def test_one_job_runs_in_this_process_and_in_order():
    assert list(run_parallel(location, [3, 1, 2], 1)) == [
        (number, os.getpid(), torch.get_num_threads()) for number in (3, 1, 2)
    ]


def test_several_jobs_run_in_other_processes_with_one_thread_each():
    done = list(run_parallel(location, [3, 1, 2], 2))
    assert sorted(number for number, _, _ in done) == [1, 2, 3]
    assert os.getpid() not in {process for _, process, _ in done}
    assert {threads for _, _, threads in done} == {1}


def test_an_error_in_a_worker_is_raised():
    with pytest.raises(ValueError, match="the second"):
        list(run_parallel(failing, [1, 2, 3], 2))


ENDLESS = """
import sys, time
from pathlib import Path
from mcir.tables.pool import run_parallel

def work(number):
    (Path(sys.argv[1]) / str(number)).touch()
    time.sleep(60)

if __name__ == "__main__":
    list(run_parallel(work, range(6), 2))
"""


def test_ctrl_c_starts_no_other_item(tmp_path):
    script, started = tmp_path / "endless.py", tmp_path / "started"
    script.write_text(ENDLESS)
    started.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(script), str(started)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while len(list(started.iterdir())) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    try:
        assert process.wait(30) == -signal.SIGINT
    finally:
        process.kill()
    assert {file.name for file in started.iterdir()} == {"0", "1"}


def test_the_default_number_of_jobs(monkeypatch):
    assert worker_count(3) == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert worker_count(None) == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert worker_count(None) == cpu_count()
    with pytest.raises(ValueError, match="--jobs: expected at least 1, got 0"):
        worker_count(0)
