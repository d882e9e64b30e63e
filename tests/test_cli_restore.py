"""Tests of ``mcir restore``: arguments, errors, and resuming after a kill."""

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
from tests.data.images import noise, save

ROOT = Path(__file__).parents[1]
MANY = 27


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Change to a folder with two checkpoints, and images in two folders."""
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
    captured = capsys.readouterr()
    assert captured.out.startswith("EDSR, ×2, on cpu: 2 to restore, 0 exist already\n")
    assert "restored: 2 restored, " in captured.out
    assert "megapixels/s" in captured.out
    assert not captured.err
    assert restore("photos/a.png", "-w", "x3.pth", "-o", "big/a.tif") == 0
    assert "big/a.tif: 1 restored, " in capsys.readouterr().out
    assert read_picture("big/a.tif").pixels.shape == (48, 60, 3)
    assert restore("photos/**/*.jpg", "-w", "x2.pth", "-o", "globbed", "--suffix", "_x2", "--format", "png") == 0
    assert files("globbed") == ["deep er/b ü_x2.png"]


def test_skipped_files_are_counted_by_type(here, capsys):
    for name in ("b.gif", "deep er/c.GIF", "notes.txt", ".hidden.txt", ".cache/d.gif", "out/old.txt"):
        Path("photos", name).parent.mkdir(exist_ok=True)
        Path("photos", name).touch()
    assert restore("photos", "-w", "x2.pth", "-o", "photos/out") == 0
    assert "Skipped: 2 GIF, 1 TXT.\n" in capsys.readouterr().out
    assert restore("photos", "photos/deep er", "-w", "x2.pth", "-o", "photos/out", "--suffix", "_x2") == 0
    assert "Skipped: 2 GIF, 1 TXT.\n" in capsys.readouterr().out
    assert restore("photos/a.png", "-w", "x2.pth") == 0
    assert "Skipped" not in capsys.readouterr().out


def test_all_options(here):
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
def test_arguments_become_settings(monkeypatch, words, options):
    from mcir.inference import batch

    calls = []
    monkeypatch.setattr(batch, "restore_folder", lambda settings: calls.append(settings) or 0)
    assert cli.main(["restore", "in", "more", "-w", "x.pth", *words]) == 0
    (settings,) = calls
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
def test_invalid_arguments(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        restore(*words)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nothing", "-w", "x2.pth"), "'nothing': no such file"),
        (("empty", "-w", "x2.pth"), "no image found in empty; searched for .bmp, "),
        (("photos", "-w", "none.pth"), "none.pth: expected a weight file, but the path does not exist"),
        (("photos", "-w", "photos/a.png"), "photos/a.png cannot be read"),
        (("photos", "-w", "x2.pth", "--key", "params_ema"), "expected the key 'params_ema'"),
        (("photos", "-w", "x2.pth", "-o", "photos"), "would overwrite the input photos/a.png"),
        (("photos", "photos/a.png/..", "-w", "x2.pth"), "'photos/a.png/..': no such file"),
        (("photos", "twice", "-w", "x2.pth"), "is also the result of"),
        (("photos", "-w", "x2.pth", "--gt", "empty"), "empty: no image found"),
        (("photos", "-w", "x2.pth", "--gt", "twice"), "none of 2 images has a ground truth"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(here, words, message, capsys):
    Path("empty").mkdir()
    save("twice/a.png", noise(8, 8))
    if "--gt" in words:
        Path("twice/a.png").rename("twice/other.png")
    before = files(".")
    assert restore(*words) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("mcir restore: ")
    assert message in captured.err
    assert not captured.out
    assert files(".") == before


def test_a_bad_image_sets_the_exit_status(here, capsys):
    Path("photos/bad.png").write_text("words")
    assert restore("photos", "-w", "x2.pth") == 1
    assert files() == ["a.png", "deep er/b ü.jpg"]
    captured = capsys.readouterr()
    assert "photos/bad.png" in captured.err
    assert "photos/bad.png" not in captured.out
    assert restore("photos/bad.png", "-w", "x2.pth", "-o", "other") == 1
    assert files("other") == []


# -- in a separate process --------------------------------------------------------------------------------------------


def start(*words, **options):
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", "mcir.cli", "restore", *words, "--device", "cpu"]
    return subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", **options
    )


def start_many(count=MANY):
    """Start a run that takes seconds, and return it when three results exist."""
    section = {"type": "EDSR", "num_feat": 32, "num_block": 4, "upscale": 2, "img_range": 1.0}
    torch.manual_seed(0)
    torch.save({"params": ARCHS.build(section).state_dict()}, "slow.pth")
    for number in range(count):
        save(f"many/{number % 3}/{number}.png", noise(64, 64, seed=number))
    process = start("many", "-w", "slow.pth")
    until = time.monotonic() + 120
    while len(complete()) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)
    return process


def complete():
    return [name for name in files() if not Path(name).name.startswith(".")]


def test_a_killed_run_leaves_complete_files_and_continues(here, capsys):
    process = start_many()
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    there = complete()
    assert 3 <= len(there) < MANY
    assert all(read_picture(Path("restored", name)).pixels.shape == (128, 128, 3) for name in there)
    times = {name: Path("restored", name).stat().st_mtime_ns for name in there}
    assert restore("many", "-w", "slow.pth", "--skip-existing") == 0
    assert f"{MANY - len(there)} restored, {len(there)} existed already" in capsys.readouterr().out
    assert complete() == sorted(f"{number % 3}/{number}.png" for number in range(MANY))
    assert {name: Path("restored", name).stat().st_mtime_ns for name in there} == times
    network = Restorer(load_network("slow.pth"), device="cpu")
    for name in (there[0], complete()[-1]):
        (expected,) = network.pictures([read_picture(Path("many", name))])
        assert abs(read_picture(Path("restored", name)).pixels.astype(int) - expected.pixels).max() <= 1


def test_an_interrupted_run_ends_with_complete_files(here):
    process = start_many()
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, captured = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - started < 20
    assert "Traceback" not in captured
    assert files() == complete()
    assert 3 <= len(files()) < MANY
    assert all(read_picture(Path("restored", name)).width == 128 for name in files())


def test_output_to_a_pipe_is_plain(here):
    process = start("photos", "-w", "x2.pth")
    captured, wrong = process.communicate(timeout=120)
    assert process.returncode == 0, wrong
    assert "\x1b" not in captured
    assert captured.splitlines()[0] == "EDSR, ×2, on cpu: 2 to restore, 0 exist already"
    assert len(captured.splitlines()) == 2
