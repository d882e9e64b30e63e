"""Tests of the trainer: state checksum, dry run, warnings, and files."""

import json
import signal

import pytest
import torch

import mcir.engine.trainer as trainer_module
from mcir.archs import EDSR
from mcir.config import load
from mcir.engine import conclusion
from mcir.engine.distributed import DistContext
from mcir.engine.evaluation import Evaluation, Score
from mcir.engine.state_checksum import state_checksum
from mcir.engine.trainer import Trainer
from mcir.metrics import PSNR
from mcir.models import RestorationModel
from tests.engine.conftest import options

EDSR_FORWARD = EDSR.forward


@pytest.fixture
def trainer(run):
    tree = ("train.balance=0.1", "train.total_iter=2", "datasets.train.num_worker_per_gpu=0", "num_gpu=0")
    trainer = Trainer(load(run.option_file, tree), DistContext(0, 1, torch.device("cpu")))
    assert trainer.train() == 0
    return trainer


def test_the_model_gets_the_number_of_iterations(trainer):
    assert trainer.model.total_iter == 2


def tensors(part):
    return [value for value in part.state_dict().values() if isinstance(value, torch.Tensor) and value.numel()]


@pytest.mark.parametrize("name", ["network_g", "ema", "negatives", "balance_l_neg"])
def test_the_checksum_depends_on_every_tensor(trainer, name):
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


def test_the_checksum_depends_on_numbers_and_not_on_the_optimizer(trainer):
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


def test_the_checksum_depends_on_frozen_negatives(run):
    run.write(tree_of(run, negatives={"type": "FrozenNegatives"}))
    model = Trainer(load(run.option_file), DistContext(0, 1, torch.device("cpu"))).model
    before = state_checksum(model)
    next(model.negative_source.parameters()).data += 1
    assert state_checksum(model) != before


PCL = {"type": "PCLLoss", "weights": "random", "layer_weights": {"relu5_1": 1.0}}
CCR = {"type": "CurricularContrastiveRegularization", "weights": "random", "layer_weights": {"relu1_1": 1.0}}


def tree_of(run, **train):
    tree = options(run.folder, **train)
    tree["datasets"]["train"]["num_worker_per_gpu"] = 0
    return tree


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            {"contrastive_opt": PCL},
            r"tiny\.yml:\d+: train\.contrastive_opt.*crops of 8 pixels is not possible: vgg19 up to relu5_1",
        ),
        ({"contrastive_opt": CCR}, r"tiny\.yml:\d+: train\.contrastive_opt.*expected 6 negatives"),
        (
            {"negatives": {"type": "ConsensusNegatives", "stored": True}},
            r"tiny\.yml:\d+: train\.negatives.*dataroot_negatives",
        ),
    ],
)
def test_an_impossible_step_is_an_error_before_data_is_read(run, monkeypatch, train, message):
    tree = tree_of(run, **train)
    tree["datasets"]["train"]["gt_size"] = 8
    run.write(tree)

    def refuse(*_):
        raise AssertionError("data was read")

    monkeypatch.setattr(trainer_module, "TrainBatches", refuse)
    with pytest.raises(ValueError, match=message):
        Trainer(load(run.option_file), DistContext(0, 1, torch.device("cpu")))
    assert not run.path().exists()


def test_an_error_of_the_optimizer_is_located(run):
    run.write(tree_of(run, optim_g={"type": "SGD", "lr": 0.1, "nesterov": True}))
    with pytest.raises(ValueError, match=r"tiny\.yml:\d+: train\.optim_g: Nesterov momentum requires a momentum"):
        Trainer(load(run.option_file), DistContext(0, 1, torch.device("cpu")))


def test_a_network_that_needs_values_is_accepted(run, monkeypatch):
    def needs_a_value(self, x):
        return EDSR_FORWARD(self, x * float(x.detach().max() >= 0))

    monkeypatch.setattr(EDSR, "forward", needs_a_value)
    run.write(tree_of(run, total_iter=1))
    assert Trainer(load(run.option_file), DistContext(0, 1, torch.device("cpu"))).train() == 0


@pytest.mark.parametrize("metric", ["PSNR", "SSIM"])
def test_a_curriculum_without_psnr_is_logged(run, caplog, metric):
    tree = tree_of(run, contrastive_opt={**CCR, "difficulties": [20.0, 30.0]})
    tree["val"]["metrics"] = {"one": {"type": metric}}
    run.write(tree)
    Trainer(load(run.option_file), DistContext(0, 1, torch.device("cpu")))
    assert ("curriculum" in caplog.text) == (metric == "SSIM")


def evaluations(higher_is_better=True, **means):
    return [Evaluation("val", "input", {k: Score(v, 0.0, "", higher_is_better, {}) for k, v in means.items()}, {})]


def validate(run, monkeypatch, results, *overrides):
    """Return for each validation with the given results whether its model is the best so far."""
    options = load(run.option_file, ("datasets.train.num_worker_per_gpu=0", *overrides))
    trainer = Trainer(options, DistContext(0, 1, torch.device("cpu")))
    results = list(results)
    monkeypatch.setattr(trainer, "_evaluate", lambda iteration: results[iteration - 1])
    outcomes = [trainer._validate(iteration) for iteration in range(1, len(results) + 1)]
    trainer.log.close()
    return outcomes


