"""Tests of complete runs: killed, stopped by signals, resumed, with damaged files, and in several processes."""

import json
import re
import signal
import time

import pytest
import torch

from tests.engine.conftest import make_run, options


def state(run, iteration=12):
    return torch.load(run.path("training_states", f"{iteration}.state"), weights_only=True)


def tensors(tree, path=""):
    if isinstance(tree, torch.Tensor):
        yield path, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from tensors(value, f"{path}.{key}")
    elif isinstance(tree, list | tuple):
        for number, value in enumerate(tree):
            yield from tensors(value, f"{path}.{number}")


def assert_same_state(one, other):
    ours, theirs = dict(tensors(one["model"])), dict(tensors(other["model"]))
    assert ours.keys() == theirs.keys()
    assert any("negatives" in key for key in ours)
    assert any("ema" in key for key in ours)
    assert any("optimizer" in key for key in ours)
    different = [key for key in ours if not torch.equal(ours[key], theirs[key])]
    assert not different
    assert one["best"] == other["best"]


def wait_for(file, process, seconds=120):
    limit = time.monotonic() + seconds
    while not file.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < limit, f"{file} did not appear"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The state at the end of an uninterrupted run."""
    run = make_run(tmp_path_factory.mktemp("uninterrupted"))
    run.train()
    return state(run)


def test_a_run_logs_its_results(run):
    output = run.train()
    assert output.startswith("mcir: reading")
    for text in ("ContrastiveModel trains EDSR", "bicubic", "gain", "net_g_12.pth", "comparisons", "report.html"):
        assert text in output
    assert re.search(r"12/12 +l_pix \S+ +l_neg -\S+ +grad_norm \S+ +lr 0.001", output)
    lines = [json.loads(line) for line in run.path("results.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines if line["kind"] == "train"] == [3, 6, 9, 12]
    assert [line["iteration"] for line in lines if line["kind"] == "val"] == [6, 12]
    assert len(lines[-1]["images"]["psnr"]) == 4
    assert len(list(run.path("comparisons").rglob("*.png"))) == 1
    assert {file.name for file in run.path("progress", "val").glob("*/*")} == {"input.jpg", "gt.jpg", "6.jpg", "12.jpg"}
    assert "finished: 12 iterations" in run.path("report.html").read_text()
    kept = sorted(int(file.stem) for file in run.path("training_states").iterdir())
    assert kept == [4, 6, 8, 10, 12]  # the last five
    assert run.path("models", "net_g_best.pth").exists()


def test_a_run_starts_with_the_gradient_ratio(run):
    output = run.train("--set", "logger.print_freq=1", "train.total_iter=2")
    first = json.loads(run.path("results.jsonl").read_text().splitlines()[0])
    line = f"l_neg: its gradient at the output is {first['ratio_l_neg']:.3g} times that of l_pix (sound: 0.058 to 0.58)"
    assert output.count("its gradient at the output") == output.count(line) == 1
    assert output.index(line) < output.index("1/2  l_pix")
    assert line in run.train("--set", "logger.print_freq=2", "train.total_iter=2")
    assert "its gradient" not in run.train("--auto_resume", "--set", "train.total_iter=4")


def test_killed_and_resumed_equals_uninterrupted(run, uninterrupted):
    process = run.start("--set", "train.total_iter=100000")
    wait_for(run.path("training_states", "6.state"), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    later = [file for file in run.path("training_states").glob("*.state") if int(file.stem) > 6]
    for file in later:  # it may have trained for longer
        file.unlink()
    output = run.train("--auto_resume")
    assert "from iteration 6" in output
    assert_same_state(uninterrupted, state(run))
    logged = [json.loads(line) for line in run.path("results.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["iteration"]) for line in logged] == [
        ("train", 3), ("train", 6), ("val", 6), ("train", 9), ("train", 12), ("val", 12)
    ]  # fmt: skip


def test_a_resumed_network_draws_the_same_random_numbers(run):
    """Stochastic depth draws random numbers in the forward pass."""
    tree = options(run.folder)
    tree["network_g"] = {
        "type": "SwinIR",
        "img_size": 8,
        "window_size": 4,
        "embed_dim": 8,
        "depths": [4],
        "num_heads": [2],
        "upscale": 2,
        "upsampler": "pixelshuffledirect",
        "drop_path_rate": 0.5,
    }
    run.write(tree)
    run.train()
    whole = state(run)
    for file in run.path("training_states").glob("*.state"):
        if int(file.stem) > 6:
            file.unlink()
    run.train("--auto_resume")
    assert_same_state(whole, state(run))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_sets_the_exit_status(run, uninterrupted, number, status):
    process = run.start("--set", "train.total_iter=100000", "logger.save_checkpoint_freq=100000", "val.val_freq=100000")
    wait_for(run.path("results.jsonl"), process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    stopped_at = int(re.search(r"Stopped by signal \d+ after iteration (\d+)", output)[1])
    assert state(run, stopped_at)["iteration"] == stopped_at
    if stopped_at < 12:
        run.train("--auto_resume")
        assert_same_state({**uninterrupted, "best": state(run)["best"]}, state(run))


def test_damaged_states_are_skipped(run, uninterrupted):
    run.train()
    for iteration, damage in ((12, lambda data: data[: len(data) // 2]), (10, lambda data: b"")):
        file = run.path("training_states", f"{iteration}.state")
        file.write_bytes(damage(file.read_bytes()))
    output = run.train("--auto_resume")
    flat = " ".join(output.split())
    assert re.search(r"12\.state cannot be read: .*Trying the previous", flat)
    assert re.search(r"10\.state cannot be read: .*Trying the previous", flat)
    assert "from iteration 8" in flat
    assert_same_state(uninterrupted, state(run))


def test_a_new_run_renames_the_folder_of_the_old_one(run):
    run.train()
    output = run.train("--set", "train.total_iter=2")
    assert "earlier run with this name was renamed to" in output
    archived = [path for path in run.path().parent.iterdir() if "_archived_" in path.name]
    assert len(archived) == 1
    assert (archived[0] / "training_states" / "12.state").exists()
    assert [file.name for file in run.path("training_states").iterdir()] == ["2.state"]


@pytest.mark.parametrize("frequencies", [(), ("logger.print_freq=100", "val.val_freq=4")])
def test_a_nan_names_iteration_and_images_and_is_not_saved(run, frequencies):
    run.write(options(run.folder, optim_g={"type": "SGD", "lr": 1000}))
    output = run.train(
        "--set", "train.pixel_opt.loss_weight=1e9", "logger.save_checkpoint_freq=100", *frequencies, status=1
    )
    assert re.search(r"Iteration [23]: NaN or infinite values of .*l_pix", output)
    assert re.search(r"Images of the batch:\n +\S*[0-3]\.png", output)
    assert not list(run.path().glob("training_states/*"))


def test_users_mistakes_are_reported_in_one_line(run):
    output = run.train("--set", "network_g.num_feats=3", status=1)
    assert "Did you mean 'num_feat'" in output
    assert "Traceback" not in output
    assert "has no checkpoint. The training starts from the beginning." in run.train(
        "--auto_resume", "--set", "train.total_iter=1"
    )
    output = run.train("--set", "path.resume_state=nowhere.state", status=1)
    assert "nowhere.state: expected a training state, but the path does not exist" in output


def faulty(tree, fault):
    data = tree["datasets"]["train"]
    return {
        "layer": (tree["train"]["contrastive_opt"], {"layer_weights": {"relu9_9": 1.0}}),
        "period": (tree["train"], {"scheduler": {"type": "CosineAnnealingLR", "T_max": 0}}),
        "folder": (data, {"dataroot_gt": "nowhere"}),
        "crop": (data, {"gt_size": 15}),
    }[fault]


@pytest.mark.parametrize(
    ("fault", "line", "message", "processes"),
    [
        (
            "layer",
            "    layer_weights:",
            "train.contrastive_opt.layer_weights: vgg16 has no layer 'relu9_9'.",
            1,
        ),
        ("period", "    T_max: 0", "train.scheduler.T_max: expected an integer ≥ 1", 1),
        ("folder", "    dataroot_gt: nowhere", "datasets.train.dataroot_gt: nowhere: no such folder", 1),
        ("crop", "    gt_size: 15", "datasets.train.gt_size: expected", 1),
        ("crop", "    gt_size: 15", "datasets.train.gt_size: expected", 2),
    ],
)
def test_errors_of_constructors_name_file_and_line(run, fault, line, message, processes):
    tree = options(run.folder)
    section, change = faulty(tree, fault)
    section.update(change)
    run.write(tree)
    output = run.train(status=1, processes=processes)
    at = run.option_file.read_text().splitlines().index(line) + 1
    assert output.count(f"mcir: {run.option_file}:{at}: {message}") == 1
    assert "Traceback" not in output or processes > 1  # torchrun shows its own


def test_training_starts_from_pretrained_weights(run):
    run.train("--set", "train.total_iter=2")
    trained = run.folder / "trained.pth"
    run.path("models", "net_g_2.pth").rename(trained)
    basicsr_arguments = ("--force_yml", "train:total_iter=2", "train:optim_g:lr=1e-30", "--launcher", "pytorch")
    run.train("--set", f"path.pretrain_network_g={trained}", *basicsr_arguments)
    started_at = torch.load(trained, weights_only=True)["params_ema"]
    for name, value in torch.load(run.path("models", "net_g_2.pth"), weights_only=True)["params"].items():
        assert torch.equal(value, started_at[name])


def test_two_processes_give_the_weights_of_one(run):
    run.train()
    single = state(run)
    shares = ("datasets.train.batch_size_per_gpu=2", "train.accumulation_steps=2")
    output = run.train("--set", *shares, processes=2)
    assert "2 × cpu" in output
    together = state(run)
    ours, theirs = dict(tensors(single["model"])), dict(tensors(together["model"]))
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=2e-6, msg=key)
    assert single["best"] == pytest.approx(together["best"], abs=1e-3)


def test_two_processes_stop_together_at_a_signal(run):
    process = run.start("--set", "train.total_iter=100000", "datasets.train.batch_size_per_gpu=2", processes=2)
    wait_for(run.path("training_states", "4.state"), process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    stopped_at = int(re.search(r"Stopped by signal 15 after iteration (\d+)", output)[1])
    assert state(run, stopped_at)["iteration"] == stopped_at


FAILING = """
import os
import torch
from mcir.registry import LOSSES

