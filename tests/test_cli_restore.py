"""``mcir restore`` as a person calls it, and what a kill leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mcir import cli
from mcir.inference.images import read_picture
from mcir.inference.restorer import Restorer
from mcir.registry import ARCHS
from mcir.weights import load_network
from tests.data.pictures import noise, save

ROOT = Path(__file__).parents[1]
MANY = 27


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The present folder: two checkpoints, and pictures in two folders."""
    monkeypatch.chdir(tmp_path)
    for scale in (2, 3):
        torch.manual_seed(0)
        section = {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": scale, "img_range": 1.0}
        torch.save({"params": ARCHS.build(section).state_dict()}, f"x{scale}.pth")
    save("photos/a.png", noise(16, 20))
    save("photos/deep er/b ü.jpg", noise(20, 16))
    return tmp_path


def files(folder="restored"):
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def restore(*words):
    return cli.main(["restore", *words, "--device", "cpu"])


def test_a_folder_a_file_and_a_pattern(here, capsys):
    assert restore("photos", "-w", "x2.pth") == 0
    assert files() == ["a.png", "deep er/b ü.jpg"]
    assert read_picture("restored/deep er/b ü.jpg").pixels.shape == (40, 32, 3)
    told = capsys.readouterr()
    assert told.out.startswith("EDSR, ×2, on cpu: 2 to restore, 0 there already\n")
    assert "restored: 2 restored, " in told.out
    assert "megapixels/s" in told.out
    assert not told.err
    assert restore("photos/a.png", "-w", "x3.pth", "-o", "big/a.tif") == 0
    assert "big/a.tif: 1 restored, " in capsys.readouterr().out
    assert read_picture("big/a.tif").pixels.shape == (48, 60, 3)
    assert restore("photos/**/*.jpg", "-w", "x2.pth", "-o", "globbed", "--suffix", "_x2", "--format", "png") == 0
    assert files("globbed") == ["deep er/b ü_x2.png"]


def test_every_option_arrives(here):
    save("gt/a.png", noise(33, 41))
    save("gt/b ü.png", noise(40, 32))
    words = ["--tile", "16", "--overlap", "4", "--ensemble", "--bf16", "--batch", "2", "--format", "webp"]
    words += ["--bits", "8", "--quality", "80", "--suffix", "_y", "--skip-existing"]
    more = ["--compare", "--gt", "gt", "--crop-border", "1", "--key", "params", "-o", "out"]
    assert restore("photos", "-w", "x2.pth", *words, *more) == 0
    assert files("out") == [
        "a_y.webp",
        "comparisons/a_y.webp.png",
        "comparisons/deep er/b ü_y.webp.png",
        "deep er/b ü_y.webp",
        "metrics.csv",
        "metrics.json",
    ]
    tree = json.loads(Path("out/metrics.json").read_text("utf-8"))
    facts = {key: tree[key] for key in ("weights", "architecture", "scale", "ground_truth", "crop_border", "faults")}
    assert facts == {
        "weights": "x2.pth",
        "architecture": "EDSR",
        "scale": 2,
        "ground_truth": "gt",
        "crop_border": 1,
        "faults": {},
    }


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ((), {"tile": "auto", "precision": "fp32", "out": Path("restored"), "device": None, "batch": 1}),
        (("--tile", "none", "--half"), {"tile": None, "precision": "fp16"}),
        (("--tile", "64", "--overlap", "8", "--bf16"), {"tile": 64, "overlap": 8, "precision": "bf16"}),
        (("-opt", "x.yml", "--key", "params", "-o", "y"), {"opt": Path("x.yml"), "key": "params", "out": Path("y")}),
        (("--device", "cuda:1", "--bits", "16"), {"device": "cuda:1", "bits": 16}),
    ],
)
def test_words_become_settings(monkeypatch, words, options):
    from mcir.inference.batch import run as folder

    given = []
    monkeypatch.setattr(folder, "restore_folder", lambda settings: given.append(settings) or 0)
    assert cli.main(["restore", "in", "more", "-w", "x.pth", *words]) == 0
    (settings,) = given
    assert settings.inputs == ["in", "more"]
    assert settings.weights == Path("x.pth")
    assert {key: getattr(settings, key) for key in options} == options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("photos",), "required: -w"),
        (("-w", "x2.pth"), "required: INPUT"),
        (("photos", "-w", "x2.pth", "--tile", "few"), "--tile: expected a number of pixels, auto or none, got 'few'"),
        (("photos", "-w", "x2.pth", "--half", "--bf16"), "not allowed with"),
        (("photos", "-w", "x2.pth", "--bits", "10"), "invalid choice: 10"),
    ],
)
def test_words_that_make_no_sense_are_told(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        restore(*words)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nothing", "-w", "x2.pth"), "nothing: is not there"),
        (("empty", "-w", "x2.pth"), "no picture found in empty, at any depth; looked for .bmp, "),
        (("photos", "-w", "none.pth"), "none.pth: there is no such weight file"),
        (("photos", "-w", "photos/a.png"), "photos/a.png cannot be read as weights"),
        (("photos", "-w", "x2.pth", "--key", "params_ema"), "no 'params_ema'"),
        (("photos", "-w", "x2.pth", "-o", "photos"), "would take the place of the picture photos/a.png"),
        (("photos", "photos/a.png/..", "-w", "x2.pth"), "photos/a.png/..: is not there"),
        (("photos", "twice", "-w", "x2.pth"), "is also that of"),
        (("photos", "-w", "x2.pth", "--gt", "empty"), "empty: no picture found"),
        (("photos", "-w", "x2.pth", "--gt", "twice"), "none of 2 pictures has a ground truth"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(here, words, message, capsys):
    Path("empty").mkdir()
    save("twice/a.png", noise(8, 8))
    if "--gt" in words:
        Path("twice/a.png").rename("twice/other.png")
    before = files(".")
    assert restore(*words) == 1
    told = capsys.readouterr()
    assert told.err.startswith("mcir restore: ")
    assert message in told.err
    assert not told.out
    assert files(".") == before


def test_a_bad_picture_makes_the_status_one_and_is_told_last(here, capsys):
    Path("photos/bad.png").write_text("words")
    assert restore("photos", "-w", "x2.pth") == 1
    assert files() == ["a.png", "deep er/b ü.jpg"]
    told = capsys.readouterr()
    assert "photos/bad.png" in told.err
    assert "photos/bad.png" not in told.out
    assert restore("photos/bad.png", "-w", "x2.pth", "-o", "other") == 1
    assert files("other") == []


# -- in a process of its own ------------------------------------------------------------------------------------------


def start(*words, **options):
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", "mcir.cli", "restore", *words, "--device", "cpu"]
    return subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", **options
    )


def begin_many(count=MANY):
    """Start a run that takes seconds, and return it when three results are there."""
    section = {"type": "EDSR", "num_feat": 32, "num_block": 4, "upscale": 2, "img_range": 1.0}
    torch.manual_seed(0)
    torch.save({"params": ARCHS.build(section).state_dict()}, "slow.pth")
    for number in range(count):
        save(f"many/{number % 3}/{number}.png", noise(64, 64, seed=number))
    process = start("many", "-w", "slow.pth")
    until = time.monotonic() + 120
    while len(whole()) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)
    return process


