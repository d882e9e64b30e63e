"""Trainings as jobs: what is asked of Slurm, that nothing is asked twice, and a job that runs out of time."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from mcir.cli import main
from mcir.tables import reproduce as module
from mcir.tables.plan import Settings
from mcir.tables.slurm import Cluster, read_parameters
from tests.fake_cluster import FakeCluster
from tests.processes import CHANGES, PAUSING_LOSS, wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster(home, table, monkeypatch):
    """A cluster, and the tiny table in the place of the paper's Table 4."""
    cluster = FakeCluster(home / "cluster")
    monkeypatch.setenv("CLUSTER", str(cluster.home))
    monkeypatch.setenv("PATH", f"{cluster.home / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{home}")
    monkeypatch.setattr(module, "read_table", lambda name: table)
    monkeypatch.setattr(Cluster, "poll_seconds", 0.2)
    yield cluster
    cluster.close()


COMMAND = ["reproduce", "table4", "--train", "--launcher", "slurm"]


def flags(script):
    return {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}


def test_what_is_asked_for_and_that_it_is_asked_for_once(cluster, capsys):
    cluster.block()
    ask = ["--slurm", "partition=gpu", "time=90", "mem=32GB", "--nproc", "2", "--no-wait"]
    assert main([*COMMAND, *ask]) == 0
    told = capsys.readouterr().out
    assert "plain: job 100 for experiments/plain is submitted; its log: results/slurm/plain/100_0_log.out" in told
    assert "plain + SPN: job 101 for experiments/spn_steps_1 is submitted" in told
    assert not Path("results/table_tiny.json").exists()
    script = cluster.script(100)
    asked = flags(script)
    assert {"partition=gpu", "time=90", "mem=32GB", "nodes=1", "ntasks-per-node=2", "cpus-per-task=1"} <= asked
    assert {"requeue", "signal=USR2@300", "open-mode=append"} <= asked
    assert "--kill-on-bad-exit=1" in script and "gpus" not in script  # the option file asks for none
    assert cluster.jobs() == [100, 101]

    assert main([*COMMAND, *ask]) == 0
    assert "plain: job 100 for experiments/plain is in the queue already" in capsys.readouterr().out
    assert cluster.jobs() == [100, 101]
    cluster.end(100)
    assert main([*COMMAND, *ask, "--results", "elsewhere"]) == 0  # the experiments are the same ones
    told = capsys.readouterr().out
    assert "plain: job 102" in told and "job 101 for experiments/spn_steps_1 is in the queue already" in told
    assert flags(script) - flags(cluster.script(102)) == {f for f in asked if f.startswith(("output", "error"))}


