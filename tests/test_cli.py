"""The command ``mcir`` as a person uses it."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
import yaml

from mcir.cli import main
from mcir.registry import ARCHS
from tests.engine.conftest import ROOT, options, run  # noqa: F401 (run is a fixture)


def test_list_shows_names_arguments_and_sources(capsys):
    assert main(["list", "archs"]) == 0
    told = capsys.readouterr().out
    assert "EDSR  mcir.archs.edsr" in told
    assert "    upscale: an integer = 4" in told
    assert main(["list", "negatives", "*history*"]) == 0
    told = capsys.readouterr().out
    assert "HistoryNegatives  mcir.models.negatives" in told
    assert "weight: " in told
    assert "    network:" not in told  # what mcir passes itself
    assert main(["list", "metrics"]) == 0
    assert "PSNR (also calculate_psnr)" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["losses", "datasets", "degradations", "models", "optimizers", "schedulers"])
def test_everything_can_be_listed(what, capsys):
    assert main(["list", what]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 4


def test_a_pattern_without_a_match_offers_the_nearest(capsys):
    assert main(["list", "archs", "EDRS"]) == 1
    assert "Did you mean 'EDSR'" in capsys.readouterr().err


def test_check_prints_resolved_options_and_the_cost(run, capsys):  # noqa: F811
    assert main(["check", "-opt", str(run.option_file), "--set", "train.total_iter=7"]) == 0
    told = capsys.readouterr().out
    resolved = yaml.safe_load(told)
    assert resolved["train"]["total_iter"] == 7
    assert resolved["datasets"]["train"]["gt_size"] == 16
    assert "# parameters              1,259" in told
    assert "FLOPs of a step" in told
    assert not (run.folder / "experiments").exists()


def test_check_tells_every_mistake_and_fails(run, capsys):  # noqa: F811
    tree = options(run.folder, total_itr=3)
    tree["network_g"]["num_feats"] = 3
    run.write(tree)
    assert main(["check", "-opt", str(run.option_file)]) == 1
    told = capsys.readouterr().err
    assert "Did you mean 'num_feat'" in told
    assert "Did you mean 'total_iter'" in told


def test_schema_is_written(tmp_path, capsys):
    assert main(["schema", str(tmp_path / "schema.json")]) == 0
    schema = json.loads((tmp_path / "schema.json").read_text())
    assert {"datasets", "train", "model_type"} <= schema["properties"].keys()
    assert "num_feat" in json.dumps(schema)
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_prepare_from_pictures_to_a_verified_data_base(tmp_path, capsys):
    (tmp_path / "hr").mkdir()
    generator = np.random.default_rng(0)
    for number in range(2):
        cv2.imwrite(str(tmp_path / "hr" / f"{number}.png"), generator.integers(0, 255, (40, 64, 3)).astype(np.uint8))
    sub, low, base = (str(tmp_path / name) for name in ("sub", "lr", "sub.lmdb"))
    assert main(["prepare", "subimages", str(tmp_path / "hr"), sub, "--size", "32", "--step", "16"]) == 0
    assert "12 written, 0 were there, from 2 images" in capsys.readouterr().out
    assert main(["prepare", "lr", sub, low, "--scale", "2"]) == 0
    assert main(["prepare", "lmdb", sub, base, "--codec", "raw"]) == 0
    assert main(["prepare", "lmdb", sub, base, "--codec", "raw"]) == 0
    assert "0 written, 12 were there" in capsys.readouterr().out
    assert main(["prepare", "verify", base]) == 0
    assert main(["prepare", "verify", sub, "--against", low]) == 0
    assert "everything is whole" in capsys.readouterr().out
    next((tmp_path / "lr").glob("*.png")).write_bytes(b"no image")
    assert main(["prepare", "verify", sub, "--against", low]) == 1
    assert "1 problem\n" in capsys.readouterr().out


def test_a_mistake_is_told_in_plain_words(tmp_path, capsys):
    assert main(["prepare", "lmdb", str(tmp_path / "nowhere"), str(tmp_path / "x.lmdb")]) == 1
    told = capsys.readouterr().err
    assert told.startswith("mcir prepare: ")
    assert "nowhere" in told


def test_help_comes_without_loading_torch():
    code = "import mcir.cli, sys; assert 'torch' not in sys.modules; mcir.cli.main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "prepare" in done.stdout


def test_check_finds_sections_that_do_not_fit_each_other(run, capsys):  # noqa: F811
    assert main(["check", "-opt", str(run.option_file), "--set", "network_g.upscale=4"]) == 1
    assert "network_g enlarges ×4, but scale is 2" in capsys.readouterr().err


def test_inspect_names_the_network_of_a_file(tmp_path, capsys):
    network = ARCHS.build({"type": "EDSR", "num_feat": 8, "num_block": 2, "upscale": 4})
    weights = network.state_dict()
    torch.save({"params": weights, "epoch": 3}, tmp_path / "net.pth")
    assert main(["inspect", str(tmp_path / "net.pth")]) == 0
    told = capsys.readouterr().out
    assert "its 'params'" in told
    assert "architecture  EDSR, ×4" in told
    assert f"parameters    {sum(value.numel() for value in weights.values()):,}" in told
    option = yaml.safe_load(told[told.index("network_g:") :])["network_g"]
    ARCHS.build(option).load_state_dict(weights, strict=True)

    weights["body.0.conv1.bias"] = torch.zeros(5)
    torch.save(weights, tmp_path / "odd.pth")
    assert main(["inspect", str(tmp_path / "odd.pth")]) == 1
    assert "differs       body.0.conv1.bias ((5,) in the file, (8,) here)" in capsys.readouterr().out

    torch.save({"features.0.weight": torch.ones(2, 3)}, tmp_path / "other.pth")
    assert main(["inspect", str(tmp_path / "other.pth")]) == 1
    told = capsys.readouterr().out
    assert "architecture  none of " in told
    assert "features.0.weight (2, 3)" in told

    assert main(["inspect", str(tmp_path / "nowhere.pth")]) == 1
    assert "there is no such weight file" in capsys.readouterr().err
