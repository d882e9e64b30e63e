"""`mcir new`: from a folder of images to an option file that trains, tests, resumes and restores without an edit."""

from pathlib import Path

import cv2
import pytest
import torch

from mcir.cli import main
from mcir.config import load, schema_path
from mcir.config.files import FOR_EDITORS
from mcir.data.bundled import TRAIN, photographs

FEW = ["--set", "train.total_iter=2", "val.val_freq=1", "logger.report=false", "logger.use_tb_logger=false"]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Five parts of real photographs in the current folder."""
    monkeypatch.chdir(tmp_path)
    images = photographs(TRAIN)
    Path("photos").mkdir()
    for key in ("astronaut.png", "brick.png", "camera.png", "rocket.jpg", "retina.jpg"):
        part = images.read(key)[100:180, 100:180]
        cv2.imwrite(f"photos/{Path(key).stem}.png", part[:, :, ::-1])
    return tmp_path


def test_super_resolution_from_the_file_to_a_restored_image(photos, capsys):
    assert main(["new", "sr", "--gt", "photos", "-o", "my.yml", "--budget", "1m"]) == 0
    output = capsys.readouterr().out
    assert "photos: 5 images of 80×80 pixels, 5 png, 2 grey" in output
    schema = Path("my.yml").read_text(encoding="utf-8").partition("\n")[0].removeprefix(FOR_EDITORS)
    assert schema == schema_path().as_uri()
    options = load("my.yml")
    assert options.network_g["upscale"] == options.scale == 2
    assert main(["check", "my.yml", *FEW]) == 0
    assert main(["train", "my.yml", *FEW]) == 0
    assert main(["train", "my.yml", "--auto_resume", *FEW, "train.total_iter=3"]) == 0
    best = "experiments/my/models/net_g_best.pth"
    assert torch.load(best, weights_only=True)
    assert main(["test", "my.yml", "--checkpoint", best]) == 0
    assert main(["restore", "photos", "-w", best, "-o", "restored"]) == 0
    assert cv2.imread("restored/rocket.png").shape == (160, 160, 3)
