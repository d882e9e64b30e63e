"""The proxy evaluation: training of the last layer, numbers and cached results."""

import json
import math
import shutil
import statistics
from dataclasses import replace

import pytest
import torch

from mcir.cli import main
from mcir.config import load
from mcir.metrics import FloatPSNR, FloatSSIM
from mcir.registry import ARCHS, DATASETS
from mcir.tables import proxy as module
from mcir.tables import training
from mcir.tables.commands import Proxy
from mcir.tables.proxy import collapsed_pretrainings, proxy, proxy_report, run_proxy, summarize
from mcir.tables.proxy_plan import PROXY, plan
from tests.pages import Page
from tests.tables.conftest import PROXY_NETWORK as NETWORK


def quiet(_):
    """Log nothing."""


def test_only_the_last_layer_is_trained(proxy_settings, proxy_weights, monkeypatch):
    seen = []
    train = training.Trainer.train

    def watched(trainer):
        status = train(trainer)
        seen.append({key: value.clone() for key, value in trainer.model.network.state_dict().items()})
        return status

    monkeypatch.setattr(training.Trainer, "train", watched)
    initial = torch.load(proxy_weights, weights_only=True)["params"]
    run_proxy(replace(proxy_settings, weights=[str(proxy_weights)], trials=1), quiet)
    changed = {key for key, value in seen[0].items() if not torch.equal(value, initial[key])}
    assert changed == {"last.weight", "last.bias"}
    run_proxy(replace(proxy_settings, weights=[str(proxy_weights)], trials=1, finetune=True), quiet)
    changed = {key for key, value in seen[1].items() if not torch.equal(value, initial[key])}
    assert "encoder.0.conv1.weight" in changed and any(key.endswith("running_mean") for key in changed)


def test_results_are_computed_once_and_leave_no_files(proxy_settings, proxy_weights, monkeypatch):
    settings = replace(proxy_settings, weights=["random", f"RCL={proxy_weights}"], labels=[2])
    assert proxy(settings, quiet) == 0
    file = proxy_settings.results / "runs.jsonl"
    lines = file.read_text().splitlines()
    assert len(lines) == 4 and list((proxy_settings.results / "runs").iterdir()) == []
    computed, run_trial = [], module.run_trial
    monkeypatch.setattr(module, "run_trial", lambda run: computed.append((run.name, run.labels)) or run_trial(run))
    file.write_text("\n".join(lines[:3]) + '\n{"alien": 1}\n{"half": ')  # a killed process leaves half a line
    results = run_proxy(settings, quiet)
    assert computed == [("RCL", 2)]
    stored = [json.loads(line) for line in lines[:3]]
    assert all(record.pop("crc32") for record in stored)
    assert results[:3] == stored
    last = json.loads(lines[3])
    assert results[3]["psnr"] == last["psnr"] and results[3]["images"] == last["images"]
    computed.clear()
    renamed = run_proxy(replace(settings, weights=[f"other={proxy_weights}", "random"], labels=[2, 4]), quiet)
    assert computed == [("other", 4)] * 2 + [("random", 4)] * 2
    assert [result["weights"] for result in renamed] == ["other"] * 4 + ["random"] * 4
    assert [result["psnr"] for result in renamed[:2]] == [result["psnr"] for result in results[2:]]
    assert len({result["psnr"] for result in renamed}) == 8  # seeds, labels and weights all matter


