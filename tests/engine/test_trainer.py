"""What the trainer compares between processes: all of the model's state but the optimizer's."""

import pytest
import torch

from mcir.config import load
from mcir.engine.distributed import Process
from mcir.engine.trainer import Trainer


@pytest.fixture
def trainer(run):
    tree = ("train.balance=0.1", "train.total_iter=2", "datasets.train.num_worker_per_gpu=0", "num_gpu=0")
    trainer = Trainer(load(run.option_file, tree), Process(0, 1, torch.device("cpu")))
    assert trainer.train() == 0
    return trainer


def tensors(part):
    return [value for value in part.state_dict().values() if isinstance(value, torch.Tensor) and value.numel()]


@pytest.mark.parametrize("name", ["network_g", "ema", "negatives", "balance_l_neg"])
def test_every_tensor_of_every_part_counts(trainer, name):
    before = trainer._fingerprint()
    assert trainer._fingerprint() == before
    changed = tensors(trainer.model.stateful()[name])
    assert changed
    for value in changed:
        kept = value.clone()
        value.view(-1)[-1] += 1
        assert trainer._fingerprint() != before
        value.copy_(kept)
    assert trainer._fingerprint() == before


def test_numbers_in_a_state_count_and_the_optimizer_does_not(trainer):
    class Counter:
        value = 1

        def state_dict(self):
            return {"count": self.value, "name": "text", "parts": [0.5]}

    stateful, counter = trainer.model.stateful(), Counter()
    trainer.model.stateful = lambda: {**stateful, "counter": counter}
    before = trainer._fingerprint()
    for moments in trainer.model.optimizer.state.values():
        moments["exp_avg"] += 1
    assert trainer._fingerprint() == before
    counter.value = 2
    assert trainer._fingerprint() != before
