"""One process is the identity; two agree on values, on errors and on when to stop."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys

import pytest
import torch

from mcir.config.options import DistOptions
from mcir.engine.distributed import DistContext, StopRequest, init_distributed
from tests.engine.conftest import ROOT

CPU = torch.device("cpu")
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@pytest.fixture
def alone(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return DistContext(0, 1, CPU)


def test_alone_everything_is_the_identity(alone):
    network, value = torch.nn.Conv2d(1, 1, 1), torch.tensor([1.0, 2.0])
    assert alone.is_rank_zero
    assert alone.wrap(network) is network
    assert alone.mean(value) is value
    assert alone.gather({"a": 1}) == [{"a": 1}]
    alone.barrier()
    with alone.rank_zero_first():
        value += 1
    assert value.tolist() == [2.0, 3.0]


def test_alone_nothing_is_compared(alone):
    def refuse():
        raise AssertionError("computed for nothing")

    alone.require_equal("weights", refuse)


def test_joined_alone_starts_no_group(alone):
    with init_distributed(0, DistOptions()) as process:
        assert (process.rank, process.world_size, process.device) == (0, 1, CPU)
        assert not torch.distributed.is_initialized()


def test_more_processes_than_gpus_are_refused(monkeypatch):
    for name, value in zip(VARIABLES, ("1", "2", "1", "2"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    expected = r"2 processes were started here, but there are 1 GPUs.*num_gpu: cpu"
    with pytest.raises(ValueError, match=expected), init_distributed("auto", DistOptions()):
        pass
    assert not torch.distributed.is_initialized()


# -- signals ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stop(alone):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopRequest(alone) as stop:
        yield stop
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_leaves_the_loop_alone(stop, number):
    assert stop.agreed() == 0
    os.kill(os.getpid(), number)
    assert stop.agreed() == number
    assert stop.agreed() == number


@pytest.mark.parametrize(("second", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_leaves_at_once(stop, second, status):
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        os.kill(os.getpid(), second)
    assert caught.value.code == status


# -- two processes ----------------------------------------------------------------------------------------------------

WORK = """
import json, os, signal, sys, time
from pathlib import Path
import torch
from mcir.config.options import DistOptions
from mcir.engine.distributed import StopRequest, init_distributed

folder = Path(sys.argv[1])
torch.set_num_threads(1)
told = {}
with init_distributed(0, DistOptions(timeout_minutes=1)) as process:
    rank = process.rank
    value = torch.tensor([1.0, 10.0]) * (rank + 1)
    told["mean"] = process.mean(value).tolist()
    told["value_after"] = value.tolist()
    share = (torch.arange(2.0) + 10 * rank).requires_grad_()
    joint = process.concatenated(share)
    (joint * torch.arange(4.0) * (rank + 1)).sum().backward()
    told["concatenated"], told["gradient_of_share"] = joint.tolist(), share.grad.tolist()
    told["gathered"] = process.gather({"rank": rank, "text": "x" * (1 + 1000 * rank)})
    with process.rank_zero_first():
        if rank == 0:
            time.sleep(0.2)
            (folder / "download").write_text("done")
        told["found"] = (folder / "download").exists()
    process.require_equal("weights", lambda: 1.5)
    try:
        process.require_equal("weights", lambda: 1.25 + rank)
    except RuntimeError as error:
        told["different"] = str(error)
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(network.weight)
    wrapped = process.wrap(network)
    wrapped(torch.full((1, 1), 1.0 + rank)).sum().backward()
    told["gradient"] = network.weight.grad.item()
    with StopRequest(process) as stop:
        iteration = 0
        while not stop.number and iteration < 1000:
            iteration += 1
            if rank == 1 and iteration == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            stop.agreed()
    told["stopped"] = [stop.number, iteration]
told["left"] = not torch.distributed.is_initialized()
(folder / f"{rank}.json").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes saw."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = []
    for rank in ("0", "1"):
        environment = {**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", WORK, str(folder)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(subprocess.Popen(command, env=environment, **streams))
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_share_values(two):
    for rank, told in enumerate(two):
        assert told["mean"] == [1.5, 15.0]
        assert told["value_after"] == [1.0 * (rank + 1), 10.0 * (rank + 1)]  # mean does not change what it was given
        assert told["concatenated"] == [0, 1, 10, 11]
        assert told["gradient_of_share"] == [[0, 3], [6, 9]][rank]  # of both processes' sums
        assert told["gathered"] == [{"rank": 0, "text": "x"}, {"rank": 1, "text": "x" * 1001}]
        assert told["gradient"] == 1.5
        assert told["left"]


def test_the_first_goes_first(two):
    assert [told["found"] for told in two] == [True, True]


def test_a_difference_is_raised_in_both_with_both_checksums(two):
    expected = "The weights differ between the processes (checksums by rank: [1.25, 2.25])."
    assert [told["different"] for told in two] == [expected, expected]


def test_both_stop_at_the_same_iteration_by_the_signal_of_one(two):
    assert two[0]["stopped"] == two[1]["stopped"] == [15, 6]  # said in one iteration, heard in the next


def test_an_option_file_that_counts_on_gpus_is_told_what_it_gets(caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(logging.getLogger("mcir"), "propagate", True)
    for num_gpu, told in ((8, "no GPU here"), (0, ""), ("auto", "")):
        caplog.clear()
        with init_distributed(num_gpu, DistOptions()) as process:
            assert process.device.type == "cpu"
        assert told in caplog.text
        assert bool(caplog.text) == bool(told)
