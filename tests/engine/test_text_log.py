"""The text log of a training contains what it printed, with the time, and the error that ended it."""

import errno
import logging
import os
import re

import pytest

from mcir.engine import text_log as text_log_module
from mcir.engine.text_log import TextLog
from mcir.models import ContrastiveModel
from tests.engine.conftest import options

TIME = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  |^ {21}")


@pytest.fixture
def run(run):
    tree = options(run.folder, total_iter=2)
    tree["datasets"]["train"]["num_worker_per_gpu"] = 0
    tree["val"]["val_freq"], tree["logger"]["print_freq"], tree["logger"]["report"] = 2, 1, False
    run.write(tree)
    return run


def lines(run):
    text = run.path("train.log").read_text()
    assert all(TIME.match(line) for line in text.splitlines()), text
    return [line[21:] for line in text.splitlines()]


def test_it_contains_what_is_printed_and_is_continued_on_resume(run):
    handlers = [*logging.getLogger("mcir").handlers]
    printed = run.train().splitlines()
    logged = lines(run)
    assert "\x1b" not in "".join(logged)
    expected = [line for line in printed if not line.startswith("mcir: reading")]
    assert [line.removeprefix("WARNING: ") for line in logged] == expected
    assert any(line.startswith("2/2  l_pix ") for line in logged)  # complete
    printed = run.train("--auto_resume", "--set", "train.total_iter=3").splitlines()
    assert lines(run)[: len(logged)] == logged
    assert any(": resuming after iteration 2" in line for line in lines(run)[len(logged) :])
    assert f"WARNING: {printed[-1]}" in lines(run)
    assert logging.getLogger("mcir").handlers == handlers


def test_a_new_run_has_a_new_one(run):
    run.train()
    before = lines(run)
    run.train()
    (archived,) = run.path().parent.glob("tiny_archived_*/train.log")
    assert [line[21:] for line in archived.read_text().splitlines()] == before
    assert lines(run)[1].startswith("The folder of an earlier run")


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), OSError(errno.EIO, os.strerror(errno.EIO), "image.png")])
def test_it_contains_the_error_that_ends_the_training(run, monkeypatch, error):
    def after_step(self, output, batch, current):
        raise error

    monkeypatch.setattr(ContrastiveModel, "after_step", after_step)
    run.train(status=1)
    logged = "\n".join(lines(run))
    assert f"ERROR: {error}" in logged or f"ZeroDivisionError: {error}" in logged
    assert ("Traceback (most recent call last):" in logged) == isinstance(error, ZeroDivisionError)


def test_a_full_disk_does_not_end_the_training(run, monkeypatch):
    def full(file, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    monkeypatch.setattr(text_log_module, "append", full)
    output = run.train()
    assert output.count("train.log cannot be written") == 1
    assert "net_g_2.pth" in output and not run.path("train.log").exists()


def test_what_could_not_be_written_is_written_later(tmp_path):
    with TextLog() as log:
        log.write("early")
        (tmp_path / "train.log").mkdir()
        log.open(tmp_path)
        log.write("two\nlines")
        (tmp_path / "train.log").rmdir()
        log.retry()
    text = (tmp_path / "train.log").read_text()
    assert [line[21:] for line in text.splitlines() if "train.log" not in line] == ["early", "two", "lines"]


@pytest.mark.slow
def test_only_one_process_writes_it(run):
    run.train(processes=2)
    assert sum("2/2  l_pix" in line for line in lines(run)) == 1
