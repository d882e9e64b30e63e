"""The small study of residual contrastive learning: equal conditions and cached results."""

import json

import cv2
import numpy as np
import pytest
import torch

from mcir.cli import main
from mcir.config import load
from mcir.registry import ARCHS
from mcir.tables import rcl_mini
from mcir.tables.cache import RunCache
from mcir.tables.commands import RclMini
from mcir.tables.mini import reproduce_mini
from mcir.tables.pretraining import methods, overrides_for
from mcir.tables.rcl_mini import RclPlan
from mcir.tables.study import complete, read_study
from tests.pages import Page
from tests.processes import check_killed

STUDY = read_study("rcl-mini")
FILE = STUDY.folder / "pretraining.yml"


def planned(**settings):
    return RclPlan(STUDY, complete(RclMini(**settings), STUDY))


# -- the plan ---------------------------------------------------------------------------------------------------------


def test_pretrainings_differ_only_in_the_method():
    ours, *others = (load(FILE, overrides_for(method, "random")) for method in methods())
    for options in others:
        for part in ("networks", "val", "scale", "manual_seed"):
            assert getattr(options, part) == getattr(ours, part)
        own, common = dict(options.datasets.train.section), dict(ours.datasets.train.section)
        own.pop("type"), common.pop("type")
        assert own == common
        assert options.datasets.train.batch_size_per_gpu == ours.datasets.train.batch_size_per_gpu
        own, common = dict(options.train.model), dict(ours.train.model)
        for key in ("contrastive_opt", "consistency_opt"):
            own.pop(key, None), common.pop(key, None)
        assert own == common and options.train.total_iter == ours.train.total_iter


def test_seeds_and_steps_are_the_same_for_pretraining_oracle_and_proxies(tmp_path):
    plan = planned(results=tmp_path, seeds=2, method=["N2N", "oracle", "random"])
    assert plan.command.method == ["RCL-EMD", "N2N", "random", "oracle"]
    names = [(one.seed, one.name, one.task) for one in plan.pretrainings]
    one_seed = [("RCL-EMD", ""), ("N2N", ""), ("oracle", "denoise"), ("oracle", "sr")]
    assert names == [(seed, *name) for seed in (0, 1) for name in one_seed]
    for one in plan.pretrainings:
        options = one.options()
        assert (options.manual_seed, options.train.total_iter) == (one.seed, plan.steps)
        assert options.train.model.optim_g.lr == 1e-3
        size = 2 * plan.patch if one.task == "sr" else plan.patch
        data = options.datasets.train
        assert data.section.get("gt_size", data.section.get("patch_size")) == size
        assert data.batch_size_per_gpu * (1 if one.name == "oracle" else 2) == plan.batch
    assert len({one.fingerprint for one in plan.pretrainings}) == len(names)
    weights = tmp_path / "net.pth"
    torch.save({"params": ARCHS.build(plan.pretrainings[0].options().networks["network_g"]).state_dict()}, weights)
    trials = plan.trials({(name, task, seed): weights for seed, name, task in names})
    assert [(one.seed, one.task, one.name) for one in trials] == [
        (seed, task, name) for seed in (0, 1) for task in ("denoise", "sr") for name in plan.command.method
    ]
    for trial in trials:
        options = trial.options()
        assert (options.manual_seed, options.train.total_iter) == (trial.seed, rcl_mini.STEPS)
        assert (options.model_type, options.train.model.optim_g.lr) == ("ProxyModel", rcl_mini.RATE)
        assert options.networks["network_g"]["num_feat"] == 16
        assert (options.path.pretrain_network_g is None) == (trial.name == "random")


