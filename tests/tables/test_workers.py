"""Work shared out over processes."""

import os

import pytest
import torch

from mcir.tables.workers import done_by, number_of


def where(number):
    return number, os.getpid(), torch.get_num_threads()


def failing(number):
    if number == 2:
        raise ValueError("the second")
    return number


def test_one_job_works_here_and_in_order():
    assert list(done_by(where, [3, 1, 2], 1)) == [
        (number, os.getpid(), torch.get_num_threads()) for number in (3, 1, 2)
    ]


def test_several_jobs_work_elsewhere_with_a_thread_each():
    done = list(done_by(where, [3, 1, 2], 2))
    assert sorted(number for number, _, _ in done) == [1, 2, 3]
    assert os.getpid() not in {process for _, process, _ in done}
    assert {threads for _, _, threads in done} == {1}


def test_what_fails_ends_the_work():
    with pytest.raises(ValueError, match="the second"):
        list(done_by(failing, [1, 2, 3], 2))


def test_how_many_jobs(monkeypatch):
    assert number_of(3) == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert number_of(None) == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert number_of(None) == len(os.sched_getaffinity(0))
    with pytest.raises(ValueError, match="--jobs is at least 1, not 0"):
        number_of(0)
