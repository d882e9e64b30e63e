"""The small study of negatives: equal conditions, cached results and own images."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mcir.cli import main
from mcir.config import load, runs_of
from mcir.tables import mini
from mcir.tables.cache import RunCache
from mcir.tables.commands import Mini
from mcir.tables.mini import plan, reproduce_mini, train_one
from mcir.tables.study import complete, read_study
from tests.pages import Page
from tests.processes import check_killed

STUDY = read_study("mini")


def planned(**settings):
    return plan(STUDY, complete(Mini(**settings), STUDY))


# -- the plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", STUDY.tasks)
def test_methods_differ_only_in_their_negatives(task):
    file = STUDY.folder / f"{task}.yml"
    assert runs_of(file) == list(STUDY.methods)
    plain = load(file, ["sweep=plain"])
    for method in list(STUDY.methods)[1:]:
        options = load(file, [f"sweep={method}"])
        assert options.model_type == "ContrastiveModel"
        own = dict(options.train.model)
        for key in ("contrastive_opt", "negatives", "balance"):
            own.pop(key, None)
        assert own == dict(plain.train.model)
        for part in ("datasets", "networks", "val", "scale", "manual_seed"):
            assert getattr(options, part) == getattr(plain, part)
        assert options.train.total_iter == plain.train.total_iter


def test_trainings_are_ordered_by_seed_task_and_method():
    runs = planned(seeds=2, task=["sr", "dehaze"], method=["cr"])
    expected = [(s, t, m) for s in (0, 1) for t in ("sr", "dehaze") for m in ("plain", "cr")]
    assert [(run.seed, run.task, run.name) for run in runs] == expected
    assert len({run.fingerprint for run in runs}) == len(runs)
    defaults = complete(Mini(), STUDY)
    assert (defaults.seeds, list(defaults.task), list(defaults.method)) == (5, list(STUDY.tasks), list(STUDY.methods))


def test_seed_features_and_overrides_reach_the_options(tmp_path):
    vgg = tmp_path / "a.pth"
    vgg.write_bytes(b"weights")
    runs = planned(seeds=2, task=["sr"], method=["spn"], features=str(vgg), set=["train.total_iter=9"])
    options = runs[3].options()
    assert (options.manual_seed, options.train.total_iter) == (1, 9)
    assert options.train.model.contrastive_opt.weights == str(vgg)
    assert "contrastive_opt" not in {key for key, value in runs[2].options().train.model.items() if value}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": ["derain"]}, "no task 'derain'"),
        ({"method": ["pcl"]}, "no method 'pcl'. Known: plain, spn"),
        ({"seeds": 0}, "--seeds: expected at least 1, got 0"),
        ({"features": "vgg16.pth"}, "--vgg: expected random, imagenet or a weight file; there is no file vgg16.pth"),
    ],
)
def test_invalid_settings_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        planned(**settings)


# -- the trainings ----------------------------------------------------------------------------------------------------


def test_a_collapsed_training_does_not_stop_the_study(tmp_path):
    """The reference of the first seed diverges; its pair has no finite difference."""
    wild = ["train.optim_g.lr=1000", "train.total_iter=3", "val.val_freq=3", "datasets.train.gt_size=16"]
    lines = []
    command = Mini(seeds=1, task=["sr"], method=["cr"], jobs=1, results=tmp_path, set=wild)
    assert reproduce_mini(command, lines.append) == 0
    assert any("sr plain seed 0: collapsed at iteration " in line for line in lines)
    first = json.loads((tmp_path / "runs.jsonl").read_text().splitlines()[0])
    assert (first["psnr"], first["method"]) == ("nan", "plain") and first["collapsed"] in (1, 2, 3)
    assert "no seed ended with finite numbers" in (tmp_path / "mini.md").read_text()
    lines.clear()
    assert reproduce_mini(command, lines.append) == 0
    assert "2 of them in" in lines[0]  # they are not repeated


@pytest.fixture
def own(tmp_path):
    """A folder with six small images."""
    folder = tmp_path / "own"
    folder.mkdir()
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 255, (24, 32, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


def test_a_quick_study_is_reported_and_cached(tmp_path, capsys, monkeypatch):
    arguments = ["reproduce", "mini", "--quick", "--jobs", "1", "--task", "sr", "--results", str(tmp_path)]
    assert main([*arguments, "--method", "spn"]) == 0
    file = tmp_path / "runs.jsonl"
    first = file.read_text()
    runs = [json.loads(text) for text in first.splitlines()]
    assert [(run["method"], run["seed"]) for run in runs] == [("plain", 0), ("spn", 0), ("plain", 1), ("spn", 1)]
    assert all([point[0] for point in run["curve"]] == [2, 4] for run in runs)
    assert all(run["curve"][-1][1] == run["psnr"] and run["training_seconds"] > 0 for run in runs)
    assert runs[0]["psnr"] != runs[2]["psnr"]
    assert runs[0]["ratio"] is None and 0 < runs[1]["ratio"] < 1
    assert list((tmp_path / "runs").iterdir()) == []

    file.write_text(first + '{"half": ')  # a killed process leaves half a line
    computed = []
    monkeypatch.setattr(mini, "train_one", lambda run: computed.append(run.name) or train_one(run))
    assert main([*arguments, "--method", "spn", "--method", "random"]) == 0
    assert computed == ["random", "random"]
    computed.clear()
    assert main([*arguments, "--method", "spn", "--set", "train.total_iter=2"]) == 0
    assert len(computed) == 4  # other options are other trainings
    capsys.readouterr()
    assert main([*arguments, "--method", "spn"]) == 0
    assert len(computed) == 4 and "4 trainings, 4 of them in" in capsys.readouterr().out

    data = json.loads((tmp_path / "mini.json").read_text())
    (found,) = data["comparisons"]
    gains = [runs[1]["psnr"] - runs[0]["psnr"], runs[3]["psnr"] - runs[2]["psnr"]]
    assert found["gains"] == pytest.approx(gains) and found["mean_gain"] == pytest.approx(sum(gains) / 2)
    assert data["quick"] and "its numbers mean nothing" in (tmp_path / "mini.md").read_text()
    page = Page((tmp_path / "mini.html").read_text())
    assert STUDY.title_of("spn") in page.cells and page.tags.count("svg") == 2


def test_jobs_and_own_images(tmp_path, own):
    settings = {"quick": True, "task": ["sr"], "method": ["plain"], "data": own, "results": tmp_path / "out"}
    reproduce_mini(Mini(**settings, jobs=2), lambda _: None)
    together = RunCache(tmp_path / "out/runs.jsonl").records
    runs = planned(**settings)
    alone = {run.fingerprint: train_one(run) for run in runs}
    assert len(together) == 2 and {key: run["psnr"] for key, run in alone.items()} == {
        key: run["psnr"] for key, run in together.items()
    }
    assert all(set(run["images"]) == {"0", "5"} for run in together.values())  # every fifth image is held out
    train = runs[0].options().datasets.train
    assert Path(train.section.meta_info_file).read_text().split() == ["1.png", "2.png", "3.png", "4.png"]
    assert (train.section.gt_size, train.batch_size_per_gpu) == (16, 4)


@pytest.mark.parametrize("change", ["features", "torch", "mcir", "device"])
def test_the_fingerprint_depends_on_features_versions_and_device(tmp_path, monkeypatch, change):
    weights = tmp_path / "vgg.pth"
    weights.write_bytes(b"first")
    settings = {"task": ["sr"], "method": ["cr"], "features": str(weights), "seeds": 1}
    plain, contrast = (run.fingerprint for run in planned(**settings))
    if change == "features":
        weights.write_bytes(b"second")
    elif change == "device":
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    else:
        monkeypatch.setattr(f"{change}.__version__", "99")
    other_plain, other = (run.fingerprint for run in planned(**settings))
    assert other != contrast
    assert (other_plain == plain) == (change == "features")  # a plain training has no features


def test_a_killed_command_leaves_no_process_and_locks_its_folder(tmp_path, own):
    check_killed(
        tmp_path,
        ["mini", "--task", "sr", "--method", "plain", "--data", str(own)],
        "train.pixel_opt",
        lambda results: reproduce_mini(Mini(results=results, data=own, quick=True, task=["sr"]), print),
    )
