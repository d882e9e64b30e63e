"""The mini reproduction: fair pairs, and runs that are not repeated."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mcir.cli import main
from mcir.config import load, runs_of
from mcir.tables import mini
from mcir.tables.mini import METHODS, TASKS, MiniSettings, planned, read_runs, reproduce_mini
from tests.processes import check_killed
from tests.tables.pages import Page

# -- fairness ---------------------------------------------------------------------------------------------------------


def test_the_option_files_describe_the_methods():
    for task in TASKS:
        assert runs_of(mini.HOME / f"{task}.yml") == list(METHODS)


@pytest.mark.parametrize("task", TASKS)
def test_methods_differ_in_their_negatives_alone(task):
    plain = load(mini.HOME / f"{task}.yml", ["sweep=plain"])
    for method in list(METHODS)[1:]:
        options = load(mini.HOME / f"{task}.yml", [f"sweep={method}"])
        assert options.model_type == "ContrastiveModel"
        own = dict(options.train.model)
        for key in ("contrastive_opt", "negatives", "balance"):
            own.pop(key, None)
        assert own == dict(plain.train.model)
        for part in ("datasets", "networks", "val", "scale", "manual_seed"):
            assert getattr(options, part) == getattr(plain, part)
        assert options.train.total_iter == plain.train.total_iter


def test_all_methods_of_a_seed_come_before_the_next_seed():
    runs = planned(MiniSettings(seeds=2, tasks=["sr", "dehaze"], methods=["cr"]))
    expected = [(s, t, m) for s in (0, 1) for t in ("sr", "dehaze") for m in ("plain", "cr")]
    assert [(run.seed, run.task, run.method) for run in runs] == expected
    assert len(planned(MiniSettings())) == 90
    assert len({run.fingerprint() for run in runs}) == len(runs)


def test_seed_features_and_changes_reach_the_options(tmp_path):
    vgg = tmp_path / "a.pth"
    vgg.write_bytes(b"weights")
    settings = MiniSettings(seeds=2, tasks=["sr"], methods=["spn"], vgg=str(vgg), overrides=["train.total_iter=9"])
    runs = planned(settings)
    options = runs[3].options()
    assert (options.manual_seed, options.train.total_iter) == (1, 9)
    assert options.train.model.contrastive_opt.weights == str(vgg)
    assert "contrastive_opt" not in {key for key, value in runs[2].options().train.model.items() if value}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (MiniSettings(tasks=["derain"]), "no task 'derain'"),
        (MiniSettings(methods=["pcl"]), "no method 'pcl'. Known are plain, spn"),
        (MiniSettings(seeds=0), "at least one seed"),
        (MiniSettings(vgg="vgg16.pth"), "random, imagenet or a file of weights: there is no file vgg16.pth"),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        planned(settings)


# -- the runs ---------------------------------------------------------------------------------------------------------

QUICK = ["reproduce", "mini", "--quick", "--jobs", "1", "--task", "sr"]


def test_a_quick_run_is_made_told_and_not_repeated(tmp_path, capsys, monkeypatch):
    arguments = [*QUICK, "--results", str(tmp_path)]
    assert main([*arguments, "--method", "spn"]) == 0
    file = tmp_path / "runs.jsonl"
    first = file.read_text()
    assert first.count("\n") == 4
    runs = [json.loads(text) for text in first.splitlines()]
    assert [(run["method"], run["seed"]) for run in runs] == [("plain", 0), ("spn", 0), ("plain", 1), ("spn", 1)]
    assert all(run["curve"][-1] == [4, run["psnr"]] for run in runs)
    assert runs[0]["psnr"] != runs[2]["psnr"]
    assert runs[0]["ratio"] is None and 0 < runs[1]["ratio"] < 1

    file.write_text(first + '{"half": ')  # as a killed process leaves it
    made = []
    train = mini.train_one
    monkeypatch.setattr(mini, "train_one", lambda run: made.append(run.method) or train(run))
    assert main([*arguments, "--method", "spn", "--method", "random"]) == 0
    assert made == ["random", "random"]
    made.clear()
    assert main([*arguments, "--method", "spn", "--set", "train.total_iter=2"]) == 0
    assert len(made) == 4  # other options are other runs
    capsys.readouterr()
    assert main([*arguments, "--method", "spn"]) == 0
    assert len(made) == 4 and "4 trainings, 4 of them in" in capsys.readouterr().out

    data = json.loads((tmp_path / "mini.json").read_text())
    (found,) = data["comparisons"]
    gains = [runs[1]["psnr"] - runs[0]["psnr"], runs[3]["psnr"] - runs[2]["psnr"]]
    assert found["gains"] == pytest.approx(gains) and found["mean_gain"] == pytest.approx(sum(gains) / 2)
    assert data["quick"] and "its numbers mean nothing" in (tmp_path / "mini.md").read_text()
    page = Page((tmp_path / "mini.html").read_text())
    assert METHODS["spn"] in page.cells and page.tags.count("svg") == 2


def test_a_run_depends_on_its_seed_alone():
    run = planned(MiniSettings(quick=True, tasks=["denoise"], methods=["cr"]))[1]
    assert run.method == "cr"
    assert mini.train_one(run)["psnr"] == mini.train_one(run)["psnr"]


@pytest.fixture
def own(tmp_path):
    """Six small images."""
    folder = tmp_path / "own"
    folder.mkdir()
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 255, (24, 32, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


def test_several_jobs_give_the_same(tmp_path, own):
    settings = MiniSettings(quick=True, tasks=["sr"], methods=["plain"], data=own, results=tmp_path / "out", jobs=2)
    reproduce_mini(settings, lambda _: None)
    together = read_runs(tmp_path / "out/runs.jsonl")
    alone = [mini.train_one(run) for run in planned(settings)]
    assert len(together) == 2
    assert {run["fingerprint"]: run["psnr"] for run in alone} == {key: run["psnr"] for key, run in together.items()}


def test_images_of_ones_own(tmp_path, own):
    settings = MiniSettings(results=tmp_path / "out", data=own, quick=True, jobs=1, methods=["plain"])
    assert reproduce_mini(settings, lambda _: None) == 0
    runs = json.loads((tmp_path / "out/mini.json").read_text())["runs"]
    assert len(runs) == 6 and all(set(run["images"]) == {"0", "5"} for run in runs)  # every fifth is held out
    train = planned(settings)[0].options().datasets.train
    assert Path(train.section.meta_info_file).read_text().split() == ["1.png", "2.png", "3.png", "4.png"]
    assert (train.section.gt_size, train.batch_size_per_gpu) == (16, 4)


def test_too_few_images_of_ones_own(tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((24, 24, 3), np.uint8))
    with pytest.raises(ValueError, match="needs images to train on and others"):
        planned(MiniSettings(results=tmp_path / "out", data=tmp_path, tasks=["sr"]))


# -- what is measured otherwise, or elsewhere -------------------------------------------------------------------------


def test_results_measured_otherwise_are_told_and_not_mixed_in(tmp_path, own, monkeypatch):
    monkeypatch.setattr(mini, "train_one", made := Made())
    weights = tmp_path / "vgg.pth"
    weights.write_bytes(b"first")
    settings = MiniSettings(
        results=tmp_path / "out", data=own, quick=True, jobs=1, tasks=["sr"], methods=["cr"], vgg=str(weights)
    )

    def again():
        made.methods.clear()
        said = []
        reproduce_mini(settings, said.append)
        return [text for text in said if "measured otherwise" in text]

    assert again() == [] and made.methods == ["plain", "cr"] * 2
    assert again() == [] and made.methods == []
    weights.write_bytes(b"second")
    (told,) = again()
    assert "2 results in the file, measured otherwise (features a7937b64b8caa58f)" in told
    assert made.methods == ["cr", "cr"]  # plain training has no features
    monkeypatch.setattr(mini.torch, "__version__", "99")
    (told,) = again()
    assert "torch " in told and "are made again" in told and made.methods == ["plain", "cr"] * 2
    monkeypatch.setattr(mini.torch.cuda, "is_available", lambda: True)
    (told,) = again()
    assert "device cpu" in told and len(made.methods) == 4
    monkeypatch.setattr(mini.mcir, "__version__", "99")
    (told,) = again()
    assert "mcir 0" in told and len(made.methods) == 4
    assert again() == []


class Made:
    """Trainings that take no time, and which they were."""

    def __init__(self):
        self.methods = []

    def __call__(self, run):
        self.methods.append(run.method)
        numbers = {"psnr": 30.0, "ssim": 0.9, "psnr_of_input": 20.0, "training_seconds": 1.0, "seconds": 1.0}
        names = {"task": run.task, "method": run.method, "seed": run.seed, "fingerprint": run.fingerprint()}
        facts = {"conditions": run.conditions(), "images": {}, "curve": [[1, 30.0]], "ratio": None}
        return {**names, **numbers, **facts, "device": "cpu", "torch": "2"}


def test_a_killed_command_leaves_no_process_and_is_alone_while_it_runs(tmp_path, own):
    arguments = ["mini", "--task", "sr", "--method", "plain", "--data", str(own)]
    check_killed(
        tmp_path,
        arguments,
        "train.pixel_opt",
        lambda results: reproduce_mini(MiniSettings(results, data=own, quick=True, tasks=["sr"]), print),
    )