def whole():
    return [name for name in files() if not Path(name).name.startswith(".")]


def test_a_killed_run_leaves_whole_files_and_goes_on(here, capsys):
    process = begin_many()
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    there = whole()
    assert 3 <= len(there) < MANY
    assert all(read_picture(Path("restored", name)).pixels.shape == (128, 128, 3) for name in there)
    times = {name: Path("restored", name).stat().st_mtime_ns for name in there}
    dead = Path("restored/2", f".26.png.{process.pid}")
    dead.parent.mkdir(exist_ok=True)
    dead.write_bytes(b"half")  # as if it had been hit while it wrote this one
    assert restore("many", "-w", "slow.pth", "--skip-existing") == 0
    assert f"{MANY - len(there)} restored, {len(there)} there already" in capsys.readouterr().out
    assert files() == sorted(f"{number % 3}/{number}.png" for number in range(MANY))
    assert {name: Path("restored", name).stat().st_mtime_ns for name in there} == times
    network = Restorer(load_network("slow.pth"), device="cpu")
    for name in (there[0], files()[-1]):
        (expected,) = network.pictures([read_picture(Path("many", name))])
        assert abs(read_picture(Path("restored", name)).pixels.astype(int) - expected.pixels).max() <= 1


def test_an_interrupted_run_ends_at_once_with_whole_files_only(here):
    process = begin_many()
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - begun < 20
    assert "Traceback" not in told
    assert files() == whole()
    assert 3 <= len(files()) < MANY
    assert all(read_picture(Path("restored", name)).width == 128 for name in files())


def test_at_the_end_of_a_pipe_lines_are_plain(here):
    process = start("photos", "-w", "x2.pth")
    told, wrong = process.communicate(timeout=120)
    assert process.returncode == 0, wrong
    assert "\x1b" not in told
    assert told.splitlines()[0] == "EDSR, ×2, on cpu: 2 to restore, 0 there already"
    assert len(told.splitlines()) == 2
