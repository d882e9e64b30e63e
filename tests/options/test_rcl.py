"""Residual contrastive learning with its option files and the trainer, and its weights in SPN."""

from pathlib import Path

import pytest
import torch
import yaml

from mcir.cli import main
from mcir.config import load
from mcir.engine.distributed import DistContext
from mcir.engine.trainer import Trainer
from mcir.weights import load_network, read_weights

ROOT = Path(__file__).parents[2] / "options/rcl"
ALONE = DistContext(0, 1, torch.device("cpu"))
SMALL = [
    "num_gpu=0",
    "network_g.num_feat=2",
    "train.total_iter=2",
    "datasets.train.batch_size_per_gpu=2",
    "datasets.train.num_worker_per_gpu=0",
    "datasets.val.tile_size=64",
    "datasets.val.max_images=2",
    "val.pictures=0",
    "logger.use_tb_logger=false",
]
PRETRAIN = [*SMALL, "datasets.train.patch_size=32", "train.consistency_opt.network=resnet18"]
TUNE = [*SMALL, "datasets.train.gt_size=32"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The weight file of a short pre-training."""
    folder = tmp_path_factory.mktemp("pretraining")
    options = load(ROOT / "photographs.yml", [*PRETRAIN, f"path.experiments_root={folder}"])
    assert Trainer(options, ALONE).train() == 0
    return folder / "rcl_photographs/models/net_g_2.pth"


def test_the_second_file_starts_from_the_weights_of_the_first():
    first, second = (load(ROOT / f"{name}.yml") for name in ("photographs", "photographs_spn"))
    made = f"experiments/{first.name}/models/net_g_{first.train.total_iter}.pth"
    assert second.path.pretrain_network_g == made
    assert first.network_g == second.network_g
    assert second.name == f"{first.name}_spn"


def test_pre_training_evaluates_and_its_weights_restore(pretrained):
    assert read_weights(pretrained).section["type"] == "UNet"
    assert load_network(pretrained)(torch.rand(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    log = pretrained.parents[1] / "results.jsonl"
    lines = [yaml.safe_load(line) for line in log.read_text().splitlines()]
    assert {"l_contrast", "l_consist", "grad_norm"} <= lines[0].keys()
    assert lines[-1]["kind"] == "val" and len(lines[-1]["images"]["psnr"]) == 2


def test_resumed_pre_training_is_bit_equal(pretrained, tmp_path):
    for total, resume in ((1, False), (2, True)):
        over = [*PRETRAIN, f"path.experiments_root={tmp_path}", f"train.total_iter={total}"]
        assert Trainer(load(ROOT / "photographs.yml", over), ALONE, resume=resume).train() == 0
    whole, resumed = (
        read_weights(file).tensors for file in (pretrained, tmp_path / "rcl_photographs/models/net_g_2.pth")
    )
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize("model_type", ["RestorationModel", "ContrastiveModel"])
def test_pre_trained_weights_start_another_training(pretrained, tmp_path, model_type):
    over = [*TUNE, f"path.experiments_root={tmp_path}", f"path.pretrain_network_g={pretrained}"]
    if model_type == "RestorationModel":
        over += [f"model_type={model_type}", "train.contrastive_opt=null", "train.negatives=null"]
    trainer = Trainer(load(ROOT / "photographs_spn.yml", over), ALONE)
    initial = read_weights(pretrained).tensors
    assert type(trainer.model).__name__ == model_type
    for key, value in trainer.model.network.state_dict().items():
        assert torch.equal(value, initial[key])
    assert all(map(torch.equal, trainer.model.ema.network.state_dict().values(), initial.values()))
    assert trainer.train() == 0
    moved = trainer.model.network.state_dict()
    assert not torch.equal(moved["encoder.0.conv1.weight"], initial["encoder.0.conv1.weight"])


def test_check_prints_the_cost_of_a_pre_training_step(capsys):
    arguments = ["check", "-opt", str(ROOT / "photographs.yml"), "--set"]
    gflops = {}
    for batch in (2, 4):
        assert main([*arguments, *PRETRAIN, f"datasets.train.batch_size_per_gpu={batch}"]) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "FLOPs of a step" in line]
        assert f"(batch size {batch}, one process)" in line
        gflops[batch] = float(line.split()[4].replace(",", ""))
    assert gflops[4] == pytest.approx(2 * gflops[2], abs=0.2) and gflops[2] > 0
