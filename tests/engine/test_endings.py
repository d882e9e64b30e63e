"""Tests of how trainings end: at NaN weights, after their last iteration, and when they are started once more."""

import json
import os
import re
import signal

import pytest
import torch

from mcir.engine.checkpoint import Checkpoints, NetworkFile, archive_run
from mcir.metrics import PSNR
from mcir.models import ContrastiveModel
from tests.engine.conftest import options
from tests.engine.test_runs import assert_same_state, state

TOTAL = 4


@pytest.fixture
def run(run):
    tree = options(run.folder, total_iter=TOTAL)
    tree["datasets"]["train"]["num_worker_per_gpu"] = 0
    tree["val"]["val_freq"], tree["logger"]["report"] = 2, False
    run.write(tree)
    return run


def at_iteration(monkeypatch, iteration, function):
    """Call a function of the model after the step of an iteration."""
    step = ContrastiveModel.after_step

    def after_step(self, output, batch, current):
        step(self, output, batch, current)
        if current == iteration:
            function(self)

    monkeypatch.setattr(ContrastiveModel, "after_step", after_step)


def poison(part):
    def function(model):
        list(getattr(model, part).parameters())[-1].data.view(-1)[0] = float("nan")

    return function


@pytest.mark.parametrize(
    ("part", "iteration", "name"),
    [
        ("network", TOTAL, "network_g.conv_last.bias"),
        ("network", 2, "network_g.conv_last.bias"),
        ("ema", TOTAL, "ema.network.conv_last.bias"),
        ("negative_source", TOTAL, "negatives.members.1.network.conv_last.bias"),
    ],
)
def test_nan_weights_are_never_saved_and_the_run_resumes_before_them(run, monkeypatch, part, iteration, name):
    with monkeypatch.context() as broken:
        at_iteration(broken, iteration, poison(part))
        output = run.train(status=1)
    assert f"Iteration {iteration}: NaN or infinite values of {name}" in output
    assert "with --auto_resume, the run resumes from its last checkpoint" in output
    assert "nan dB" not in output and "Traceback" not in output
    assert json.loads(run.path("collapse.json").read_text())["iteration"] == iteration
    good = list(range(2, iteration, 2))
    assert Checkpoints(run.path()).iterations() == good
    files = [file for file in run.path().rglob("*.pth") if file.stem != "net_g_best"]
    assert sorted(file.stem for file in files) == [f"net_g_{number}" for number in good]
    output = run.train("--auto_resume")
    assert ("from iteration 2 to" in output) == (good == [2])
    assert state(run, TOTAL)["iteration"] == TOTAL and not run.path("collapse.json").exists()


def test_a_state_of_nan_weights_is_passed_over(run):
    """Versions up to 0.1.0 saved them."""
    run.train()
    content = state(run, TOTAL)
    content["model"]["network_g"]["conv_last.bias"][0] = float("nan")
    del content["digests"]
    torch.save(content, run.path("training_states", f"{TOTAL}.state"))
    output = run.train("--auto_resume")
    assert f"{TOTAL}.state contains NaN or infinite values: network_g.conv_last.bias" in output
    assert "from iteration 2 to" in output


def test_results_that_are_not_numbers_fail_the_run(run, monkeypatch):
    monkeypatch.setattr(PSNR, "__call__", lambda self, output, gt: float("nan"))
    output = run.train(status=1)
    assert "The results are not numbers (NaN): psnr of val. Do not use this network." in output
    assert Checkpoints(run.path()).iterations() == [2, 4]


def test_a_finished_run_concludes_again(run):
    """The process may have been killed after the last checkpoint, before the table and the comparisons."""
    output = run.train()
    table = output[output.index("Validation images") : output.index("checkpoint:")]
    pictures = {file.name: file.read_bytes() for file in run.path("comparisons").rglob("*.png")}
    logged, saved = run.path("results.jsonl").read_bytes(), state(run, TOTAL)
    assert pictures
    for file in run.path("comparisons").rglob("*.png"):
        file.unlink()
    output = run.train("--auto_resume")
    assert "all iterations are done" in output and table in output
    assert {file.name: file.read_bytes() for file in run.path("comparisons").rglob("*.png")} == pictures
    assert run.path("results.jsonl").read_bytes() == logged
    assert_same_state(saved, state(run, TOTAL))