def test_metrics_cover_the_whole_test_images(proxy_settings, proxy_weights):
    """Without labels, a row is the network of its file, measured by hand here."""
    settings = replace(proxy_settings, weights=["random", f"RCL={proxy_weights}"], labels=[0], finetune=True)
    (result,) = run_proxy(settings, quiet)
    assert (result["weights"], result["labels"], result["trial"]) == ("RCL", 0, 0)
    network = ARCHS.build(NETWORK)
    network.load_state_dict(torch.load(proxy_weights, weights_only=True)["params"])
    options = plan(replace(proxy_settings, weights=[str(proxy_weights)]), {})[0].options()
    (section,) = (part.section for part in options.datasets.val.values())
    dataset, scores = DATASETS.build(section), {"psnr": [], "ssim": [], "psnr_of_input": []}
    for number in range(2):
        item = dataset[number]
        lq, gt = item["lq"][None], item["gt"][None].float() / 255
        with torch.no_grad():
            output = network.eval()(lq)
        scores["psnr"].append(float(FloatPSNR()(output, gt)))
        scores["ssim"].append(float(FloatSSIM()(output, gt)))
        scores["psnr_of_input"].append(float(FloatPSNR()(lq, gt)))
    for name, values in scores.items():
        assert result[name] == pytest.approx(statistics.fmean(values), abs=1e-5), name


def test_rows_without_weights_for_the_task_have_no_result_without_labels(proxy_settings, proxy_weights):
    settings = replace(proxy_settings, weights=["random"], labels=[0], finetune=True, trials=1)
    with pytest.raises(ValueError, match="With 0 labels, expected at least one weight file for the task"):
        proxy(settings, quiet)
    with pytest.raises(ValueError, match="With 0 labels, expected at least one weight file for the task"):
        proxy(replace(settings, weights=[str(proxy_weights)], task="sr"), quiet)
    assert proxy(replace(settings, weights=["random", str(proxy_weights)]), quiet) == 0
    text = (proxy_settings.results / "proxy_denoise_finetuned.md").read_text()
    assert "These rows have no weights for the task, so they have no result with 0 labels: random." in text


def test_supervised_rows_are_pre_trained_once(proxy_settings):
    settings = replace(proxy_settings, weights=["oracle", "sl-den"], task="sr", trials=1)
    lines = []
    results = run_proxy(settings, lines.append)
    names = [line.partition(",")[0] for line in lines[:2]]
    assert names == ["oracle: supervised pre-training", "sl-den: supervised pre-training"]
    assert [result["weights"] for result in results] == ["oracle", "sl-den"]
    assert results[0]["psnr"] != results[1]["psnr"]
    lines.clear()
    assert run_proxy(replace(settings, trials=2), lines.append)[::2] == results
    assert not any("pre-training" in line for line in lines)


def test_a_collapsed_trial_is_a_result_and_is_not_repeated(proxy_settings, monkeypatch):
    settings, guard = proxy_settings, training.Trainer._on_step

    def diverge(trainer, iteration, batch, scalars):
        guard(trainer, iteration, batch, {**scalars, "l_pix": scalars["l_pix"] / (iteration < 2)})

    monkeypatch.setattr(training.Trainer, "_on_step", diverge)
    results = run_proxy(settings, quiet)
    assert [result["collapsed"] for result in results] == [2, 2] and math.isnan(results[0]["psnr"])
    lines = []
    again = run_proxy(settings, lines.append)
    assert [result["collapsed"] for result in again] == [2, 2] and "2 of them in" in lines[0] and len(lines) == 1
    (cell,) = summarize(again).values()
    assert cell.collapse == "2 trials of 2, iteration 2, 2" and cell.trials == 2 and cell.means == {}
    assert proxy(settings, quiet) == 0
    page = (proxy_settings.results / "proxy_denoise.md").read_text()
    assert "| random | all | collapsed (2 trials of 2, iteration 2, 2) | collapsed (" in page


