"""Residuals before and after a pre-training, and the study of RCL's contrastive loss."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mcir.cli import main
from mcir.config import load
from mcir.config.load import runs_of
from mcir.engine.distributed import DistContext
from mcir.engine.trainer import Trainer
from mcir.report.records import read_run
from mcir.tables import residuals
from mcir.tables.residuals import END, NOISE, START, before_and_after, differences, distances, statistics
from mcir.tables.study import read_study
from tests.pages import Page

GOLDEN = np.load(Path(__file__).parents[1] / "golden/rcl/fig2.npz")
STUDY = read_study("rcl-scale")
FILE = STUDY.folder / "pretraining.yml"
SETTINGS = [name for name in STUDY.methods if name not in ("consistency", "random")]
SMALL = ["num_gpu=0", "network_g.num_feat=2", "train.consistency_opt.network=resnet18"]
TINY = [*SMALL, "datasets.train.patch_size=16", "datasets.train.batch_size_per_gpu=3", "train.total_iter=1"]


# -- statistics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number, of", [(0, "residual"), (1, "true_noise")])
def test_differences_equal_the_golden_numbers(number, of):
    found = torch.from_numpy(GOLDEN[f"D_{of}"])
    np.testing.assert_allclose(np.sort(differences(found).numpy()), np.sort(GOLDEN[f"delta_{of}"]), rtol=1e-12)
    above = statistics(found[None], found[None])["above_0"]
    assert above == pytest.approx(GOLDEN["frac_positive"][number])


def test_differences_are_row_by_row_and_batch_by_batch():
    found = torch.tensor([[1.0, 2.0, 4.0], [8.0, 3.0, 5.0], [9.0, 9.5, 2.0]])
    assert differences(found).tolist() == [1.0, 3.0, 5.0, 2.0, 7.0, 7.5]
    assert differences(torch.stack([found, 2 * found])).tolist() == [1.0, 3.0, 5.0, 2.0, 7.0, 7.5, 2, 6, 10, 4, 14, 15]


def test_statistics_of_known_distances():
    found = torch.tensor([[[1.0, 2.0, 4.0], [2.0, 3.0, 5.0], [9.0, 1.0, 2.0]]])
    noise = torch.tensor([[[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]])
    numbers = statistics(found, noise)
    assert numbers["positive"] == 2 and numbers["negative"] == pytest.approx(23 / 6)
    assert numbers["difference"] == pytest.approx(11 / 6)
    assert numbers["above_0"] == pytest.approx(4 / 6) and numbers["nearest"] == pytest.approx(1 / 3)
    assert numbers["w1_to_noise"] == pytest.approx((0 + 2 + 2 + 1 + 6 + 2) / 6)  # every difference of the noise is 1
    assert statistics(noise, noise)["w1_to_noise"] == 0


def test_distances_are_those_of_first_and_second_patches():
    values = torch.tensor([0.1, 0.2, 0.4, 0.8]).view(4, 1, 1, 1).expand(4, 3, 5, 5)
    torch.testing.assert_close(distances(values), torch.tensor([[0.1, 0.7], [0.2, 0.4]]))


# -- a pre-training ---------------------------------------------------------------------------------------------------


def trained(folder, *changes, method="8bit_tau0.1_alpha1e-3"):
    """Make a step of a pre-training; return its options, its weights and the scalars of the step."""
    weights = f"train.consistency_opt.weights={'random'}"
    overrides = [f"sweep={method}", weights, *TINY, "val.val_freq=1", "datasets.val.max_images=1", *changes]
    options = load(FILE, [*overrides, "logger.print_freq=1", f"path.experiments_root={folder}"])
    trainer = Trainer(options, DistContext(0, 1, torch.device("cpu")))
    assert trainer.train() == 0
    scalars = {name: points[0][1] for name, points in read_run(trainer.folder).scalars.items()}
    return options, trainer.folder / "models/net_g_1.pth", scalars


def test_the_start_is_the_first_step_of_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(residuals, "_BATCHES", 1)
    options, weights, scalars = trained(tmp_path)
    found = before_and_after(options, weights)
    start = found[START]
    assert start["consistency_loss"] == pytest.approx(scalars["l_consist"], rel=1e-5)
    assert start["contrastive_loss"] == pytest.approx(scalars["l_contrast"] / (3 * 1e-3), rel=1e-4)
    assert start["gradient_ratio"] == pytest.approx(1 / scalars["ratio_l_consist"], rel=1e-4)
    assert found[END]["consistency_loss"] < start["consistency_loss"]
    assert found[NOISE]["positive"] < found[NOISE]["negative"] < start["negative"]


def test_a_training_that_changes_nothing_ends_where_it_starts(tmp_path):
    options, weights, _ = trained(tmp_path, "train.optim_g.lr=1e-30")
    found = before_and_after(options, weights)
    assert found[END] == found[START]


def test_the_gradient_ratio_is_proportional_to_the_weight_and_the_loss_does_not_depend_on_it(tmp_path):
    (small, *_), (large, *_) = (
        [before_and_after(*trained(tmp_path / name, method=name)[:2])[START]]
        for name in ("8bit_tau0.1_alpha1e-4", "8bit_tau0.1_alpha1e-3")
    )
    assert large["gradient_ratio"] == pytest.approx(10 * small["gradient_ratio"], rel=1e-4)
    assert large["contrastive_loss"] == pytest.approx(small["contrastive_loss"], rel=1e-4)
    alone = before_and_after(*trained(tmp_path / "alone", method="consistency")[:2])[START]
    assert alone["consistency_loss"] == pytest.approx(small["consistency_loss"])
    assert alone["positive"] == small["positive"] and not {"gradient_ratio", "contrastive_loss"} & alone.keys()


# -- the study --------------------------------------------------------------------------------------------------------


def test_settings_differ_in_the_contrastive_loss_alone():
    known = runs_of(FILE)
    assert set(SETTINGS) < set(known) and list(STUDY.methods)[-2:] == [STUDY.reference, "random"]
    options = {name: load(FILE, [f"sweep={name}"]) for name in [*SETTINGS, STUDY.reference]}
    trees = {}
    for name, loaded in options.items():
        tree = loaded.train.model
        loss = dict(tree).pop("contrastive_opt", None)
        rest = {key: value for key, value in tree.items() if key != "contrastive_opt"}
        trees[name] = rest | {"steps": loaded.train.total_iter, "data": loaded.datasets.train.section}
        if loss is None:
            assert name == STUDY.reference
            continue
        unit, tau, alpha = name.split("_")
        assert loss.pop("type") == "ResidualContrastiveLoss"
        assert loss == {
            "residual_scale": {"unit": 1, "8bit": 255}[unit],
            "temperature": float(tau.removeprefix("tau")),
            "loss_weight": float(alpha.removeprefix("alpha")),
        }
    assert all(tree == trees[STUDY.reference] for tree in trees.values())


def test_a_quick_study_reports_the_residuals(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["reproduce", "rcl-scale", "--quick", "--jobs", "1", "--results", str(out), "--task", "denoise"]
    assert main([*arguments, "--method", SETTINGS[0], "--set", *SMALL]) == 0
    data = json.loads((out / "rcl-scale.json").read_text())
    found = {(record["method"], record["seed"]): record["residuals"] for record in data["pretrainings"]}
    assert list(found) == [(name, seed) for seed in (0, 1) for name in (SETTINGS[0], STUDY.reference)]
    assert {"gradient_ratio", "w1_to_noise", "nearest"} <= found[SETTINGS[0], 0][END].keys()
    assert [part["method"] for part in data["comparisons"]] == [SETTINGS[0]]
    text = capsys.readouterr().out
    mean = np.mean([found[SETTINGS[0], seed][END]["gradient_ratio"] for seed in (0, 1)])
    page = (out / "rcl-scale.md").read_text()
    assert (
        f" → {mean:.3g} |" in page and "| the true noise | – |" in page and f"| {STUDY.title_of(SETTINGS[0])} |" in page
    )
    assert "its numbers mean nothing" in (out / "rcl-scale.html").read_text() and "2/4" in text
    assert Page((out / "rcl-scale.html").read_text()).tags.count("table") >= 3
