"""Trainings that a table starts here: made, gone on with, and ended with the command that started them."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mcir.tables import training
from mcir.tables.plan import Settings, plan
from mcir.tables.reproduce import make
from mcir.weights import WeightsError
from tests.processes import CHANGES, PAUSING_LOSS, is_running, wait_until

ROOT = Path(__file__).parents[2]


def test_training_makes_what_is_missing_and_goes_on_with_what_was_begun(home, table, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    said = []
    assert make(table, Settings(train=True), said.append) == 0
    assert sum(" mcir.train " in text for text in said) == 2
    rows = json.loads(Path("results/table_tiny.json").read_text())["rows"]
    assert [row["sets"]["Two"]["psnr"]["trained_otherwise"] for row in rows] == [[], [], None]
    iterations = Path("experiments/spn_steps_1/results.jsonl").read_text().count('"val"')
    assert iterations == 2
    said.clear()
    settings = Settings(train=True, rows=["*SPN"], overrides=["train.total_iter=3"])
    assert make(table, settings, said.append) == 0
    assert sum(" mcir.train " in text for text in said) == 2
    lines = [json.loads(text) for text in Path("experiments/spn_steps_1/results.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in lines if record["kind"] == "val"] == [1, 2, 3]  # it went on from 2


def test_a_training_that_fails_is_told_and_the_others_are_made(home, table, monkeypatch):
    commands = []

    class Child:
        def __init__(self, command, stdin):
            commands.append(command)
            self.stdin = io.BytesIO()

        def wait(self):
            return 3

    monkeypatch.setattr(training.subprocess, "Popen", Child)
    said = []
    assert make(table, Settings(train=True, processes=2), said.append) == 1
    assert len(commands) > 1
    command = commands[0]
    assert command[1:3] == ["-m", "mcir.tables.held"]
    assert command[3:7] == ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    assert command[7:12] == ["-m", "mcir.train", "-opt", "options/sr/plain.yml", "--auto_resume"]
    assert "\n".join(said).count("ended with status 3, why is told above; it has no checkpoint") == len(commands)


def test_training_without_data_says_what_is_missing(home, table):
    (home / "pictures").rename(home / "moved")
    said = []
    assert make(table, Settings(train=True), said.append) == 1
    assert f"plain: cannot be trained, {home}/pictures missing" in said


def test_features_that_cannot_be_fetched_are_told_of_before_anything_is_trained(home, table, monkeypatch):
    def refuse(network):
        raise WeightsError(f"The ImageNet weights of {network} are not on this machine and cannot be fetched")

    monkeypatch.setattr(training, "imagenet_file", refuse)
    monkeypatch.setattr(training.subprocess, "Popen", lambda *_, **__: pytest.fail("trained"))
    said = []
    overrides = ["train.contrastive_opt.weights=imagenet"]
    jobs = plan(table, Settings(rows=["*SPN"], overrides=overrides))
    assert training.train(jobs[1:], Settings(train=True), said.append) is False
    assert said == [
        "plain + SPN: cannot be trained. The ImageNet weights of vgg16 are not on this machine and cannot be fetched"
    ]


COMMAND = """
import sys
from mcir.tables.paper import Table
from mcir.tables.plan import Settings
from mcir.tables.reproduce import make
from tests.tables.conftest import TABLE

make(Table(**TABLE), Settings(train=True, rows=["plain"], processes=int(sys.argv[1]), overrides=sys.argv[2:]))
"""


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_trainings_of_a_killed_command_save_and_end(home, processes):
    (home / "pausing.py").write_text(PAUSING_LOSS)
    (home / "hold").touch()
    command = [sys.executable, "-c", COMMAND, str(processes), *CHANGES, "logger.save_checkpoint_freq=100"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{home}"}
    with open("log", "w") as log:
        starter = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: all(Path(f"reached{rank}").exists() for rank in range(processes)))
        pids = [int(Path(f"reached{rank}").read_text()) for rank in range(processes)]
        refused = [sys.executable, "-m", "mcir.train", "-opt", "options/sr/plain.yml", "--auto_resume"]
        said = subprocess.run(refused, env=environment, capture_output=True, text=True)
        assert said.returncode == 1
        assert f"experiments/plain is in use by process {pids[0]} on " in said.stderr and "Traceback" not in said.stderr
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.wait()
    try:
        assert is_running(pids[0])
        (home / "hold").unlink()
        wait_until(lambda: not any(map(is_running, pids)))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(starter.pid, signal.SIGKILL)
    assert "Stopped by signal 15 after iteration" in Path("log").read_text()
    saved = [int(file.stem) for file in Path("experiments/plain/training_states").glob("*.state")]
    assert len(saved) == 1 and 2 <= saved[0] < 4