@LOSSES.register()
class FailingLoss(torch.nn.Module):
    calls = 0

    def forward(self, output, gt):
        FailingLoss.calls += 1
        first_start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if first_start and os.environ["RANK"] == "1" and FailingLoss.calls == 5:
            raise RuntimeError("rank 1 fails")
        return (output - gt).abs().mean()
"""


def test_a_failing_rank_ends_the_run_and_a_restart_resumes(run):
    (run.folder / "failing.py").write_text(FAILING)
    tree = options(run.folder, pixel_opt={"type": "FailingLoss"})
    run.write({**tree, "imports": ["failing"]})
    environment = {"PYTHONPATH": f"{run.folder}:."}
    begin = time.monotonic()
    output = run.train(processes=2, environment=environment, status=1)
    assert time.monotonic() - begin < 60
    assert "rank 1 fails" in output
    assert re.search(r"rank +: 1", output)
    command = run.command(processes=2)
    at = command.index("--nproc_per_node")
    command[at:at] = ["--max_restarts", "1"]
    run.command = lambda *_, **__: command
    output = run.train(environment=environment)
    assert "from iteration 4" in output
    assert state(run)["iteration"] == 12


FAULTY = """
from mcir.losses import L1Loss
from mcir.registry import LOSSES

@LOSSES.register()
class FaultyLoss(L1Loss):
    def __init__(self) -> None:
        super().__init__()

    def forward(self, output, gt):
        height, width = output.shape