def test_gpus_and_nodes(cluster, capsys):
    cluster.block()
    ask = ["--row", "plain", "--no-wait", "--set", "num_gpu=auto", "datasets.train.num_worker_per_gpu=6"]
    assert main([*COMMAND, *ask, "--nproc", "8", "--slurm", "nodes=2"]) == 0
    assert {"nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "cpus-per-task=7"} <= flags(cluster.script(100))
    cluster.end(100)
    assert main([*COMMAND, *ask, "--slurm", "gres=gpu:a100:1", "cpus_per_task=3"]) == 0
    assert {"gres=gpu:a100:1", "cpus-per-task=3"} <= flags(cluster.script(101))
    assert "gpus-per-node" not in cluster.script(101)
    capsys.readouterr()
    assert main([*COMMAND, *ask, "--nproc", "3", "--slurm", "nodes=2"]) == 1
    assert "--nproc 3 cannot be shared out evenly to 2 nodes" in capsys.readouterr().err


def test_what_cannot_be_trained_is_not_submitted(cluster, home, capsys):
    (home / "pictures").rename(home / "moved")
    assert main([*COMMAND, "--no-wait"]) == 1
    assert f"plain: cannot be trained, {home}/pictures missing" in capsys.readouterr().out
    assert cluster.jobs() == []


def test_jobs_that_end_early_are_told_and_a_busy_slurm_is_waited_for(cluster, capsys, monkeypatch):
    cluster.block()
    looked = []

    def sleep(seconds):
        looked.append(seconds)
        if len(looked) == 1:
            (cluster.home / "busy").touch()
        elif len(looked) == 2:
            cluster.end(100)

    monkeypatch.setattr("mcir.tables.slurm.time.sleep", sleep)
    assert main([*COMMAND, "--row", "plain"]) == 1
    told = capsys.readouterr().out
    assert "waiting for 1 job," in told and "Unable to contact slurm controller" in told
    assert "plain: job 100 has ended, not trained; its log: results/slurm/plain/100_0_log.out" in told
    assert Path("results/table_tiny.json").exists() and len(looked) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*COMMAND, "--slurm", "partitoin=gpu"], "Did you mean 'partition'? Keys are account, constraint"),
        ([*COMMAND, "--slurm", "time=1:30:00"], "--slurm time is a whole number, in minutes, not '1:30:00'"),
        ([*COMMAND, "--slurm", "partition"], "takes KEY=VALUE, not 'partition'"),
        ([*COMMAND, "--slurm", "partition=none"], "Slurm refuses the training of plain: sbatch: error: invalid part"),
        ([*COMMAND, "--nproc", "0"], "--nproc is at least 1"),
        (["reproduce", "table4", "--launcher", "slurm"], "give --train, too"),
        (["reproduce", "table4", "--train", "--no-wait"], "give --launcher slurm, too"),
        (["reproduce", "table4", "--train", "--slurm", "qos=low"], "give --launcher slurm, too"),
    ],
)
def test_mistakes_are_told(cluster, capsys, arguments, message):
    assert main(arguments) == 1
    assert message in capsys.readouterr().err and cluster.jobs() == []


def test_without_slurm_or_submitit_it_is_said_what_is_missing(cluster, capsys, monkeypatch):
    (cluster.home / "bin/srun").unlink()
    assert main(COMMAND) == 1
    assert 'Could not detect "srun"' in capsys.readouterr().err
    (cluster.home / "bin/squeue").unlink()
    assert main(COMMAND) == 1
    assert "there is no `squeue` here" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(COMMAND) == 1
    assert 'pip install -e ".[slurm]"' in capsys.readouterr().err


def test_every_parameter_is_one_that_submitit_knows(tmp_path, cluster):
    import submitit

    from mcir.tables.slurm import PARAMETERS

    values = {key: 1 if kind is int else "x" for key, kind in PARAMETERS.items()}
    assert read_parameters([f"{key}={value}" for key, value in values.items()]) == values
    submitit.SlurmExecutor(tmp_path / "logs").update_parameters(**values)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_job_whose_time_is_over_saves_and_goes_on_in_its_next_life(cluster, home, capsys, processes):
    (home / "pausing.py").write_text(PAUSING_LOSS)
    (home / "hold").touch()
    command = [
        *COMMAND,
        "--row",
        "plain",
        "--nproc",
        str(processes),
        "--set",
        *CHANGES,
        "logger.save_checkpoint_freq=100",
    ]
    assert main([*command, "--no-wait"]) == 0
    wait_until(lambda: all(Path(f"reached{rank}").exists() for rank in range(processes)))
    os.kill(int(Path("reached0").read_text()), signal.SIGUSR2)  # as clusters do that signal every process of a job
    cluster.warn(100)
    wait_until(lambda: "Calling checkpoint method" in Path("results/slurm/plain/100_0_log.out").read_text())
    (home / "hold").unlink()
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "job 100 for experiments/plain is in the queue already" in told
    assert "plain: job 100 has ended, trained: experiments/plain/models/net_g_4.pth" in told
    assert cluster.jobs() == [100]
    log = Path("results/slurm/plain/100_0_log.out").read_text()
    stopped = int(log.partition("Stopped by signal 15 after iteration ")[2].partition(";")[0])
    assert 2 <= stopped < 4 and f"from iteration {stopped} to iteration 4" in log
    cell = json.loads(Path("results/table_tiny.json").read_text())["rows"][0]["sets"]["Two"]["psnr"]
    assert cell["ours"] > 5


def test_settings_are_checked_in_code_too():
    with pytest.raises(ValueError, match="give --train, too"):
        Settings(launcher="slurm")
