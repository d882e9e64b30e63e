"""The page "Your own photographs": every command works, in the order of the page, in an empty folder."""

import json
import re
import shlex
from pathlib import Path

import cv2
import pytest

from mcir import cli
from mcir.new import timing

PAGE = Path(__file__).parents[1] / "docs" / "photographs.md"
SHORT = ("train.total_iter=4", "train.scheduler.T_max=4", "val.val_freq=2", "logger.save_checkpoint_freq=2")
LONGER = ("train.total_iter=6",)


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """A function that runs commands in an empty folder, with trainings of four iterations."""
    measure = timing.measure
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing, "measure", lambda options, seconds: measure(options, seconds=0))
    monkeypatch.setattr("webbrowser.open", lambda address: None)

    def follow(commands):
        for line in commands:
            words = shlex.split(line)
            assert words[0] == "mcir"
            short = ["--set", *SHORT] if words[1] in ("train", "check") else []
            short += LONGER if "--auto_resume" in words else []
            assert cli.main([*words[1:], *short]) == 0, line

    return follow


def commands(text):
    return [
        line
        for block in re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]


def parts():
    """Return the part of the page on one training, and the rest."""
    text = PAGE.read_text(encoding="utf-8")
    first, heading, rest = text.partition("## Pairs of images")
    assert heading
    return commands(first), commands(rest)


def test_from_the_folder_to_a_restored_photograph(follow):
    first, _ = parts()
    assert len(first) == 9
    follow(first)
    photograph, result = (cv2.imread(file) for file in ("photos/coffee.png", "coffee_x2.png"))
    assert result.shape[:2] == (2 * photograph.shape[0], 2 * photograph.shape[1])
    assert "coffee" in Path("my_val.txt").read_text() and "coffee" not in Path("my_train.txt").read_text()
    assert list(json.loads(Path("compared/metrics.json").read_text())["images"]) == ["coffee.png"]
    assert Path("compared/comparisons/coffee.png").is_file()
    assert Path("experiments/my/report.html").is_file() and Path("experiments/my/models/net_g_6.pth").is_file()


@pytest.mark.slow
def test_the_whole_page(follow):
    first, rest = parts()
    follow([*first, *rest])
    assert Path("dehazed/comparisons/coffee.png").is_file()
    assert Path("both.html").is_file()
    assert "spn" in Path("spn.yml").read_text()