"""


def test_an_error_in_code_is_shown_with_its_traceback(run):
    (run.folder / "faulty.py").write_text(FAULTY)
    run.write({**options(run.folder, pixel_opt={"type": "FaultyLoss"}), "imports": ["faulty"]})
    output = run.train(environment={"PYTHONPATH": f"{run.folder}:."}, status=1)
    assert "height, width = output.shape" in output
    assert "too many values to unpack" in output


def test_auto_resume_prefers_the_checkpoints_of_the_run(run):
    run.train("--set", "train.total_iter=4")
    begin = run.folder / "begin.state"
    run.path("training_states", "2.state").rename(begin)
    resumed = ("--set", f"path.resume_state={begin}", "train.total_iter=6")
    output = run.train("--auto_resume", *resumed)
    assert "from iteration 4" in output
    assert "  train.total_iter: 4 → 6\n" in output  # changed options are logged
    assert "from iteration 2" in run.train(*resumed)
    assert run.path("training_states", "4.state").exists()


NORMED = """
import torch
from mcir.registry import ARCHS

@ARCHS.register()
class Normed(torch.nn.Module):
    scale = 2

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 12, 3, padding=1), torch.nn.PixelShuffle(2)
        )

    def forward(self, x):
        return self.body(x)
"""


def test_batch_norm_statistics_are_the_same_in_every_process(run):
    (run.folder / "normed.py").write_text(NORMED)
    tree = {**options(run.folder), "imports": ["normed"], "network_g": {"type": "Normed"}}
    tree["datasets"]["train"]["batch_size_per_gpu"] = 2
    run.write(tree)
    run.train(processes=2, environment={"PYTHONPATH": f"{run.folder}:."})  # each save compares the processes
    statistics = state(run)["model"]["negatives"]["members.0.network.body.0.running_mean"]
    assert float(statistics.abs().sum()) > 0


def test_sampled_and_stored_negatives_are_the_same_in_two_processes_and_after_resuming(run):
    """Their random numbers depend only on the seed and the iteration."""
    members = [
        {"type": "HistoryNegatives", "steps": [1, 2, 3], "sample": 2},
        {"type": "FrozenNegatives", "count": 2},
        {"type": "HardNegatives"},
        {"type": "ConsensusNegatives", "stored": True},
        {"type": "InputNegatives"},
    ]
    tree = options(run.folder, negatives={"type": "CombinedNegatives", "members": members})
    tree["datasets"]["train"]["dataroot_negatives"] = [str(run.folder / "pictures")] * 2
    run.write(tree)
    run.train()
    single = state(run)
    assert single["model"]["negatives"]["members.0.clock._extra_state"] == 13
    run.train("--set", "train.total_iter=6")
    run.train("--auto_resume")
    assert_same_state(single, state(run))
    run.train("--set", "datasets.train.batch_size_per_gpu=2", processes=2)
    ours, theirs = dict(tensors(single["model"])), dict(tensors(state(run)["model"]))
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=2e-6, msg=key)
