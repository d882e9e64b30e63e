"""Trainings started on this machine and as Slurm jobs."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from mcir.launch import SLURM_PARAMETERS, LaunchOptions, SlurmCluster, TrainingJob, launch, read_slurm_parameters, start
from tests.fake_cluster import FakeCluster
from tests.processes import CHANGES, PAUSING_LOSS, is_running, wait_until

ROOT = Path(__file__).parents[1]
TINY = {
    "name": "tiny",
    "scale": 2,
    "num_gpu": 0,
    "datasets": {
        "train": {
            "type": "PairedImageDataset",
            "dataroot_gt": "images",
            "degradation": {"type": "BicubicDown"},
            "gt_size": 16,
            "batch_size_per_gpu": 2,
        }
    },
    "model_type": "RestorationModel",
    "network_g": {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2},
    "train": {"total_iter": 2, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"}},
    "logger": {"print_freq": 1, "use_tb_logger": False, "report": False},
}
ARGUMENTS = ["-opt", "tiny.yml", "--auto_resume"]
PAUSE = ["--set", *CHANGES[:3], "logger.save_checkpoint_freq=100"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: an option file, two images, and a loss that pauses while the file ``hold`` exists."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")
    Path("images").mkdir()
    for number in range(2):
        image = np.random.default_rng(number).integers(0, 255, (24, 28, 3)).astype(np.uint8)
        cv2.imwrite(f"images/{number}.png", image)
    Path("tiny.yml").write_text(yaml.safe_dump(TINY))
    Path("pausing.py").write_text(PAUSING_LOSS)
    return tmp_path


@pytest.fixture
def cluster(folder, monkeypatch):
    """A fake Slurm cluster."""
    cluster = FakeCluster(folder / "cluster")
    monkeypatch.setenv("CLUSTER", str(cluster.home))
    monkeypatch.setenv("PATH", f"{cluster.home / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(SlurmCluster, "poll_seconds", 0.2)
    yield cluster
    cluster.close()


# -- on this machine --------------------------------------------------------------------------------------------------


def test_the_exit_status_is_that_of_the_training(folder):
    lines = []
    options = LaunchOptions("torchrun")
    assert start([TrainingJob.from_arguments(ARGUMENTS)], options, lines.append) == [0]
    assert Path("experiments/tiny/models/net_g_2.pth").is_file()
    other = TrainingJob.from_arguments([*ARGUMENTS, "--set", "datasets.train.gt_size=64", "name=other"])
    assert start([other], options, lines.append) == [1]
    assert "other: the training ended with status 1, see above; there is no checkpoint, so the same" in lines[-1]


def test_a_job_of_several_processes_is_one_command(folder, monkeypatch):
    commands = []

    class Child:
        def __init__(self, command, stdin):
            commands.append(command)

        def wait(self):
            return 0

    monkeypatch.setattr(subprocess, "Popen", Child)
    assert start([TrainingJob.from_arguments(ARGUMENTS)], LaunchOptions("torchrun", 2), print) == [0]
    child = [sys.executable, "-m", "mcir.launch", str(os.getpid()), "mcir.train"]
    assert commands == [[*child, *ARGUMENTS, "--nproc_per_node", "2"]]


COMMAND = """
import sys
from mcir.launch import LaunchOptions, TrainingJob, start
start([TrainingJob.from_arguments(sys.argv[2:])], LaunchOptions("torchrun", int(sys.argv[1])), print)
"""


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_training_saves_and_ends_when_its_parent_is_killed(folder, processes):
    Path("hold").touch()
    command = [sys.executable, "-c", COMMAND, str(processes), *ARGUMENTS, *PAUSE]
    with open("log", "w") as log:
        parent = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: all(Path(f"reached{rank}").exists() for rank in range(processes)))
        pids = [int(Path(f"reached{rank}").read_text()) for rank in range(processes)]
        refused = subprocess.run([sys.executable, "-m", "mcir.train", *ARGUMENTS], capture_output=True, text=True)
        assert refused.returncode == 1 and "experiments/tiny is in use by process" in refused.stderr
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    try:
        assert is_running(pids[0])
        Path("hold").unlink()
        wait_until(lambda: not any(map(is_running, pids)))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
    assert "Stopped by signal 15 after iteration" in Path("log").read_text()
    (saved,) = Path("experiments/tiny/training_states").glob("*.state")
    assert 2 <= int(saved.stem) < 4


# -- on a cluster -----------------------------------------------------------------------------------------------------


def submit(*arguments, nproc=1, nnodes=1, log=lambda text: None, wait=False, **slurm):
    return launch(LaunchOptions("slurm", nproc, nnodes, slurm, wait), [*ARGUMENTS, *arguments], log)


def flags(script):
    return {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}


def test_a_job_is_submitted_once_with_its_parameters(cluster):
    cluster.block()
    lines = []
    assert submit(nproc=2, log=lines.append, partition="gpu", time=90, mem="32GB") == 0
    assert lines == ["tiny: job 100 for experiments/tiny is submitted; its log: results/slurm/tiny/100_0_log.out"]
    script = cluster.script(100)
    expected = {"partition=gpu", "time=90", "mem=32GB", "nodes=1", "ntasks-per-node=2", "cpus-per-task=1"}
    assert expected | {"requeue", "signal=USR2@300", "open-mode=append"} <= flags(script)
    assert "--kill-on-bad-exit=1" in script and "gpus" not in script  # num_gpu is 0
    assert submit(log=lines.append) == 0
    assert lines[1] == "tiny: job 100 for experiments/tiny is already in the queue" and cluster.jobs() == [100]
    cluster.end(100)
    submit()
    assert cluster.jobs() == [100, 101]


def test_the_number_of_gpus_and_cpus_depends_on_the_number_of_processes(cluster):
    cluster.block()
    changes = ["--set", "num_gpu=auto", "datasets.train.num_worker_per_gpu=6"]
    submit(*changes, nproc=4, nnodes=2)
    assert {"nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "cpus-per-task=7"} <= flags(cluster.script(100))
    cluster.end(100)
    submit(*changes, gres="gpu:a100:1", cpus_per_task=3)
    assert {"gres=gpu:a100:1", "cpus-per-task=3"} <= flags(cluster.script(101))
    assert "gpus-per-node" not in cluster.script(101)


def test_waiting_reports_a_job_that_ends_early_and_tolerates_a_busy_controller(cluster, monkeypatch):
    cluster.block()
    actions = [(cluster.home / "busy").touch, lambda: cluster.end(100)]
    monkeypatch.setattr("mcir.launch.slurm.time.sleep", lambda seconds: actions.pop(0)())
    lines = []
    assert submit(log=lines.append, wait=True) == 1
    assert "waiting for 1 Slurm job(s)" in lines[1] and "Unable to contact slurm controller" in lines[2]
    assert lines[3].startswith("tiny: job 100 has ended, not trained; its log: results/slurm/tiny/100_0_log.out")
    assert actions == []


def test_waiting_reports_a_collapse_and_the_other_jobs_continue(cluster):
    jobs = [
        TrainingJob.from_arguments([*ARGUMENTS, "--set", f"name={name}", f"train.optim_g.lr={rate}"])
        for name, rate in (("wild", "1000"), ("tame", "1e-3"))
    ]
    lines = []
    assert start(jobs, LaunchOptions("slurm", slurm={"partition": "cpu"}), lines.append) == [1, 0]
    (end,) = [line for line in lines if line.startswith("wild: job 100 has ended")]
    assert end.startswith("wild: job 100 has ended, collapsed at iteration 2: NaN or infinite values of ")
    assert end.endswith("to train it again, change its options or remove experiments/wild.")
    assert json.loads(Path("experiments/wild/collapse.json").read_text())["iteration"] == 2


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_job_saves_before_its_time_limit_and_resumes_when_it_is_requeued(cluster, processes):
    Path("hold").touch()
    assert submit(*PAUSE, nproc=processes) == 0
    wait_until(lambda: all(Path(f"reached{rank}").exists() for rank in range(processes)))
    os.kill(int(Path("reached0").read_text()), signal.SIGUSR2)  # some clusters signal every process of a job
    cluster.warn(100)
    log = Path("results/slurm/tiny/100_0_log.out")
    wait_until(lambda: "Calling checkpoint method" in log.read_text())
    Path("hold").unlink()
    lines = []
    assert submit(*PAUSE, nproc=processes, log=lines.append, wait=True) == 0
    assert lines[-1] == "tiny: job 100 has ended, trained: experiments/tiny/models/net_g_4.pth"
    assert cluster.jobs() == [100]
    text = log.read_text()
    stopped = int(re.search(r"Stopped by signal 15 after iteration (\d+)", text)[1])
    assert 2 <= stopped < 4 and f"from iteration {stopped} to iteration 4" in text


def test_the_error_names_a_missing_command_or_package(cluster, monkeypatch):
    (cluster.home / "bin/srun").unlink()
    with pytest.raises(ValueError, match='Could not detect "srun"'):
        submit()
    (cluster.home / "bin/squeue").unlink()
    with pytest.raises(ValueError, match="there is no command `squeue`"):
        submit()
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match=r'requires submitit: pip install -e "\.\[slurm\]"'):
        submit()


def test_the_error_names_a_job_that_slurm_rejects(cluster):
    with pytest.raises(ValueError, match="Slurm rejects the job of tiny: sbatch: error: invalid partition"):
        submit(partition="none")


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["partitoin=gpu"], r"Did you mean 'partition'\? Keys: cpus_per_task, gpus_per_node"),
        (["time=1:30:00"], "--slurm time: expected a whole number of minutes, got '1:30:00'"),
        (["nodes=2"], "--slurm nodes=2: the number of machines is set with --nnodes"),
        (["partition"], "expected KEY=VALUE, got 'partition'"),
    ],
)
def test_invalid_slurm_parameters_are_errors(texts, message):
    with pytest.raises(ValueError, match=message):
        read_slurm_parameters(texts)


def test_every_slurm_parameter_is_known_to_submitit(tmp_path, cluster):
    import submitit

    values = {key: 1 if kind is int else "x" for key, kind in SLURM_PARAMETERS.items()}
    assert read_slurm_parameters([f"{key}={value}" for key, value in values.items()]) == values
    submitit.SlurmExecutor(tmp_path / "logs").update_parameters(**values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nproc_per_node": 0}, "--nproc_per_node: expected at least 1, got 0"),
        ({"launcher": "torchrun", "nnodes": 2}, "several machines require --rdzv_endpoint HOST:PORT, or --launcher"),
        ({"launcher": "slurm", "max_restarts": 1}, "do not apply to --launcher slurm"),
        ({"launcher": "torchrun", "wait": False}, "require --launcher slurm"),
        ({"launcher": "torchrun", "slurm": {"qos": "low"}}, "require --launcher slurm"),
    ],
)
def test_inconsistent_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        LaunchOptions(**options)


def test_the_progress_of_a_training_is_read_from_its_checkpoints(folder):
    job = TrainingJob.from_arguments(ARGUMENTS)
    assert (job.total, job.progress()) == (2, "not trained")
    assert job.next_start().endswith("starts from the beginning")
    models = Path("experiments/tiny/models")
    models.mkdir(parents=True)
    (models / "net_g_1.pth").touch()
    assert job.progress() == "trained to iteration 1 of 2"
    assert job.next_start() == "the same command resumes from the checkpoint of iteration 1"
    record = Path("experiments/tiny/collapse.json")
    record.write_text('{"iteration": 2, "scalars": ["l_pix"], "options": ""}')
    assert job.progress() == "collapsed at iteration 2: NaN or infinite values of l_pix"
    assert job.next_start() == "to train it again, change its options or remove experiments/tiny"
    (models / "net_g_2.pth").touch()
    assert job.progress() == f"trained: {models / 'net_g_2.pth'}"
