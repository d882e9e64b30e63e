"""Small models and batches."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from tests.engine.conftest import ROOT

NETWORK = {"type": "EDSR", "num_feat": 8, "num_block": 1, "upscale": 2, "img_range": 1.0}
SPN = {"type": "SPNLoss", "weights": "random", "layer_weights": {"relu1_1": 0.4, "relu1_2": 0.6}, "loss_weight": 0.05}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    gt = torch.rand(4, 3, 16, 16, generator=generator)
    lq = torch.nn.functional.avg_pool2d(gt, 2)
    names = [f"{number}.png" for number in range(4)]
    return {"lq": lq, "gt": gt, "lq_path": names, "gt_path": names}


def in_two_processes(code, folder):
    """Run Python code in two processes of one process group, with the folder as its argument."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in ("0", "1"):
        ranks = {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        environment = {**os.environ, **ranks, "PYTHONPATH": str(ROOT)}
        processes.append(subprocess.Popen([sys.executable, "-c", code, str(folder)], env=environment, cwd=ROOT))
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
