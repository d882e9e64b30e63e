"""Tests of runs that end early: what was trained is saved, nothing hangs, and the message is clear."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mcir.data.sampler import EndlessBatches
from tests.engine.conftest import options
from tests.engine.test_runs import assert_same_state, state, wait_for
from tests.processes import is_running, wait_until

ALONE = ("datasets.train.batch_size_per_gpu=1", "logger.save_checkpoint_freq=1000", "val.val_freq=1000")
MODULE = """
import os, time
from pathlib import Path

from mcir.data import PairedImageDataset
from mcir.losses import L1Loss
from mcir.metrics import PSNR
from mcir.registry import DATASETS, LOSSES, METRICS

RANK = os.environ.get("RANK", "0")


def hang(name):
    Path(os.environ["HOME"], name + RANK).write_text(str(os.getpid()))
    os.read(os.pipe()[0], 1)


@DATASETS.register()
class HangingImages(PairedImageDataset):
    '''Images of which the 13th never comes.'''

    def __getitem__(self, sample):
        if sample.position >= 12:
            hang("loads")
        return super().__getitem__(sample)


@LOSSES.register()
class HangingLoss(L1Loss):
    '''A loss that never ends in the third iteration of the last process.'''

    calls = 0

    def __init__(self) -> None:
        super().__init__()

    def forward(self, output, gt):
        HangingLoss.calls += not output.is_meta
        if HangingLoss.calls == 3 and int(RANK) == int(os.environ.get("WORLD_SIZE", "1")) - 1:
            hang("computes")
        return super().forward(output, gt)


@LOSSES.register()
class FailingLoss(L1Loss):
    '''A loss that fails in the fourth iteration.'''

    calls = 0

    def __init__(self) -> None:
        super().__init__()

    def forward(self, output, gt):
        FailingLoss.calls += not output.is_meta
        if FailingLoss.calls == 4:
            raise RuntimeError("the loss fails")
        return super().forward(output, gt)


@METRICS.register()
class FailingPSNR(PSNR):
    '''A metric that fails in the last process after the second value, and takes long in the others.'''

    calls = 0

    def __call__(self, output, gt):
        FailingPSNR.calls += 1
        if FailingPSNR.calls > 2:
            if int(RANK) == int(os.environ.get("WORLD_SIZE", "1")) - 1:
                raise RuntimeError("the metric fails")
            time.sleep(1)
        return super().__call__(output, gt)
