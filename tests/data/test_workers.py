"""Tests of the worker processes of loaders: they end with their parent, and report errors and missing shared memory."""

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import islice

import pytest
import torch
from torch.utils.data import Dataset

from mcir.data import workers
from mcir.data.errors import DataError
from mcir.data.loader import evaluation_loader, training_loader
from tests.processes import children_of, is_running, wait_until

BLOCKED = """
import os, sys, threading
import torch
from torch.utils.data import Dataset
from mcir.data.loader import training_loader

class Blocked(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, sample):
        lock = threading.Lock()
        lock.acquire()
        print(os.getpid(), flush=True)
        os.read(os.pipe()[0], 1) if sample.position % 2 else lock.acquire()

next(iter(training_loader(Blocked(), batch_size=1, num_workers=2, seed=0)))
"""


def test_blocked_workers_end_when_their_parent_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", BLOCKED], stdout=subprocess.PIPE, start_new_session=True)
    blocked = [int(parent.stdout.readline()) for _ in range(2)]
    assert sorted(blocked) == sorted(pid for pid in children_of(parent.pid) if pid in blocked)
    parent.kill()
    parent.communicate()
    wait_until(lambda: not any(map(is_running, blocked)), seconds=3)


class Numbers(Dataset):
    """Samples with the id of their process. The samples of later batches can do something else first."""

    def __init__(self, action=None, after=2):
        self.action, self.after = action, after

    def __len__(self):
        return 8

    def __getitem__(self, sample):
        position = getattr(sample, "position", sample)
        if self.action is not None and position >= self.after:
            self.action()
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        return {"gt": torch.full((3, 4, 4), position), "pid": os.getpid(), "handlers": handlers}


def test_workers_ignore_the_signals_that_their_parent_handles():
    (batch,) = islice(training_loader(Numbers(), batch_size=1, num_workers=1, seed=0), 1)
    assert batch["handlers"] == [[signal.SIG_IGN] * 3]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_worker_that_is_killed_is_an_error(number):
    """SIGKILL is what the kernel sends if the memory is full; SIGBUS if shared memory or a mapped file is missing."""
    handler = signal.getsignal(signal.SIGCHLD)
    batches = iter(training_loader(Numbers(lambda: os.kill(os.getpid(), number)), batch_size=1, num_workers=1, seed=0))
    with pytest.raises(DataError, match=rf"ended by {signal.Signals(number).name}.*--shm-size"):
        list(batches)
    assert signal.getsignal(signal.SIGCHLD) == handler  # so that it is an error between steps, never in a step


def test_workers_that_hang_are_killed_when_a_loop_ends_early():
    loader = training_loader(Numbers(lambda: threading.Event().wait()), batch_size=1, num_workers=2, seed=0)
    batches = iter(loader)
    pids = [next(batches)["pid"][0] for _ in range(2)]
    begin = time.monotonic()
    batches.close()
    del batches, loader
    assert not any(map(is_running, pids))
    assert time.monotonic() - begin < 4


def test_an_evaluation_can_follow_one_that_was_stopped():
    loader = evaluation_loader(Numbers(), num_workers=1)
    first = [int(batch["gt"].max()) for batch in islice(loader, 2)]
    assert (first, [int(batch["gt"].max()) for batch in loader]) == ([0, 1], list(range(8)))


def fail(self):
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")


def test_without_shared_memory_batches_are_the_same(monkeypatch, caplog):
    expected = [batch["gt"] for batch in evaluation_loader(Numbers())]
    monkeypatch.setattr(torch.Tensor, "share_memory_", fail)
    monkeypatch.setattr(workers, "_warned", False)
    monkeypatch.setattr(workers._LOG, "propagate", True)
    found = [batch["gt"] for batch in evaluation_loader(Numbers(), num_workers=2)]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert len(caplog.messages) == 1 and "/dev/shm" in caplog.text


SMALL = """
import torch
from tests.data.test_workers import Numbers
from mcir.data.loader import evaluation_loader

class Large(Numbers):
    def __getitem__(self, sample):
        return {"lq": torch.full((3, 1000, 1000), float(sample))}

print(*(int(batch["lq"].mean()) for batch in evaluation_loader(Large(), num_workers=2)))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system, as root")
def test_images_larger_than_the_shared_memory_are_loaded():
    script = f"mount -t tmpfs -o size=16m tmpfs /dev/shm && exec {sys.executable} -c '{SMALL}'"
    run = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=100)
    assert run.stdout.split() == [str(number) for number in range(8)], run.stderr


def test_missing_shared_memory_is_named(monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    with pytest.raises(DataError, match=r"cannot be started: .*No space left.*/dev/shm.*num_worker_per_gpu: 0"):
        next(iter(evaluation_loader(Numbers(), num_workers=1)))


class Faulty(Numbers):
    def __getitem__(self, sample):
        height, width = torch.zeros(1, 2, 3).shape
        return height, width


def test_a_bug_in_a_data_set_keeps_its_traceback():
    with pytest.raises(ValueError, match=r"height, width = torch\.zeros"):
        next(iter(training_loader(Faulty(), batch_size=1, num_workers=1, seed=0)))
