"""Whole trainings that are killed at any moment and resumed: their results equal those of an uninterrupted one."""

import json
import os
import random
import shutil
import signal
import sys
import threading
import time

import pytest

from mcir.engine.checkpoint import read_state
from mcir.train import main
from tests.engine.conftest import capture, make_run, options
from tests.trust.campaign import Campaign
from tests.trust.kills import Operations, content, run_in_child

SEED = 20261132
ATTEMPTS = 100

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked and killed")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("killed"))
    tree = options(run.folder, total_iter=6)
    tree["val"]["val_freq"], tree["logger"]["keep_checkpoints"], tree["logger"]["report"] = 3, 2, False
    tree["datasets"]["train"]["num_worker_per_gpu"] = 0
    run.write(tree)
    return run


def train(run):
    """Train in this process, and show the output if it fails."""
    output, status = capture(main, ["-opt", str(run.option_file), "--auto_resume"])
    if status:
        sys.stderr.write(output)
    return status


def results(run):
    """Return everything that must not depend on kills: files by digest, the state, and the logged iterations."""
    lines = [json.loads(line) for line in run.path("results.jsonl").read_text().splitlines()]
    logged = [(line["kind"], line["iteration"], line.get("psnr"), line.get("l_neg")) for line in lines]
    state = read_state(run.path("training_states", "6.state"))
    names = ("models", "training_states", "comparisons", "progress")
    return logged, state.digests, state.best_by, {name: content(run.path(name)) for name in names}


@pytest.fixture(scope="module")
def reference(run):
    """The results of an uninterrupted training, its operations on files, and its seconds."""
    run.train()  # imports what a training needs
    shutil.rmtree(run.path())
    names = run.folder / "names.json"

    def observed():
        operations = Operations(run.path())
        status = train(run)
        names.write_text(json.dumps(operations.names))
        return status

    begin = time.monotonic()
    assert run_in_child(observed) == 0
    return results(run), json.loads(names.read_text()), time.monotonic() - begin


def resumed(run, kills, expected):
    """Kill a training as each of the functions does, resume it, and return whether its results are right."""
    shutil.rmtree(run.path(), ignore_errors=True)

    def killed(kill):
        kill()
        return train(run)

    for kill in kills:
        status = run_in_child(lambda kill=kill: killed(kill))
        if status not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the training ended with status {status}")
    if status := run_in_child(lambda: train(run)):
        raise RuntimeError(f"the resumed training ended with status {status}")
    for archived in run.path().parent.glob("*_archived_*"):
        shutil.rmtree(archived)
    return results(run) == expected


def kill_after(seconds):
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


@pytest.mark.slow
def test_killed_at_operations_on_files(run, reference):
    expected, names, _ = reference
    campaign, choose = Campaign("trainings killed at operations on files", SEED, limit_s=120), random.Random(SEED)
    for moment in choose.sample(range(len(names)), ATTEMPTS):
        kills = [lambda moment=moment: Operations(run.path(), moment)]
        campaign.attempt(names[moment], lambda kills=kills: resumed(run, kills, expected))
    campaign.finish()


@pytest.mark.slow
def test_killed_at_random_times(run, reference):
    expected, _, duration = reference
    campaign, choose = Campaign("trainings killed at random times", SEED, limit_s=120), random.Random(SEED)
    for _ in range(ATTEMPTS):
        times = [choose.uniform(0, duration) for _ in range(choose.randint(1, 3))]
        kills = [lambda seconds=seconds: kill_after(seconds) for seconds in times]
        label = ", ".join(f"{seconds:.2f} s" for seconds in times)
        campaign.attempt(label, lambda kills=kills: resumed(run, kills, expected))
    campaign.finish()
