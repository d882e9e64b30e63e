"""The proxy evaluation: what is frozen is frozen, numbers are right, and runs are not repeated."""

import json
import statistics
from dataclasses import asdict, replace

import pytest
import torch

from mcir.cli import main
from mcir.config import load
from mcir.metrics import FloatPSNR, FloatSSIM
from mcir.registry import ARCHS, DATASETS
from mcir.tables import proxy as proxies
from mcir.tables.proxy import proxy, run_proxy
from mcir.tables.proxy_plan import HOME, planned, rows_without
from tests.tables.conftest import PROXY_NETWORK as NETWORK
from tests.tables.pages import Page


def quiet(_):
    """Say nothing."""


def test_only_the_last_layer_moves_from_the_weights_of_the_row(proxy_settings, proxy_weights, monkeypatch):
    seen = []
    train = proxies.Trainer.train

    def watched(trainer):
        status = train(trainer)
        seen.append({key: value.clone() for key, value in trainer.model.network.state_dict().items()})
        return status

    monkeypatch.setattr(proxies.Trainer, "train", watched)
    begin = torch.load(proxy_weights, weights_only=True)["params"]
    run_proxy(replace(proxy_settings, weights=[str(proxy_weights)], trials=1), quiet)
    moved = {key for key, value in seen[0].items() if not torch.equal(value, begin[key])}
    assert moved == {"last.weight", "last.bias"}
    run_proxy(replace(proxy_settings, weights=[str(proxy_weights)], trials=1, finetune=True), quiet)
    moved = {key for key, value in seen[1].items() if not torch.equal(value, begin[key])}
    assert "encoder.0.conv1.weight" in moved and any(key.endswith("running_mean") for key in moved)


def test_runs_are_made_once_told_and_leave_nothing(proxy_settings, proxy_weights, monkeypatch, capsys):
    asked = replace(proxy_settings, weights=["random", f"RCL={proxy_weights}"], labels=[2])
    assert proxy(asked, quiet) == 0
    lines = (proxy_settings.results / "runs.jsonl").read_text().splitlines()
    assert len(lines) == 4 and list((proxy_settings.results / "runs").iterdir()) == []
    made = []
    once = proxies.run_trial
    monkeypatch.setattr(proxies, "run_trial", lambda trial: made.append((trial.name, trial.labels)) or once(trial))
    (proxy_settings.results / "runs.jsonl").write_text(
        "\n".join(lines[:3]) + '\n{"alien": 1}\n{"half": '
    )  # as a killed process leaves it
    results = run_proxy(asked, quiet)
    assert made == [("RCL", 2)]
    assert [asdict(result) for result in results[:3]] == [json.loads(line) for line in lines[:3]]
    again = json.loads(lines[3])
    assert results[3].psnr == again["psnr"] and results[3].images == again["images"]
    made.clear()
    renamed = run_proxy(replace(asked, weights=[f"other={proxy_weights}", "random"], labels=[2, 4]), quiet)
    assert made == [("other", 4)] * 2 + [("random", 4)] * 2
    assert [result.weights for result in renamed] == ["other"] * 4 + ["random"] * 4
    assert [result.psnr for result in renamed[:2]] == [result.psnr for result in results[2:]]
    assert len({result.psnr for result in renamed}) == 8  # seeds, labels and weights all count


def test_numbers_are_those_of_the_whole_test_images(proxy_settings, proxy_weights):
    """No label, so the row is the network of the file as it stands, measured by hand."""
    (result,) = run_proxy(
        replace(proxy_settings, weights=["random", f"RCL={proxy_weights}"], labels=[0], finetune=True), quiet
    )
    assert (result.weights, result.labels, result.trial) == ("RCL", 0, 0)
    network = ARCHS.build(NETWORK)
    network.load_state_dict(torch.load(proxy_weights, weights_only=True)["params"])
    options = planned(replace(proxy_settings, weights=[str(proxy_weights)]), {})[0].options()
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
        assert getattr(result, name) == pytest.approx(statistics.fmean(values), abs=1e-4)


