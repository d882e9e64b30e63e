"""Tests of logged loss gradients, and of losses that depend on the validation."""

import json

import pytest
import torch

from tests.engine.conftest import options

CCR = {
    "type": "CurricularContrastiveRegularization",
    "weights": "random",
    "layer_weights": {"relu1_1": 1.0},
    "difficulties": [5.0, 60.0],
}


def test_gradients_are_logged_and_the_curriculum_follows_the_validation(run):
    tree = options(run.folder, contrastive_opt=CCR, balance=0.2, total_iter=6)
    run.write(tree)
    run.train(processes=2)
    lines = [json.loads(line) for line in run.path("results.jsonl").read_text().splitlines()]
    logged = [line for line in lines if line["kind"] == "train"]
    assert [line["iteration"] for line in logged] == [3, 6]
    for line in logged:
        assert line["ratio_l_neg"] == pytest.approx(line["grad_l_neg"] / line["grad_l_pix"], rel=1e-3)
        assert 0.2 / 2.5 < line["ratio_l_neg"] < 0.2 * 2.5
        assert -1 <= line["cosine_l_neg"] <= 1 and line["factor_l_neg"] > 0
    (psnr,) = [line["psnr"] for line in lines if line["kind"] == "val" and line["iteration"] == 6]
    (file,) = run.path("training_states").glob("6.state")
    state = torch.load(file, weights_only=True)["model"]
    assert float(state["l_neg"]["best_psnr"]) == psnr > 5
    assert state["balance_l_neg"]["steps"] == 6
