"""``mcir train`` in several processes: its messages, exit status and checkpoints, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.processes import is_running, wait_until
from tests.test_launch import folder  # noqa: F401 (a fixture)

ENDINGS = """
import os, signal
from pathlib import Path
from mcir.registry import LOSSES
from mcir.losses import L1Loss

@LOSSES.register()
class EndingLoss(L1Loss):
    calls = 0

    def __init__(self, how: str = "never") -> None:
        super().__init__()
        self.how = how

    def forward(self, output, gt):
        EndingLoss.calls += not output.is_meta
        if EndingLoss.calls == 4 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            Path("reached" + os.environ["RANK"]).write_text(str(os.getpid()))
            if os.environ["RANK"] == "1" and self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if os.environ["RANK"] == "1" and self.how == "crash":
                raise RuntimeError("rank 1 fails")
        return super().forward(output, gt)
"""


def command(*changes, how="never", arguments=()):
    Path("ending.py").write_text(ENDINGS)
    loss = ["imports=[ending]", f"train.pixel_opt={{type: EndingLoss, how: {how}}}"]
    train = [sys.executable, "-m", "mcir.cli", "train", "tiny.yml", "--nproc_per_node", "2", *arguments]
    return [*train, "--set", *loss, "logger.print_freq=1000000", *changes]


def finish(process):
    """Wait for a process, and return its exit status and output."""
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def start(words):
    environment = {**os.environ, "TMPDIR": str(Path.cwd())}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def test_a_users_error_is_reported_once(folder):  # noqa: F811
    status, output = finish(start(command("datasets.train.gt_size=64")))
    assert status == 1
    assert output.count("PairedImageDataset of images: 2 problems") == 1 and len(output.splitlines()) == 4, output


def test_an_error_in_the_options_is_reported_before_processes_are_started(folder):  # noqa: F811
    status, output = finish(start(command("network_g.num_feats=64")))
    assert status == 1
    assert "Did you mean 'num_feat'?" in output and len(output.splitlines()) == 1, output


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_saves_and_ends_with_the_command_that_continues(folder, number):  # noqa: F811
    words = command("train.total_iter=1000000")
    handler = "import signal, sys; signal.signal(2, signal.default_int_handler)"  # pytest may ignore SIGINT
    process = start([sys.executable, "-c", f"{handler}; from mcir.cli import main; sys.exit(main())", *words[3:]])
    wait_until(lambda: Path("reached0").exists() and Path("reached1").exists())
    process.send_signal(number)
    status, output = finish(process)
    assert status == 128 + number, output
    *_, stopped, continued = output.splitlines()
    assert stopped.startswith(f"Stopped by signal {int(number)} after iteration ")
    assert continued.startswith("Continue with: mcir train tiny.yml --auto_resume --nproc_per_node 2 --set ")
    assert "Traceback" not in output and "torch" not in output
    assert list(Path("experiments/tiny/training_states").glob("*.state"))
    assert not list(Path.cwd().glob("torchelastic*")) and not list(Path.cwd().glob("mcir-*"))


@pytest.mark.slow
def test_a_process_that_is_killed_is_named(folder):  # noqa: F811
    status, output = finish(start(command("train.total_iter=1000", how="kill")))
    assert status == 128 + signal.SIGKILL, output
    pid = Path("reached1").read_text()
    assert output.splitlines()[-1].startswith(f"mcir: process {pid} of rank 1 was ended by SIGKILL. ")
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_crash_is_shown_once_and_a_restart_resumes(folder):  # noqa: F811
    changes = ("train.total_iter=6", "logger.save_checkpoint_freq=1")
    status, output = finish(start(command(*changes, how="crash", arguments=["--max_restarts", "1"])))
    assert status == 0, output
    assert output.count("RuntimeError: rank 1 fails") == 1
    assert "from iteration 3 to iteration 6" in output
    assert Path("experiments/tiny/models/net_g_6.pth").is_file()


@pytest.mark.slow
def test_two_machines_train_together(folder):  # noqa: F811
    machines = ["--nnodes", "2", "--rdzv_endpoint", "localhost:29641"]
    both = [start(command("train.total_iter=4", arguments=machines)) for _ in range(2)]
    (first, text), (second, other) = map(finish, both)
    assert first == second == 0, text + other
    assert sum("on 4 × cpu" in output for output in (text, other)) == 1


@pytest.mark.slow
def test_processes_end_with_a_launcher_that_is_killed(folder):  # noqa: F811
    process = start(command("train.total_iter=1000000"))
    wait_until(lambda: Path("reached0").exists() and Path("reached1").exists())
    pids = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    process.kill()
    process.communicate()
    wait_until(lambda: not any(map(is_running, pids)))