def test_what_has_no_result_without_labels_is_told_or_refused(proxy_settings, proxy_weights):
    asked = replace(proxy_settings, weights=["random"], labels=[0], finetune=True, trials=1)
    with pytest.raises(ValueError, match="No row has weights for the task as they are"):
        proxy(asked, quiet)
    enlarging = replace(asked, weights=[str(proxy_weights), "sl-den"], task="sr")
    with pytest.raises(ValueError, match="No row has weights for the task as they are"):
        proxy(enlarging, quiet)
    assert not proxy_settings.results.exists()
    assert proxy(replace(asked, weights=["random", str(proxy_weights)]), quiet) == 0
    told = (proxy_settings.results / "proxy_denoise_finetuned.md").read_text()
    assert "no weights for the task, and so no result: random." in told
    assert rows_without(replace(enlarging, weights=["oracle", *enlarging.weights])) == ["rcl", "sl-den"]
    assert rows_without(replace(enlarging, labels=[2])) == []


def test_supervised_rows_are_pre_trained_once(proxy_settings, monkeypatch):
    asked = replace(proxy_settings, weights=["oracle", "sl-den"], task="sr", trials=1)
    said = []
    results = run_proxy(asked, said.append)
    assert [line.partition(",")[0] for line in said[:2]] == [
        "oracle: supervised pre-training",
        "sl-den: supervised pre-training",
    ]
    assert [result.weights for result in results] == ["oracle", "sl-den"]
    assert results[0].psnr != results[1].psnr
    said.clear()
    assert run_proxy(replace(asked, trials=2), said.append)[::2] == results
    assert not any("pre-training" in line for line in said)


def test_a_trial_that_was_stopped_goes_on(proxy_settings, monkeypatch):
    (trial,) = planned(replace(proxy_settings, trials=1, steps=4), {})
    whole = proxies.run_trial(trial)
    over = [*trial.overrides, "train.total_iter=2", f"path.experiments_root={trial.folder}"]
    assert proxies.trained(load(HOME, over))[0].is_file()
    begun = []
    train = proxies.Trainer.train
    monkeypatch.setattr(proxies.Trainer, "train", lambda trainer: begun.append(trainer.iteration) or train(trainer))
    assert proxies.run_trial(trial).psnr == whole.psnr
    assert begun == [2]


def test_several_jobs_give_the_same(proxy_settings):
    asked = replace(proxy_settings, weights=["random"], trials=2)
    alone = run_proxy(asked, quiet)
    together = run_proxy(replace(asked, jobs=2, results=proxy_settings.results.parent / "other"), quiet)
    assert [result.psnr for result in alone] == [result.psnr for result in together]


def test_the_command(proxy_settings, proxy_weights, capsys, monkeypatch):
    arguments = ["--trials", "1", "--steps", "1", "--patch", "32", "--batch", "2", "--jobs", "1", "--labels", "2", "4"]
    places = [
        "--data",
        str(proxy_settings.data),
        "--test",
        str(proxy_settings.test),
        "--results",
        str(proxy_settings.results),
    ]
    command = ["proxy", "random", str(proxy_weights), "--task", "denoise", *arguments, *places, "--set", "num_gpu=0"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "| rcl | 4 |" in told and "| the input itself |" in told
    data = json.loads((proxy_settings.results / "proxy_denoise.json").read_text())
    assert [(row["weights"], row["labels"]) for row in data["rows"]] == [
        (name, labels) for name in ("random", "rcl") for labels in (2, 4)
    ]
    assert len(data["results"]) == 4 and data["settings"]["steps"] == 1
    page = Page((proxy_settings.results / "proxy_denoise.html").read_text())
    assert "rcl" in page.cells
    assert main(["proxy", "nowhere.pth"]) == 1
    assert "there is no such weight file" in capsys.readouterr().err