def test_a_signal_after_the_last_validation_does_not_change_the_end(run, monkeypatch):
    def after_evaluation(self, metrics):
        validations.append(metrics)
        if len(validations) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    validations = []
    monkeypatch.setattr(ContrastiveModel, "after_evaluation", after_evaluation)
    output = run.train()
    assert "Stopped" not in output and "Validation images" in output and f"net_g_{TOTAL}.pth" in output
    assert len(validations) == 2


def test_a_signal_while_a_finished_run_is_evaluated_again_stops_it(run, monkeypatch):
    run.train()
    measure, signals = PSNR.__call__, iter([signal.SIGTERM])

    def interrupted(self, output, gt):
        if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:  # not in the dry validation
            for number in signals:
                signal.raise_signal(number)
        return measure(self, output, gt)

    with monkeypatch.context() as changed:
        changed.setattr(PSNR, "__call__", interrupted)
        run.train("--auto_resume", status=143)
    assert "Validation images" in run.train("--auto_resume")


def test_a_run_beyond_its_end_has_nothing_left_to_do(run):
    run.train()

    def times():
        files = [file for file in run.path().rglob("*") if file.is_file() and file.name != "train.log"]
        return {file: file.stat().st_mtime_ns for file in files}

    before = times()
    output = run.train("--auto_resume", "--set", "train.total_iter=3")
    file = run.path("training_states", f"{TOTAL}.state")
    assert f"Nothing is left to do: {file} is the state of iteration 4, and train.total_iter is 3." in output
    assert "net_g_3" not in output
    assert times() == before


def test_options_override_the_state(run):
    run.train("--set", "train.total_iter=2")
    changes = ("train.optim_g.weight_decay=0.5", "train.optim_g.betas=[0.5, 0.9]", "train.optim_g.lr=0.1")
    output = run.train("--auto_resume", "--set", "train.total_iter=3", *changes)
    assert "with the saved weights, negatives and moments of the optimizer" in output
    assert "  train.optim_g.weight_decay: nothing → 0.5\n" in output and "not used" not in output
    decayed = state(run, 3)["model"]["network_g"]
    change = (decayed["conv_first.weight"] - state(run, 2)["model"]["network_g"]["conv_first.weight"]).abs()
    assert float(change.max()) > 0.02  # the rate was 0.001
    output = run.train("--auto_resume", "--set", "train.total_iter=4", "train.optim_g={type: SGD, lr: 0.001}")
    assert "The options have changed: the saved state of optimizer is not used and starts anew." in output
    assert state(run, 4)["model"]["optimizer"]["state"] == {}


def test_a_run_is_archived_under_a_name_that_is_free(tmp_path):
    for number in range(3):
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / f"{number}").touch()
        os.utime(folder, (0, 0))
        archive_run(folder)
    archived = sorted(path.name for path in tmp_path.iterdir())
    assert [re.sub(r"\d{8}_\d{6}", "TIME", name) for name in archived] == [
        "run_archived_TIME",
        "run_archived_TIME_2",
        "run_archived_TIME_3",
    ]
    assert [next((tmp_path / name).iterdir()).name for name in archived] == ["0", "1", "2"]


def test_files_of_removed_checkpoints_are_removed_by_the_next_save_or_resume(tmp_path):
    """They stay if a process is killed while it removes them, or before its state is complete."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    network = NetworkFile({"params": {"weight": torch.zeros(1)}}, "Net", {})
    for iteration in (10, 20, 30):
        checkpoints.save(iteration, {"model": {}}, network, is_best=True)
    checkpoints.wait()
    kept = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    left = ["models/net_g_5.pth", "models/net_g_10.safetensors", "models/net_g_25.pth", "training_states/5.state"]

    def leave():
        for name in (*left, ".options.yml.99999999", "models/net_g_notes.pth", "training_states/7.state.abandoned"):
            (tmp_path / name).write_bytes(b"x")

    leave()
    checkpoints.rewind_to(30)
    users = {"net_g_notes.pth", "7.state.abandoned"}
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == kept | users
    leave()
    checkpoints.save(30, {"model": {}}, network)
    checkpoints.wait()
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == kept | users | {".options.yml.99999999"}