def test_classifier_and_overrides_are_in_the_options(tmp_path):
    weights = tmp_path / "resnet.pth"
    weights.write_bytes(b"weights")
    settings = {"results": tmp_path / "out", "seeds": 1, "task": ["sr"], "method": ["N2N", "oracle"]}
    settings["features"] = str(weights)
    changes = ["num_gpu=0", "train.total_iter=9", "network_g.num_feat=4"]
    before = {run.name: run.fingerprint for run in planned(**settings).pretrainings}
    ours, n2n, oracle = planned(**settings, set=changes).pretrainings
    assert ours.options().train.model.consistency_opt["weights"] == str(weights)
    for run in (ours, n2n, oracle):
        options = run.options()
        assert (options.num_gpu, options.train.total_iter, options.networks["network_g"]["num_feat"]) == (0, 9, 4)
    weights.write_bytes(b"others")
    after = {run.name: run.fingerprint for run in planned(**settings).pretrainings}
    assert [name for name in before if before[name] != after[name]] == ["RCL-EMD"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": ["derain"]}, "no task 'derain'. Known: denoise, sr"),
        ({"method": ["SimCLR"]}, "no method 'SimCLR'. Known: RCL-EMD, RCL-BD"),
        ({"features": "resnet.pth"}, "--resnet: expected random, imagenet or a weight file; there is no file resnet"),
        ({"jobs": 0}, "--jobs: expected at least 1"),
        ({"set": ["train.totaliter=2"]}, "totaliter"),
    ],
)
def test_invalid_settings_are_errors(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        reproduce_mini(RclMini(results=tmp_path, **changes), lambda _: None)


def test_the_default_methods(tmp_path):
    settings = complete(RclMini(), STUDY)
    assert list(settings.method) == ["RCL-EMD", "N2N", "N2S", "DenseCL+", "random", "oracle"] and settings.seeds == 3
    assert list(STUDY.methods) == [*methods(), "random", "oracle"]


# -- the trainings ----------------------------------------------------------------------------------------------------

SMALL = ["num_gpu=0", "network_g.num_feat=4"]


@pytest.fixture
def own(tmp_path):
    """A folder with six small images."""
    folder = tmp_path / "own"
    folder.mkdir()
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 255, (36, 40, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


def test_a_quick_study_is_reported_and_cached(tmp_path, own, capsys, monkeypatch):
    out = tmp_path / "out"
    arguments = ["reproduce", "rcl-mini", "--quick", "--jobs", "1", "--data", str(own), "--results", str(out)]
    arguments += ["--set", *SMALL, "--method", "oracle"]
    assert main(arguments) == 0
    runs = list(RunCache(out / "runs.jsonl").records.values())
    proxies = [run for run in runs if "labels" in run]
    found = [(run["seed"], run["task"], run["method"]) for run in proxies]
    assert found == [(s, t, m) for s in (0, 1) for t in ("denoise", "sr") for m in ("RCL-EMD", "oracle")]
    assert all(set(run["images"]) == {"0", "5"} for run in proxies)  # every fifth is held out
    assert sorted(file.name.rpartition("_")[0] for file in (out / "weights").iterdir()) == [
        *(f"RCL-EMD_seed{seed}" for seed in (0, 1)),
        *(f"oracle_{task}_seed{seed}" for task in ("denoise", "sr") for seed in (0, 1)),
    ]
    data = json.loads((out / "rcl-mini.json").read_text())
    part = next(part for part in data["comparisons"] if part["task"] == "sr")
    psnr = {(run["method"], run["seed"]): run["psnr"] for run in proxies if run["task"] == "sr"}
    assert part["gains"] == [psnr["RCL-EMD", seed] - psnr["oracle", seed] for seed in (0, 1)]
    page = (out / "rcl-mini.html").read_text()
    assert "its numbers mean nothing" in page and "ResNet50 with random weights" in page
    assert Page(page).tags.count("svg") == 2

    computed = []
    for name in ("pretrain", "evaluate"):
        work = getattr(rcl_mini, name)
        monkeypatch.setattr(rcl_mini, name, lambda one, work=work: computed.append(one.name) or work(one))
    lines = (out / "runs.jsonl").read_text().splitlines(keepends=True)
    (out / "runs.jsonl").write_text("".join(lines[:-1]) + lines[-1][:20])  # a killed process leaves half a line
    assert main(arguments) == 0
    assert computed == ["oracle"]
    again = RunCache(out / "runs.jsonl").records
    key = runs[-1]["fingerprint"]
    assert again[key]["psnr"] == runs[-1]["psnr"] and len(again) == len(runs)
    computed.clear()
    next((out / "weights").glob("RCL-EMD_seed1*")).unlink()
    assert main(arguments) == 0
    assert computed == ["RCL-EMD"]  # missing weights are trained again, and are the same
    computed.clear()
    capsys.readouterr()
    assert main([*arguments, "--task", "denoise"]) == 0
    assert computed == [] and "proxy training: 4 trainings, 4 of them in" in capsys.readouterr().out


@pytest.mark.slow
def test_several_jobs_give_the_same_results(tmp_path, own):
    psnr = []
    for jobs in (1, 2):
        settings = {"task": ["denoise"], "method": ["N2S"], "quick": True, "set": SMALL}
        reproduce_mini(RclMini(results=tmp_path / str(jobs), data=own, jobs=jobs, **settings), lambda _: None)
        runs = RunCache(tmp_path / str(jobs) / "runs.jsonl").records.values()
        psnr.append({(run["method"], run["seed"], "labels" in run): run["psnr"] for run in runs})
    assert len(psnr[0]) == 8 and psnr[0] == psnr[1]


def test_a_killed_command_leaves_no_process_and_locks_its_folder(tmp_path, own):
    check_killed(
        tmp_path,
        ["rcl-mini", "--method", "RCL-BD", "--data", str(own), "--set", *SMALL],
        "train.consistency_opt",
        lambda results: reproduce_mini(RclMini(results=results, data=own, quick=True), print),
    )
