"""The examples of the documentation, run as in the documentation."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mcir.config import load
from mcir.registry import MODELS

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def in_clone(monkeypatch):
    """Run in the root folder of a clone, from which option files import ``examples.your_network``."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture
def loop(in_clone, monkeypatch):
    """Return the module of the loop, with the same network class as the option file."""
    monkeypatch.setitem(sys.modules, "your_network", importlib.import_module("examples.your_network"))
    yield importlib.import_module("spn_in_your_loop")
    sys.modules.pop("spn_in_your_loop")


def test_the_loop_runs_as_a_script():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(EXAMPLES / "spn_in_your_loop.py"), "--steps", "3", "--vgg", "random"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["iteration", str(number)] for number in (1, 2, 3)]
    assert all(float(line.split()[5]) < 0 for line in lines)  # l_neg includes its minus sign


def test_the_loop_trains_and_resumes_from_its_checkpoint(loop, tmp_path):
    whole = loop.train(8, "random")
    assert whole[-1]["l_pix"] < whole[0]["l_pix"]
    file = tmp_path / "state.pth"
    first = loop.train(5, "random", file)
    assert first + loop.train(8, "random", file) == whole
    state = torch.load(file, weights_only=True)
    assert len(state["negatives"]) > 4 * len(state["network"])


def test_the_option_file_trains_the_same_network(loop):
    options = load("examples/your_network_spn.yml")
    assert options.train.total_iter == 800
    model = MODELS.build(options.model_section())
    assert type(model.network) is loop.YourNetwork
    before = [value.clone() for value in model.network.parameters()]
    ((lq, gt),) = loop.batches(1)
    scalars = model.training_step({"lq": lq, "gt": gt}, iteration=1)
    assert scalars["l_neg"] < 0
    assert all((a != b).any() for a, b in zip(before, model.network.parameters(), strict=True))
