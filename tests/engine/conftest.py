"""Fixtures for tiny runs: four images of gradients and noise, a network with a thousand parameters, random features."""

import contextlib
import io
import logging
import os
import subprocess
import sys
import traceback
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from mcir.train import main

ROOT = Path(__file__).parents[2]


def options(folder, **train):
    pictures = str(folder / "pictures")
    data = {"type": "PairedImageDataset", "dataroot_gt": pictures, "degradation": {"type": "BicubicDown"}}
    return {
        "name": "tiny",
        "model_type": "ContrastiveModel",
        "scale": 2,
        "num_gpu": 0,
        "datasets": {
            "train": {
                **data,
                "gt_size": 16,
                "use_hflip": True,
                "use_rot": True,
                "batch_size_per_gpu": 4,
                "num_worker_per_gpu": 1,
            },
            "val": dict(data),
        },
        "network_g": {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2, "img_range": 1.0},
        "path": {"experiments_root": str(folder / "experiments")},
        "train": {
            "total_iter": 12,
            "ema_decay": 0.9,
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "pixel_opt": {"type": "L1Loss"},
            "contrastive_opt": {"type": "SPNLoss", "weights": "random", "layer_weights": {"relu1_1": 1.0}},
            "negatives": {"type": "HistoryNegatives", "steps": [1, 3]},
            **train,
        },
        "val": {"val_freq": 6, "pictures": 1, "metrics": {"psnr": {"type": "PSNR"}}},
        "logger": {"print_freq": 3, "save_checkpoint_freq": 2, "use_tb_logger": False},
    }


def capture(command, arguments):
    """Run a command in this process; return its output, with the log and a traceback if it fails, and its status."""
    output, logger = io.StringIO(), logging.getLogger("mcir")
    handlers, propagate = list(logger.handlers), logger.propagate
    logger.handlers.clear()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                status = command(arguments)
            except Exception:
                traceback.print_exc()
                status = 1
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate
    return output.getvalue(), status


class Run:
    """A tiny run: its folder, and methods that start it in this process, in another one, or in several."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.option_file = folder / "tiny.yml"
        self.write(options(folder))

    def write(self, tree) -> None:
        self.option_file.write_text(yaml.safe_dump(tree))

    def command(self, *arguments, processes=1):
        start = [sys.executable]
        if processes > 1:
            start += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "0"]
            start += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
        return [*start, str(ROOT / "mcir/train.py"), "-opt", str(self.option_file), *arguments]

    def start(self, *arguments, processes=1, environment=None):
        variables = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        return subprocess.Popen(
            self.command(*arguments, processes=processes),
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def train(self, *arguments, processes=1, environment=None, status=0):
        """Train and return the output; in this process, unless there are several or they need an environment."""
        if processes == 1 and environment is None:
            output, returned = capture(main, ["-opt", str(self.option_file), *arguments])
            assert returned == status, output
            return output
        process = self.start(*arguments, processes=processes, environment=environment)
        output, _ = process.communicate(timeout=180)
        assert process.returncode == status, output
        return output

    def path(self, *parts):
        return self.folder.joinpath("experiments", "tiny", *parts)


def make_run(folder):
    pictures = folder / "pictures"
    pictures.mkdir()
    generator = np.random.default_rng(0)
    for number in range(4):
        gradient = np.linspace(0, 200, 24)[:, None, None] * np.ones((24, 28, 3))
        noise = generator.integers(0, 56, (24, 28, 3))
        cv2.imwrite(str(pictures / f"{number}.png"), (gradient + noise).astype(np.uint8))
    return Run(folder)


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)
