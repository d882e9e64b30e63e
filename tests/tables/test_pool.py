"""The process pool."""

import os

import pytest
import torch

from mcir.device import cpu_count
from mcir.tables.pool import run_parallel, worker_count


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


def test_the_default_number_of_jobs(monkeypatch):
    assert worker_count(3) == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert worker_count(None) == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert worker_count(None) == cpu_count()
    with pytest.raises(ValueError, match="--jobs: expected at least 1, got 0"):
        worker_count(0)
