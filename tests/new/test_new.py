"""`mcir new`: from a folder of images to an option file that trains, tests, resumes and restores without an edit."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch

from mcir.cli import main
from mcir.config import load, schema_path
from mcir.config.files import FOR_EDITORS
from mcir.data.bundled import TRAIN, photographs
from mcir.data.prepare import create_lmdb
from mcir.new.tasks import TASKS

ROOT = Path(__file__).parents[2]
FEW = ["--set", "train.total_iter=2", "val.val_freq=1", "logger.report=false", "logger.use_tb_logger=false"]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Five parts of real photographs in the current folder, and the same parts with less contrast."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mcir.new.choose._TRIAL_S", 0.1)
    images = photographs(TRAIN)
    Path("photos").mkdir()
    Path("hazy").mkdir()
    for key in ("astronaut.png", "brick.png", "camera.png", "rocket.jpg", "retina.jpg"):
        part = images.read(key)[100:164, 100:164, ::-1]
        cv2.imwrite(f"photos/{Path(key).stem}.png", part)
        cv2.imwrite(f"hazy/{Path(key).stem}.png", part // 2 + 120)
    return tmp_path


def cycle(name, folder, capsys):
    """Run every command on a file that `mcir new` wrote."""
    assert main(["check", f"{name}.yml"]) == 0
    assert main(["train", f"{name}.yml", *FEW]) == 0
    assert main(["train", f"{name}.yml", "--auto_resume", *FEW, "train.total_iter=3"]) == 0
    best = f"experiments/{name}/models/net_g_best.pth"
    assert torch.load(best, weights_only=True)
    capsys.readouterr()
    assert main(["test", f"{name}.yml", "--checkpoint", best]) == 0
    assert "validation" in capsys.readouterr().out
    assert main(["restore", folder, "-w", best, "-o", f"restored_{name}"]) == 0
    return cv2.imread(f"restored_{name}/rocket.png").shape


def test_super_resolution_from_the_file_to_a_restored_image(photos, capsys):
    assert main(["new", "sr", "--gt", "photos", "-o", "my.yml", "--budget", "50m"]) == 0
    output = capsys.readouterr().out
    assert "photos: 5 images of 64×64 pixels, 5 png, 2 grey" in output
    assert "Train:   mcir train my.yml\n" in output
    schema = Path("my.yml").read_text(encoding="utf-8").partition("\n")[0].removeprefix(FOR_EDITORS)
    assert schema == schema_path().as_uri()
    options = load("my.yml")
    assert options.network_g["upscale"] == options.scale == 2
    assert options.train.model["scheduler"]["T_max"] == options.train.total_iter
    assert options.train.total_iter % options.val.val_freq == 0
    assert cycle("my", "photos", capsys) == (128, 128, 3)


def test_pairs_from_the_file_to_a_restored_image(photos, capsys):
    assert main(["new", "dehaze", "--gt", "photos", "--lq", "hazy", "-o", "clear.yml", "--budget", "50m"]) == 0
    assert "Note: The hazy images are made" not in capsys.readouterr().out
    section = load("clear.yml").datasets.train.section
    assert "degradation" not in section
    assert cycle("clear", "hazy", capsys) == (64, 64, 3)


@pytest.mark.parametrize("task", [pytest.param(task, marks=pytest.mark.slow) for task in TASKS if task != "sr"])
def test_every_task_from_the_file_to_a_restored_image(task, photos, capsys):
    assert main(["new", task, "--gt", "photos", "--budget", "50m"]) == 0
    notice = " ".join(capsys.readouterr().out.split())
    assert f"Note: The {TASKS[task].degraded} images are made from your images" in notice
    assert cycle(task, "photos", capsys) == (64, 64, 3)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_published_recipe_trains(task, photos, capsys, monkeypatch):
    monkeypatch.setattr("mcir.new.choose.memory_available", lambda: 0)  # the steps are not timed
    assert main(["new", task, "--gt", "photos", "-o", "paper.yml", "--budget", "paper"]) == 0
    assert "A step needs more memory than is free." in capsys.readouterr().out
    options = load("paper.yml")
    assert options.train.total_iter >= 131_537
    assert options.datasets.train.section["gt_size"] <= 64
    assert main(["train", "paper.yml", *FEW, "datasets.train.batch_size_per_gpu=1"]) == 0


def test_spn_is_one_line(photos, monkeypatch, capsys):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(photos / "nothing"))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    assert main(["new", "sr", "--gt", "photos", "-o", "spn.yml", "--budget", "50m", "--contrastive", "spn"]) == 0
    assert "SPN uses random features" in " ".join(capsys.readouterr().out.split())
    lines = Path("spn.yml").read_text().splitlines()
    (line,) = [number for number, line in enumerate(lines) if "/spn" in line and line.strip().startswith("-")]
    options = load("spn.yml")
    assert options.model_type == "ContrastiveModel"
    assert options.train.model["contrastive_opt"]["weights"] == "random"
    assert main(["train", "spn.yml", *FEW]) == 0
    Path("plain.yml").write_text("\n".join(lines[:line] + lines[line + 1 :]))
    plain = load("plain.yml")
    assert plain.model_type == "RestorationModel"
    assert "contrastive_opt" not in plain.train.model
    commented = "\n".join(lines).replace("- _base_/spn", "# - _base_/spn")
    Path("plain.yml").write_text(commented)
    assert load("plain.yml") == plain


def offline(*arguments, **options):
    raise OSError("no network")


def test_names_that_yaml_must_quote(photos, capsys):
    folder = 'it\'s: a "folder" #1 ü'
    shutil.move("photos", folder)
    os.rename(f"{folder}/brick.png", f"{folder}/# brick: 'x' (480,480,3).png")
    assert main(["new", "sr", "--gt", folder, "-o", "a b/no.yml", "--budget", "50m"]) == 0
    options = load("a b/no.yml")
    assert options.name == "no"
    assert main(["train", "a b/no.yml", *FEW]) == 0


def test_an_existing_file_is_replaced_only_with_force(photos, capsys):
    Path("my.yml").write_text("mine")
    command = ["new", "sr", "--gt", "photos", "-o", "my.yml", "--budget", "50m"]
    assert main(command) == 1
    assert "my.yml: the file exists" in capsys.readouterr().err
    assert Path("my.yml").read_text() == "mine"
    Path("my.yml").rename("my_val.txt")
    assert main(command) == 1
    assert "my_val.txt: the file exists" in capsys.readouterr().err
    assert sorted(path.name for path in photos.iterdir()) == ["hazy", "my_val.txt", "photos"]
    assert main([*command, "--force"]) == 0
    load("my.yml")


def test_a_database_as_ground_truths(photos, capsys):
    create_lmdb("photos", "photos.lmdb")
    assert main(["new", "sr", "--gt", "photos.lmdb", "-o", "my.yml", "--budget", "50m"]) == 0
    assert main(["train", "my.yml", *FEW]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sr"], "expected --gt DIR"),
        (["dehaze", "--lq", "hazy"], "expected --gt DIR, the good versions of the hazy images"),
        (["denoise", "--lq", "hazy"], "docs/rcl.md"),
        (["denoise", "--gt", "photos", "--scale", "2"], "--scale: expected 1, because only 'sr' changes"),
        (["sr", "--gt", "photos", "--scale", "0"], "--scale: expected one of 2, 3, 4, 8, got 0"),
        (["sr", "--gt", "nowhere"], "nowhere: no such folder"),
        (["sr", "--gt", "photos", "-o", "my.txt"], "expected a name that ends in .yml"),
        (["sr", "--gt", "photos", "-o", "/proc/my.yml"], "/proc/"),
        (["sr", "--gt", "$HOMER"], "expected a path without '$'"),
    ],
)
def test_mistakes_are_found_before_any_step(arguments, message, photos, capsys, monkeypatch):
    monkeypatch.setattr("mcir.new.command.choose", None)
    assert main(["new", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert sorted(path.name for path in photos.iterdir()) == ["hazy", "photos"]


@pytest.mark.skipif(signal.getsignal(signal.SIGINT) != signal.default_int_handler, reason="Ctrl-C is ignored")
def test_ctrl_c_leaves_no_file(photos):
    command = [sys.executable, "-m", "mcir.cli", "new", "sr", "--gt", "photos", "-o", "my.yml", "--budget", "1d"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(photos)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    while line and not line.startswith("Timing"):
        line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, "")
    assert sorted(path.name for path in photos.iterdir()) == ["hazy", "photos"]
