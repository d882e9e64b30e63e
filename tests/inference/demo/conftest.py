"""A demo with two small networks in a separate process."""

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from mcir.registry import ARCHS


class Server(NamedTuple):
    address: str
    process: subprocess.Popen
    folder: Path


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Two untrained networks, ×2 and ×1."""
    folder = tmp_path_factory.mktemp("checkpoints")
    files = {}
    for name, scale in (("double", 2), ("same", 1)):
        torch.manual_seed(scale)
        network = ARCHS.build({"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": scale, "img_range": 1.0})
        files[name] = folder / f"{name}.pth"
        torch.save({"params": network.state_dict()}, files[name])
    return files


@contextlib.contextmanager
def serving(checkpoints, folder, *options, program=("-m", "mcir.cli")):
    """Run ``mcir demo`` in a process; at the end, stop it as Ctrl-C does, and check that its files are deleted."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip('Gradio is not installed: pip install -e ".[demo]"')
    command = [sys.executable, *program, "demo", *map(str, checkpoints.values()), *options]
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"GRADIO_ALLOWED_PATHS": "/", "GRADIO_SHARE": "True", "GRADIO_ANALYTICS_ENABLED": "True"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=folder
    )
    with process:
        try:
            lines, address = [], None
            while address is None and (line := process.stdout.readline()):
                lines.append(line)
                address = re.search(r"http://\S+", line)
            assert address, "".join(lines)
            yield Server(address[0], process, folder)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
            assert not [*folder.glob("mcir-demo-*")]
        finally:
            process.kill()


@pytest.fixture(scope="session")
def server(checkpoints, tmp_path_factory):
    """A demo with limits of 0.1 megapixels and half a megabyte per file."""
    folder = tmp_path_factory.mktemp("demo")
    with serving(checkpoints, folder, "--max-megapixels", "0.1", "--max-size", "0.5") as running:
        yield running
