"""What the trainer compares between processes (all of the state but the optimizer's), and what it writes down."""

import json

import pytest
import torch

import mcir.engine.trainer as trainer_module
from mcir.archs import EDSR
from mcir.config import load
from mcir.engine.distributed import DistContext, state_checksum
from mcir.engine.trainer import Trainer
from tests.engine.conftest import options

EDSR_FORWARD = EDSR.forward


@pytest.fixture
def trainer(run):
    tree = ("train.balance=0.1", "train.total_iter=2", "datasets.train.num_worker_per_gpu=0", "num_gpu=0")
    trainer = Trainer(load(run.option_file, tree), DistContext(0, 1, torch.device("cpu")))
    assert trainer.train() == 0
    return trainer


def test_the_model_knows_how_long_it_is_trained(trainer):
    assert trainer.model.total_iter == 2


def tensors(part):
    return [value for value in part.state_dict().values() if isinstance(value, torch.Tensor) and value.numel()]


@pytest.mark.parametrize("name", ["network_g", "ema", "negatives", "balance_l_neg"])
def test_every_tensor_of_every_part_counts(trainer, name):
    before = state_checksum(trainer.model)
    assert state_checksum(trainer.model) == before
    changed = tensors(trainer.model.stateful()[name])
    assert changed
    for value in changed:
        kept = value.clone()
        value.view(-1)[-1] += 1
        assert state_checksum(trainer.model) != before
        value.copy_(kept)
    assert state_checksum(trainer.model) == before


def test_numbers_in_a_state_count_and_the_optimizer_does_not(trainer):
    class Counter:
        value = 1

        def state_dict(self):
            return {"count": self.value, "name": "text", "parts": [0.5]}

    stateful, counter = trainer.model.stateful(), Counter()
    trainer.model.stateful = lambda: {**stateful, "counter": counter}
    before = state_checksum(trainer.model)
    for moments in trainer.model.optimizer.state.values():
        moments["exp_avg"] += 1
    assert state_checksum(trainer.model) == before
    counter.value = 2
    assert state_checksum(trainer.model) != before


VGG = {"type": "PCLLoss", "weights": "random", "layer_weights": {"relu5_1": 1.0}}
CCR = {"type": "CurricularContrastiveRegularization", "weights": "random", "layer_weights": {"relu1_1": 1.0}}


def begun(run, **train):
    tree = options(run.folder, **train)
    tree["datasets"]["train"]["num_worker_per_gpu"] = 0
    return tree


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"contrastive_opt": VGG}, r"tiny\.yml:\d+: train\.contrastive_opt.*crops of 8: vgg19 up to relu5_1"),
        ({"contrastive_opt": CCR}, r"tiny\.yml:\d+: train\.contrastive_opt.*expected 6 negatives"),
        (
            {"negatives": {"type": "ConsensusNegatives", "stored": True}},
            r"tiny\.yml:\d+: train\.negatives.*dataroot_negatives",
        ),
    ],
)
def test_a_step_that_cannot_be_made_is_told_before_data_is_read(run, monkeypatch, train, message):
    tree = begun(run, **train)
    tree["datasets"]["train"]["gt_size"] = 8
    run.write(tree)

    def refuse(*_):
        raise AssertionError("data was read")

    monkeypatch.setattr(trainer_module, "TrainBatches", refuse)
    with pytest.raises(ValueError, match=message):
        Trainer(load(run.option_file), DistContext(0, 1, torch.device("cpu")))
    assert not run.path().exists()


def test_a_network_that_needs_values_is_not_refused(run, monkeypatch):
    def needs_a_value(self, x):
        return EDSR_FORWARD(self, x * float(x.detach().max() >= 0))

    monkeypatch.setattr(EDSR, "forward", needs_a_value)
    run.write(begun(run, total_iter=1))
    assert Trainer(load(run.option_file), DistContext(0, 1, torch.device("cpu"))).train() == 0


@pytest.mark.parametrize("metric", ["PSNR", "SSIM"])
def test_a_curriculum_that_nothing_moves_is_told(run, caplog, metric):
    tree = begun(run, contrastive_opt={**CCR, "difficulties": [20.0, 30.0]})
    tree["val"]["metrics"] = {"one": {"type": metric}}
    run.write(tree)
    Trainer(load(run.option_file), DistContext(0, 1, torch.device("cpu")))
    assert ("curriculum" in caplog.text) == (metric == "SSIM")


def trained(run, *overrides, resume=False):
    options = load(run.option_file, ("datasets.train.num_worker_per_gpu=0", *overrides))
    return Trainer(options, DistContext(0, 1, torch.device("cpu")), resume).train()


def test_each_start_is_written_down(run, capsys):
    assert trained(run, "train.total_iter=2") == 0
    first = run.path("report.html").read_text()
    assert trained(run, "train.total_iter=3", "val.pictures=0", resume=True) == 0
    start, again = (json.loads(line) for line in run.path("environment.jsonl").read_text().splitlines())
    told = ("iteration", "total_iter", "model", "network", "parameters", "images", "processes", "device")
    assert [start[key] for key in told] == [0, 2, "ContrastiveModel", "EDSR", 1259, 4, 1, "cpu"]
    assert (again["iteration"], again["total_iter"], start["torch"]) == (2, 3, torch.__version__)
    assert (start["changes"], again["changes"]) == (
        [],
        ["-  total_iter: 2", "+  total_iter: 3", "-  pictures: 1", "+  pictures: 0"],
    )
    run.option_file.write_text(run.path("options.yml").read_text())  # it is an option file
    assert load(run.option_file).train.total_iter == 3
    assert "finished: 2 iterations" in first and "finished: 3 iterations" in run.path("report.html").read_text()
    assert f"report:      {run.path('report.html')}" in capsys.readouterr().out


def test_who_wants_no_report_gets_none(run, capsys):
    assert trained(run, "train.total_iter=1", "logger.report=false") == 0
    assert not run.path("report.html").exists() and "report:" not in capsys.readouterr().out
    assert run.path("environment.jsonl").exists()


def test_a_report_that_cannot_be_written_is_told_and_breaks_nothing(run, monkeypatch, caplog, capsys):
    def fail(folders, file):
        raise OSError("no room for it")

    monkeypatch.setattr(trainer_module, "write_report", fail)
    assert trained(run, "train.total_iter=1") == 0
    assert "The report could not be written (no room for it); the training is complete." in caplog.text
    assert "report:" not in capsys.readouterr().out and run.path("models", "net_g_1.pth").exists()
