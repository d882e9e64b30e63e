"""Tests of collective operations and devices in one process, and of these and of signals in two."""

import json
import logging
import os
import socket
import subprocess
import sys

import pytest
import torch

from mcir.config.options import DistOptions
from mcir.engine.distributed import DistContext, init_distributed
from tests.engine.conftest import ROOT

CPU = torch.device("cpu")
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@pytest.fixture
def single(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return DistContext(0, 1, CPU)


def test_operations_are_the_identity_in_one_process(single):
    network, value = torch.nn.Conv2d(1, 1, 1), torch.tensor([1.0, 2.0])
    assert single.is_rank_zero
    assert single.wrap(network) is network
    assert single.mean(value) is value
    assert single.gather({"a": 1}) == [{"a": 1}]
    single.barrier()
    with single.rank_zero_first():
        value += 1
    assert value.tolist() == [2.0, 3.0]


def test_nothing_is_compared_in_one_process(single):
    def refuse():
        raise AssertionError("computed without need")

    single.require_equal("weights", refuse)


def test_one_process_starts_no_group(single):
    with init_distributed(0, DistOptions()) as dist:
        assert (dist.rank, dist.world_size, dist.device) == (0, 1, CPU)
        assert not torch.distributed.is_initialized()


def test_more_processes_than_gpus_are_an_error(monkeypatch):
    for name, value in zip(VARIABLES, ("1", "2", "1", "2"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    expected = r"got 2 processes for 1 GPUs.*num_gpu: cpu"
    with pytest.raises(ValueError, match=expected), init_distributed("auto", DistOptions()):
        pass
    assert not torch.distributed.is_initialized()


# -- two processes ----------------------------------------------------------------------------------------------------

WORK = """
import json, os, signal, sys, time
from pathlib import Path
import torch
from mcir.config.options import DistOptions
from mcir.engine.distributed import init_distributed
from mcir.engine.stop import StopRequest

folder = Path(sys.argv[1])
torch.set_num_threads(1)
seen = {}
with init_distributed(0, DistOptions(timeout_minutes=1)) as dist:
    rank = dist.rank
    value = torch.tensor([1.0, 10.0]) * (rank + 1)
    seen["mean"] = dist.mean(value).tolist()
    seen["value_after"] = value.tolist()
    share = (torch.arange(2.0) + 10 * rank).requires_grad_()
    joint = dist.all_gather(share)
    (joint * torch.arange(4.0) * (rank + 1)).sum().backward()
    seen["all_gather"], seen["gradient_of_share"] = joint.tolist(), share.grad.tolist()
    seen["gathered"] = dist.gather({"rank": rank, "text": "x" * (1 + 1000 * rank)})
    with dist.rank_zero_first():
        if rank == 0:
            time.sleep(0.2)
            (folder / "download").write_text("done")
        seen["found"] = (folder / "download").exists()
    dist.require_equal("weights", lambda: 1.5)
    try:
        dist.require_equal("weights", lambda: 1.25 + rank)
    except RuntimeError as error:
        seen["different"] = str(error)
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(network.weight)
    wrapped = dist.wrap(network)
    wrapped(torch.full((1, 1), 1.0 + rank)).sum().backward()
    seen["gradient"] = network.weight.grad.item()
    with StopRequest(dist) as stop:
        iteration, requested = 0, [stop.is_requested()]
        while not stop.number and iteration < 1000:
            iteration += 1
            if rank == 1 and iteration == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            stop.agreed()
        if rank == 1:
            requested.append(stop.is_requested())
        dist.barrier()
        requested.append(stop.is_requested())
    seen["stopped"], seen["requested"] = [stop.number, iteration], requested
seen["left"] = not torch.distributed.is_initialized()
(folder / f"{rank}.json").write_text(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The results of two processes."""
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


def test_collective_operations_of_two_processes(two):
    for rank, seen in enumerate(two):
        assert seen["mean"] == [1.5, 15.0]
        assert seen["value_after"] == [1.0 * (rank + 1), 10.0 * (rank + 1)]  # mean does not change its argument
        assert seen["all_gather"] == [0, 1, 10, 11]
        assert seen["gradient_of_share"] == [[0, 3], [6, 9]][rank]  # of both processes' sums
        assert seen["gathered"] == [{"rank": 0, "text": "x"}, {"rank": 1, "text": "x" * 1001}]
        assert seen["gradient"] == 1.5
        assert seen["left"]


def test_rank_zero_runs_first(two):
    assert [seen["found"] for seen in two] == [True, True]


def test_a_difference_raises_an_error_in_both_processes(two):
    expected = "The weights differ between the processes (checksums by rank: [1.25, 2.25])."
    assert [seen["different"] for seen in two] == [expected, expected]


def test_a_signal_to_one_process_stops_both_at_the_same_iteration(two):
    assert two[0]["stopped"] == two[1]["stopped"] == [15, 6]  # sent in one iteration, received in the next


def test_every_process_can_see_that_another_one_received_a_signal(two):
    assert [seen["requested"] for seen in two] == [[False, True], [False, True, True]]


def test_a_missing_gpu_is_logged(caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(logging.getLogger("mcir"), "propagate", True)
    for num_gpu, warning in ((8, "no GPU is available"), (0, ""), ("auto", "")):
        caplog.clear()
        with init_distributed(num_gpu, DistOptions()) as dist:
            assert dist.device.type == "cpu"
        assert warning in caplog.text
        assert bool(caplog.text) == bool(warning)