def test_a_collapsed_pre_training_leaves_the_other_rows(proxy_settings, monkeypatch):
    settings = replace(proxy_settings, weights=["oracle", "random"], trials=1, pretrain_steps=3)
    seen, train = [], module.train
    monkeypatch.setattr(module, "train", lambda options: seen.append(options.name) or train(options))
    guard = training.Trainer._on_step

    def diverge(trainer, iteration, batch, scalars):
        if trainer.total == 3:
            scalars = {**scalars, "l_pix": scalars["l_pix"] * float("nan")}
        guard(trainer, iteration, batch, scalars)

    monkeypatch.setattr(training.Trainer, "_on_step", diverge)
    lines = []
    assert [result["weights"] for result in run_proxy(settings, lines.append)] == ["random"]
    assert any(
        line.startswith("oracle: collapsed at iteration 1: NaN or infinite values of l_pix; to") for line in lines
    )
    assert collapsed_pretrainings(settings)["oracle"].iteration == 1
    assert [result["weights"] for result in run_proxy(settings, quiet)] == ["random"]
    assert seen.count("pretrained") == 1  # it is not trained again


def test_a_stopped_trial_resumes(proxy_settings, monkeypatch):
    (run,) = plan(replace(proxy_settings, trials=1, steps=4), {})
    complete = module.run_trial(run)
    shutil.rmtree(run.folder)
    overrides = [*run.overrides, "train.total_iter=2", f"path.experiments_root={run.folder}"]
    assert training.train(load(PROXY, overrides)).weights.is_file()
    started, train = [], training.Trainer.train
    monkeypatch.setattr(training.Trainer, "train", lambda self: started.append(self.iteration) or train(self))
    assert module.run_trial(run)["psnr"] == complete["psnr"]
    assert started == [2]


def test_several_jobs_give_the_same_results(proxy_settings):
    settings = replace(proxy_settings, weights=["random"], trials=2)
    alone = run_proxy(settings, quiet)
    together = run_proxy(replace(settings, jobs=2, results=proxy_settings.results.parent / "other"), quiet)
    assert [result["psnr"] for result in alone] == [result["psnr"] for result in together]


def result(weights, labels, trial, psnr):
    scores = {"psnr": psnr, "ssim": 0.5, "psnr_of_input": 20.0, "ssim_of_input": 0.4}
    return {"weights": weights, "labels": labels, "trial": trial, **scores}


def test_means_and_deviations():
    results = [result("a", 10, 0, 30.0), result("a", 10, 1, 32.0), result("b", None, 0, float("inf"))]
    (_, first), (key, second) = summarize(results).items()
    assert (first.means["psnr"], first.stds["psnr"], first.trials) == (31.0, statistics.stdev([30, 32]), 2)
    assert (second.means["psnr"], second.stds["psnr"], key[1]) == (float("inf"), None, None)
    table = proxy_report(results, Proxy(weights=[], task="sr")).sections[0].table
    assert table[1:] == [
        ["bicubic enlargement", "", "20.00", "0.4000", ""],
        ["a", "10", "31.00 ± 1.41", "0.5000 ± 0.0000", "2"],
        ["b", "all", "inf", "0.5000", "1"],
    ]


def test_the_command(proxy_settings, proxy_weights, capsys):
    command = ["proxy", "random", str(proxy_weights), "--trials", "1", "--steps", "1", "--patch", "32", "--batch", "2"]
    command += ["--jobs", "1", "--labels", "2", "4", "--set", "num_gpu=0", "--results", str(proxy_settings.results)]
    assert main([*command, "--data", str(proxy_settings.data), "--test", str(proxy_settings.test)]) == 0
    text = capsys.readouterr().out
    assert "| rcl | 4 |" in text and "| the input itself |" in text
    data = json.loads((proxy_settings.results / "proxy_denoise.json").read_text())
    rows = [(row["weights"], row["labels"]) for row in data["rows"]]
    assert rows == [(name, labels) for name in ("random", "rcl") for labels in (2, 4)]
    assert len(data["results"]) == 4 and data["settings"]["steps"] == 1
    assert "rcl" in Page((proxy_settings.results / "proxy_denoise.html").read_text()).cells
    assert main(["proxy", "nowhere.pth"]) == 1
    assert "or a weight file; there is no such file" in capsys.readouterr().err
