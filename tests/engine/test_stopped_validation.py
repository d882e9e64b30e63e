"""Tests of runs that are stopped or killed during a validation, and of their equality with uninterrupted runs."""

import json
import os
import signal

import pytest
import torch

from tests.engine.conftest import make_run, options
from tests.engine.test_runs import assert_same_state, state, wait_for

METRIC = """
import os, signal, time
from pathlib import Path
from mcir.metrics import PSNR
from mcir.registry import METRICS

@METRICS.register()
class WaitingPSNR(PSNR):
    '''PSNR that waits until a signal has reached a process of the run, if the variable WAIT names a folder.'''

    def __call__(self, output, gt):
        request = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)  # None in the dry validation
        if "WAIT" in os.environ and request is not None:
            with (Path(os.environ["WAIT"]) / f"calls_{os.environ.get('RANK', '0')}").open("a") as calls:
                calls.write(f"{os.getpid()}\\n")
            while not request.is_requested():
                time.sleep(0.01)
        return super().__call__(output, gt)
"""
TWO = ("--set", "datasets.train.batch_size_per_gpu=2")


def prepare(folder, **logger):
    """Return a run that validates and saves at iterations 6 and 12."""
    run = make_run(folder)
    (folder / "waiting.py").write_text(METRIC)
    tree = options(folder)
    tree["imports"] = ["waiting"]
    tree["val"]["metrics"] = {"psnr": {"type": "WaitingPSNR"}}
    tree["logger"].update({"save_checkpoint_freq": 6, **logger})
    run.write(tree)
    return run


def environment(run, **more):
    return {"PYTHONPATH": f"{run.folder}:.", **more}


def start(run, *arguments, processes=1):
    """Start a run and return its process as soon as it waits in its first validation."""
    process = run.start(*arguments, processes=processes, environment=environment(run, WAIT=str(run.folder)))
    for rank in range(processes):
        wait_for(run.folder / f"calls_{rank}", process)
    return process


def resume(run, *arguments, processes=1):
    return run.train("--auto_resume", *arguments, processes=processes, environment=environment(run))


def calls(run, rank=0):
    """The process id of each call of the metric."""
    return [int(line) for line in (run.folder / f"calls_{rank}").read_text().splitlines()]


def logged(run):
    """The logged values, without those that depend on the machine."""
    lines = [json.loads(line) for line in run.path("results.jsonl").read_text().splitlines()]
    varying = ("images_per_s", "data_time", "memory_mib", "crc32")
    return [{key: value for key, value in line.items() if key not in varying} for line in lines]


def assert_same_run(run, uninterrupted):
    """Check that weights, states, best networks, logs and pictures are equal."""
    for iteration in (6, 12):
        one, other = state(run, iteration), state(uninterrupted, iteration)
        assert_same_state(one, other)
        assert one["validated"] == other["validated"] == iteration
        assert one["best_by"] == other["best_by"] and list(one["best_by"]) == ["psnr"]
    best, other_best = (torch.load(part.path("models", "net_g_best.pth")) for part in (run, uninterrupted))
    assert all(torch.equal(best["params_ema"][name], value) for name, value in other_best["params_ema"].items())
    assert logged(run) == logged(uninterrupted)
    pictures, others = (
        {file.relative_to(part.folder): file.read_bytes() for file in part.path("progress").rglob("*.jpg")}
        for part in (run, uninterrupted)
    )
    assert pictures == others and pictures


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    run = prepare(tmp_path_factory.mktemp("uninterrupted"))
    run.train(environment=environment(run))
    return run


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_a_validation_after_the_current_image(tmp_path, uninterrupted, number, status):
    run = prepare(tmp_path)
    process = start(run)
    wait_for(run.path("training_states", "6.state"), process)  # saved before the validation
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    assert "iteration 6: the validation was stopped, and runs again on resume" in output
    assert f"Stopped by signal {number} after iteration 6. The checkpoint is saved." in output
    assert len(calls(run)) == 1  # the output of one image of four; the dry validation has measured its input
    assert state(run, 6)["validated"] == 0 and state(run, 6)["best"] is None
    assert {line["kind"] for line in logged(run)} == {"train"}
    assert not run.path("models", "net_g_best.pth").exists()
    assert "from iteration 6 to iteration 12" in resume(run)
    assert_same_run(run, uninterrupted)


def test_a_stopped_validation_saves_a_checkpoint_that_was_not_due(tmp_path, uninterrupted):
    run = prepare(tmp_path, save_checkpoint_freq=100)
    process = start(run)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert state(run, 6)["validated"] == 0
    resume(run)
    assert_same_run(run, uninterrupted)


def test_a_validation_that_was_killed_runs_again(tmp_path, uninterrupted):
    run = prepare(tmp_path)
    process = start(run)
    wait_for(run.path("training_states", "6.state"), process)
    process.kill()
    process.communicate()
    resume(run)
    assert_same_run(run, uninterrupted)


def test_two_processes_stop_a_validation_and_resume(tmp_path_factory):
    whole, run = prepare(tmp_path_factory.mktemp("whole")), prepare(tmp_path_factory.mktemp("stopped"))
    whole.train(*TWO, processes=2, environment=environment(whole))
    process = start(run, *TWO, processes=2)
    wait_for(run.path("training_states", "6.state"), process)
    process.send_signal(signal.SIGTERM)  # torchrun passes it on, and kills the processes after 30 seconds
    output, _ = process.communicate(timeout=60)
    assert "Stopped by signal 15 after iteration 6. The checkpoint is saved." in output
    assert (len(calls(run, 0)), len(calls(run, 1))) == (1, 2)  # one image of two
    resume(run, *TWO, processes=2)
    assert_same_run(run, whole)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_the_validation_of_all(tmp_path):
    run = prepare(tmp_path)
    process = start(run, *TWO, processes=2)
    os.kill(calls(run, 1)[0], signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output  # torchrun's status
    assert "Stopped by signal 15 after iteration 6. The checkpoint is saved." in output
    assert (len(calls(run, 0)), len(calls(run, 1))) == (1, 2)
    assert state(run, 6)["validated"] == 0