@pytest.mark.parametrize(
    ("best_by", "expected"),
    [
        ("[]", [True, True, False, True, False]),  # the first metric
        ("[ssim]", [True, False, True, True, True]),
        ("[psnr, ssim]", [True, False, True, True, False]),  # the third is compared with the first
    ],
)
def test_the_best_network_improves_all_chosen_metrics(run, monkeypatch, best_by, expected):
    values = [(30.0, 0.8), (31.0, 0.7), (30.5, 0.85), (32.0, 0.9), (float("nan"), 0.99)]
    results = (evaluations(psnr=psnr, ssim=ssim) for psnr, ssim in values)
    metrics = "val.metrics={psnr: {type: PSNR}, ssim: {type: SSIM}}"
    assert validate(run, monkeypatch, results, metrics, f"val.best_by={best_by}") == expected


def test_a_smaller_value_may_be_the_best(run, monkeypatch):
    results = (evaluations(higher_is_better=False, psnr=value) for value in (0.3, 0.4, 0.2))
    assert validate(run, monkeypatch, results) == [True, False, True]


def test_a_stopped_validation_does_not_change_the_model(run, monkeypatch):
    """Losses with a curriculum depend on the results of each validation."""
    observed = []
    monkeypatch.setattr(RestorationModel, "after_evaluation", lambda self, metrics: observed.append(metrics))
    measure, stops_at = PSNR.__call__, [3]

    def measure_until(self, output, gt):
        stops_at[0] -= 1
        if stops_at[0] == 0:
            signal.raise_signal(signal.SIGTERM)
        return measure(self, output, gt)

    monkeypatch.setattr(PSNR, "__call__", measure_until)
    assert train(run, "train.total_iter=6") == 128 + signal.SIGTERM
    assert stops_at[0] == -1 and observed == []  # the second image of four is complete
    assert train(run, "train.total_iter=6", resume=True) == 0
    assert len(observed) == 1


def test_a_signal_during_the_report_ends_the_process(run, monkeypatch):
    def write(folders, file):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(conclusion, "write_report", write)
    with pytest.raises(KeyboardInterrupt):
        train(run, "train.total_iter=2")
    assert run.path("training_states", "2.state").exists()


def train(run, *overrides, resume=False):
    options = load(run.option_file, ("datasets.train.num_worker_per_gpu=0", *overrides))
    return Trainer(options, DistContext(0, 1, torch.device("cpu")), resume).train()


def test_each_start_is_recorded(run, capsys):
    assert train(run, "train.total_iter=2") == 0
    first = run.path("report.html").read_text()
    assert train(run, "train.total_iter=3", "val.pictures=0", resume=True) == 0
    start, again = (json.loads(line) for line in run.path("environment.jsonl").read_text().splitlines())
    recorded = ("iteration", "total_iter", "model", "network", "parameters", "images", "processes", "device")
    assert [start[key] for key in recorded] == [0, 2, "ContrastiveModel", "EDSR", 1259, 4, 1, "cpu"]
    assert (again["iteration"], again["total_iter"], start["torch"]) == (2, 3, torch.__version__)
    assert (start["changes"], again["changes"]) == (
        [],
        ["train.total_iter: 2 → 3", "val.pictures: 1 → 0"],
    )
    run.option_file.write_text(run.path("options.yml").read_text())  # it can be used as an option file
    assert load(run.option_file).train.total_iter == 3
    assert "finished: 2 iterations" in first and "finished: 3 iterations" in run.path("report.html").read_text()
    output = capsys.readouterr().out
    assert f"report:      {run.path('report.html')}" in output
    changes = "The options differ from those of the checkpoint:\n  train.total_iter: 2 → 3\n  val.pictures: 1 → 0\n"
    assert output.count(changes) == 1


def test_the_report_can_be_disabled(run, capsys):
    assert train(run, "train.total_iter=1", "logger.report=false") == 0
    assert not run.path("report.html").exists() and "report:" not in capsys.readouterr().out
    assert run.path("environment.jsonl").exists()


def test_an_error_in_the_report_does_not_fail_the_training(run, monkeypatch, caplog, capsys):
    def fail(folders, file):
        raise OSError("disk full")

    monkeypatch.setattr(conclusion, "write_report", fail)
    assert train(run, "train.total_iter=1") == 0
    assert "The report or a comparison cannot be written (disk full)" in caplog.text
    assert "report:" not in capsys.readouterr().out and run.path("models", "net_g_1.pth").exists()


def test_a_state_with_random_generators_of_version_0_1_0_resumes(run):
    assert train(run, "train.total_iter=4") == 0
    reference = torch.load(run.path("training_states", "4.state"), weights_only=True)
    run.path("training_states", "4.state").unlink()
    file = run.path("training_states", "2.state")
    old = torch.load(file, weights_only=True)
    del old["validated"], old["best_by"], old["digests"]
    generators = [{"torch": torch.get_rng_state(), "python": (3, (1, 2), None)}]
    torch.save({**old, "best": 99.5, "generators": generators}, file)
    assert train(run, "train.total_iter=4", resume=True) == 0
    again = torch.load(run.path("training_states", "4.state"), weights_only=True)
    assert (again["validated"], again["best"], again["best_by"]) == (4, 99.5, {"psnr": 99.5})
    for name, weight in reference["model"]["network_g"].items():
        assert torch.equal(again["model"]["network_g"][name], weight)