"""


@pytest.fixture
def faulty(run):
    (run.folder / "faulty.py").write_text(MODULE)
    run.write({**options(run.folder), "imports": ["faulty"]})
    run.environment = {"PYTHONPATH": f"{run.folder}:.", "HOME": str(run.folder)}
    return run


def saved(run):
    return sorted(int(file.stem) for file in run.path("training_states").glob("*.state"))


def damage(run, position, batch_size=1, processes=1):
    """Damage the pixels, not the header, of the image that is first used in a position of the training."""
    images = len(list((run.folder / "pictures").iterdir()))
    batches = [
        iter(EndlessBatches(images, batch_size, 0, rank=rank, world_size=processes, start=0, offset=0))
        for rank in range(processes)
    ]
    order = [int(sample) for _ in range(images) for part in batches for sample in next(part)]
    first = {order.index(image): image for image in range(images)}
    file = run.folder / "pictures" / f"{first[position]}.png"
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    file.write_bytes(data)
    tree = options(run.folder)
    del tree["datasets"]["val"]  # it has the same images
    run.write(tree)
    return file


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_damaged_is_named_in_one_line_after_saving(run, workers):
    file = damage(run, position=2)
    arguments = (*ALONE, f"datasets.train.num_worker_per_gpu={workers}")
    output = run.train("--set", *arguments, status=1)
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if str(file) in line]
    assert line.startswith("mcir: ")
    assert "The training fails after iteration 2. The checkpoint is saved." in output
    assert saved(run) == [2]


@pytest.mark.slow
def test_a_saved_failure_resumes_like_an_uninterrupted_run(run):
    pictures = {file: file.read_bytes() for file in (run.folder / "pictures").iterdir()}
    damage(run, position=3)
    run.train("--set", *ALONE, status=1)
    for file, data in pictures.items():
        file.write_bytes(data)
    run.train("--auto_resume", "--set", *ALONE)
    resumed = state(run)
    run.train("--set", *ALONE)
    assert_same_state(resumed, state(run))


def test_a_step_that_fails_saves_the_steps_before_it(faulty):
    faulty.write({**options(faulty.folder, pixel_opt={"type": "FailingLoss"}), "imports": ["faulty"]})
    output = faulty.train("--set", *ALONE, environment=faulty.environment, status=1)
    assert "RuntimeError: the loss fails" in output  # maybe a bug, so with its traceback
    assert saved(faulty) == [3]


@pytest.mark.slow
@pytest.mark.parametrize(("images", "position", "iteration"), [(4, 3, 1), (10, 9, 4)])
def test_two_processes_stop_together_if_one_cannot_load_an_image(run, images, position, iteration):
    pictures = run.folder / "pictures"
    for number in range(4, images):
        shutil.copy(pictures / f"{number % 4}.png", pictures / f"{number}.png")
    file = damage(run, position, processes=2)
    begin = time.monotonic()
    output = run.train("--set", *ALONE, processes=2, status=1)
    assert time.monotonic() - begin < 60
    assert len([line for line in output.splitlines() if line.startswith("mcir: ") and str(file) in line]) == 1
    assert "RuntimeError" not in output and "Connection" not in output
    assert saved(run) == [iteration]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_validation_that_fails_saves_and_ends_all_processes(faulty, processes):
    tree = {**options(faulty.folder), "imports": ["faulty"]}
    tree["val"] |= {"metrics": {"psnr": {"type": "FailingPSNR"}}, "val_freq": 3}
    tree["logger"]["save_checkpoint_freq"] = 1000
    tree["datasets"]["train"]["batch_size_per_gpu"] = 2
    faulty.write(tree)
    output = faulty.train(processes=processes, environment=faulty.environment, status=1)
    lines = re.findall(r"^(?:\[rank1\]: )?RuntimeError: the metric fails", output, re.M)
    assert len(lines) == 1  # torchrun indents its summary
    assert saved(faulty) == [3]


def stopped(process, number, seconds):
    """Send a signal, and return the output if the process ends in time."""
    begin = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - begin < seconds, output
    return output


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow)],
)
def test_a_signal_ends_a_run_whose_data_never_come(faulty, number, status):
    tree = {**options(faulty.folder), "imports": ["faulty"]}
    tree["datasets"]["train"]["type"] = "HangingImages"
    faulty.write(tree)
    process = faulty.start("--set", *ALONE[1:], environment=faulty.environment)
    wait_for(faulty.folder / "loads0", process)
    wait_for(faulty.path("results.jsonl"), process)  # logs iteration 3
    (worker,) = psutil.Process(process.pid).children()
    output = stopped(process, number, seconds=10)
    assert process.returncode == status, output
    assert f"Stopped by signal {number:d} after iteration 3. The checkpoint is saved." in output
    assert "Traceback" not in output
    assert saved(faulty) == [3]
    assert not is_running(worker.pid)


@pytest.mark.slow
def test_a_signal_ends_two_processes_whose_data_never_come(faulty):
    tree = {**options(faulty.folder), "imports": ["faulty"]}
    tree["datasets"]["train"] |= {"type": "HangingImages", "batch_size_per_gpu": 1}
    faulty.write(tree)
    process = faulty.start("--set", *ALONE[1:], environment=faulty.environment, processes=2)
    for rank in range(2):
        wait_for(faulty.folder / f"loads{rank}", process)
    wait_for(faulty.path("results.jsonl"), process)
    output = stopped(process, signal.SIGTERM, seconds=20)
    assert re.search(r"Stopped by signal 15 after iteration \d\. The checkpoint is saved\.", output), output
    assert saved(faulty)[-1] >= 3


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_ends_a_step_that_never_ends(faulty, processes):
    tree = options(faulty.folder, pixel_opt={"type": "HangingLoss"})
    tree["datasets"]["train"]["batch_size_per_gpu"] = 2
    faulty.write({**tree, "imports": ["faulty"]})
    process = faulty.start("--set", *ALONE[1:], environment=faulty.environment, processes=processes)
    wait_for(faulty.folder / f"computes{processes - 1}", process)
    output = stopped(process, signal.SIGTERM, seconds=15)
    assert "no iteration was finished within 8 s of signal 15" in output
    assert process.returncode != 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_two_processes_end_when_torchrun_is_killed(faulty):
    arguments = ("train.total_iter=1000000", "datasets.train.batch_size_per_gpu=2")
    process = faulty.start("--set", *arguments, environment=faulty.environment, processes=2)
    wait_for(faulty.path("results.jsonl"), process)
    ranks = [child.pid for child in psutil.Process(process.pid).children()]
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, ranks)), seconds=30)
    output, _ = process.communicate()
    assert "Stopped by signal 15" in output


# -- outputs that cannot be written -----------------------------------------------------------------------------------


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_for_every_log_costs_no_iteration(run, monkeypatch):
    outputs = {
        "mcir.checked_json.append": "results.jsonl",
        "mcir.engine.event_file.append": "The TensorBoard log",
        "mcir.engine.environment.write_atomically": "The record of this start",
        "mcir.report.progress.cv2.imencode": "An image of the validation",
        "mcir.engine.conclusion.write_report": "The report or a comparison",
    }
    for function in outputs:
        monkeypatch.setattr(function, full)
    output = run.train("--set", "logger.use_tb_logger=true", "val.save_img=true", "logger.print_freq=1")
    for name in outputs.values():
        assert output.count(f"{name} cannot be written ([Errno 28] No space left on device)") == 1
    assert "Traceback" not in output
    assert saved(run)[-1] == 12


def test_a_validation_image_that_cannot_be_written_costs_no_iteration(run):
    run.train("--set", "train.total_iter=2")
    run.path("visualization").write_text("a file in the place of the folder")
    output = run.train("--auto_resume", "--set", "train.total_iter=6", "val.save_img=true")
    assert output.count("An image of the validation cannot be written") == 1
    assert saved(run)[-1] == 6


def test_a_checkpoint_that_cannot_be_written_ends_the_training(run, monkeypatch):
    monkeypatch.setattr("mcir.engine.checkpoint.torch.save", full)
    output = run.train(status=1)
    assert "mcir: A checkpoint could not be written" in output


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_terminal_that_cannot_be_written_costs_no_iteration(run):
    with open("/dev/full", "w") as terminal:
        subprocess.run(run.command(), stdout=terminal, stderr=subprocess.PIPE, timeout=100, env={**os.environ})
    assert saved(run)[-1] == 12


@pytest.mark.slow
def test_a_reader_that_ends_costs_no_iteration(run):
    process = run.start()
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=100) in (0, 120)  # 120: Python could not write what it had stored
    assert saved(run)[-1] == 12


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system, as root")
def test_a_full_disk_costs_no_iteration(run):
    root, results = run.path().parent, run.path("results.jsonl")
    root.mkdir()
    fill = f"while [ ! -s {results} ]; do sleep 0.1; done; dd if=/dev/zero of={root}/fill bs=1k 2> /dev/null"
    script = f'mount -t tmpfs -o size=4m tmpfs {root} && {{ ({fill}) & }} && "$@"'
    rare = ("logger.save_checkpoint_freq=1000", "val.val_freq=1000", "train.total_iter=300", "logger.print_freq=1")
    command = ["unshare", "-m", "sh", "-c", script, "sh", *run.command("--set", *rare, "logger.report=false")]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.stderr.count("results.jsonl cannot be written ([Errno 28] No space left on device") == 1
    assert "300/300" in process.stdout
    assert "mcir: A checkpoint could not be written" in process.stderr  # only this ends a training
