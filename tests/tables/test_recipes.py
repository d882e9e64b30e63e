"""How a checkpoint was trained, read from its training state."""

import pytest
import torch

from mcir.config import load
from mcir.tables.recipes import trained_otherwise


@pytest.fixture
def state(home):
    def write(*overrides):
        file = home / "2.state"
        options = load("options/sr/spn.yml", ["sweep=steps_1", *overrides])
        torch.save({"format": 1, "options": options.dump(), "model": {"weight": torch.zeros(3)}}, file)
        return file

    return write


def asked(*overrides):
    return load("options/sr/spn.yml", ["sweep=steps_1", *overrides])


def test_the_same_training(state):
    assert trained_otherwise(state(), asked()) == []
    of_no_weight = ["num_gpu=auto", "logger.print_freq=9", "val.val_freq=2", "path.results_root=x", "name=other"]
    assert trained_otherwise(state(*of_no_weight, "datasets.train.num_worker_per_gpu=3"), asked()) == []


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("manual_seed=5", "manual_seed 5 instead of 0"),
        ("train.total_iter=3", "train.total_iter 3 instead of 2"),
        ("network_g.num_feat=6", "network_g.num_feat 6 instead of 4"),
        ("datasets.train.gt_size=8", "datasets.train.gt_size 8 instead of 16"),
        ("path.pretrain_network_g=a.pth", "path.pretrain_network_g a.pth instead of None"),
        ("train.negatives.steps=[1,2]", "train.negatives.steps [1, 2] instead of [1]"),
        ("train.negatives.weight=0.5", "train.negatives.weight 0.5 instead of nothing"),
    ],
)
def test_every_value_that_weights_depend_on_is_told(state, override, told):
    assert trained_otherwise(state(override), asked()) == [told]
    if told.endswith("nothing"):
        assert trained_otherwise(state(), asked(override)) == ["train.negatives.weight nothing instead of 0.5"]


def test_nobody_knows(state, home):
    assert trained_otherwise(home / "nowhere.state", asked()) is None
    file = state()
    file.write_bytes(file.read_bytes()[:200])
    assert trained_otherwise(file, asked()) is None
    torch.save({"format": 1}, file)
    assert trained_otherwise(file, asked()) is None
