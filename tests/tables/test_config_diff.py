"""The comparison of the options of a training with those of a row."""

from pathlib import Path

import pytest
import torch

from mcir.config import load
from mcir.tables.config_diff import training_differences


def options(*overrides):
    return load("options/sr/spn.yml", ["sweep=steps_1", *overrides])


@pytest.fixture
def state(home):
    """A function that writes the training state of a training with other options."""

    def write(*overrides):
        content = {"format": 1, "iteration": 2, "model": {}, "options": options(*overrides).dump()}
        torch.save(content, home / "2.state")
        return home / "2.state"

    return write


def test_options_without_effect_on_the_weights_are_not_compared(state):
    assert training_differences(state(), options()) == []
    others = ["num_gpu=auto", "logger.print_freq=9", "val.val_freq=2", "path.results_root=x", "name=other"]
    assert training_differences(state(*others, "datasets.train.num_worker_per_gpu=3"), options()) == []


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("manual_seed=5", "manual_seed 5 instead of 0"),
        ("train.total_iter=3", "train.total_iter 3 instead of 2"),
        ("network_g.num_feat=6", "network_g.num_feat 6 instead of 4"),
        ("datasets.train.gt_size=8", "datasets.train.gt_size 8 instead of 16"),
        ("path.pretrain_network_g=a.pth", "path.pretrain_network_g a.pth instead of null"),
        ("train.negatives.steps=[1,2]", "train.negatives.steps [1, 2] instead of [1]"),
        ("train.negatives.weight=0.5", "train.negatives.weight 0.5 instead of nothing"),
    ],
)
def test_every_option_that_weights_depend_on_is_compared(state, override, line):
    assert training_differences(state(override), options()) == [line]
    if line.endswith("nothing"):
        assert training_differences(state(), options(override)) == ["train.negatives.weight nothing instead of 0.5"]


def test_a_missing_or_damaged_state_has_no_differences(state, home):
    assert training_differences(Path("nowhere.state"), options()) is None
    file = state()
    file.write_bytes(file.read_bytes()[:200])
    assert training_differences(file, options()) is None
    torch.save({"format": 1}, file)
    assert training_differences(file, options()) is None
    data = state().read_bytes()
    file.write_bytes(data.replace(b"total_iter: 2", b"total_iter: 3"))
    assert file.read_bytes() != data
    assert training_differences(file, options()) is None
