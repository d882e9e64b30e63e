"""Tests of the command line ``mcir``."""

import argparse
import contextlib
import json
import os
import shlex
import subprocess
import sys
import webbrowser

import cv2
import numpy as np
import pytest
import torch
import yaml

from mcir.cli import build_parser, main
from mcir.cli.examples import EXAMPLES
from mcir.launch import LaunchOptions
from mcir.registry import ARCHS
from mcir.weights import network_metadata
from tests.engine.conftest import ROOT, options, run  # noqa: F401 (run is a fixture)
from tests.report.runs import write_run


def test_a_command_without_arguments_prints_its_help(capsys):
    assert main([]) == 0
    assert "restore images with a trained network" in capsys.readouterr().out
    assert main(["prepare"]) == 0
    assert "write the images of a folder to an LMDB database" in capsys.readouterr().out


PARSER = build_parser()


def leaves(parser, words=()):
    """Yield the words and the parser of each command."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for group in groups:
        for name, command in group.choices.items():
            yield from leaves(command, (*words, name))
    if not groups:
        yield words, parser


@pytest.mark.parametrize(("words", "parser"), [pytest.param(*leaf, id="-".join(leaf[0])) for leaf in leaves(PARSER)])
def test_the_help_of_a_command_ends_with_examples_that_are_valid(words, parser):
    assert 1 <= len(parser.examples) <= 3
    for example in parser.examples:
        assert example.startswith(" ".join(["mcir", *words]))
        assert len(example) <= 78
        assert PARSER.parse_args(shlex.split(example)[1:]).cls is parser.get_default("cls")
    ending = "".join(f"  {example}\n" for example in parser.examples)
    assert parser.format_help().endswith(f"\nexamples:\n{ending}")


def test_every_example_belongs_to_a_command():
    assert EXAMPLES.keys() <= {" ".join(words) for words, _ in leaves(PARSER)}


def test_report_writes_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("plain", "spn"):
        write_run(tmp_path / "experiments" / name, until=10)
    assert main(["report", "plain"]) == 0
    assert main(["report", "plain", str(tmp_path / "experiments" / "spn")]) == 0
    shown = []
    monkeypatch.setattr(webbrowser, "open", shown.append)
    assert main(["report", "spn", "-o", "pages/spn.html", "--open"]) == 0
    files = ["experiments/plain/report.html", "report.html", "pages/spn.html"]
    assert capsys.readouterr().out.split() == files
    assert ["stopped at iteration 10 of 400" in (tmp_path / file).read_text() for file in files] == [True] * 3
    assert shown == [(tmp_path / "pages/spn.html").as_uri()]
    with monkeypatch.context() as patch:
        patch.setattr("mcir.engine.run_lock.is_locked", lambda folder: folder.name == "spn")
        assert main(["report", "plain", "spn"]) == 0
    assert "spn, running: iteration 10" in (tmp_path / "report.html").read_text()
    assert main(["report", "spm"]) == 1
    assert "mcir report: spm: there is no such folder, and no experiments/spm." in capsys.readouterr().err


def test_check_prints_resolved_options_and_the_cost(run, capsys):  # noqa: F811
    assert main(["check", str(run.option_file), "--print", "--set", "train.total_iter=7"]) == 0
    output = capsys.readouterr().out
    resolved = yaml.safe_load(output)
    assert resolved["train"]["total_iter"] == 7
    assert resolved["datasets"]["train"]["gt_size"] == 16
    assert "# parameters              1,259" in output
    assert "FLOPs of a step" in output and output.endswith("\n# No problems found.\n")
    assert not (run.folder / "experiments").exists()


def test_check_reports_every_mistake(run, capsys):  # noqa: F811
    tree = options(run.folder, total_itr=3)
    tree["network_g"]["num_feats"] = 3
    run.write(tree)
    assert main(["check", "-opt", str(run.option_file)]) == 1
    output = capsys.readouterr().err
    assert "Did you mean 'num_feat'" in output
    assert "Did you mean 'total_iter'" in output


def test_schema_is_written(tmp_path, capsys):
    assert main(["schema", str(tmp_path / "schema.json")]) == 0
    schema = json.loads((tmp_path / "schema.json").read_text())
    assert {"datasets", "train", "model_type"} <= schema["properties"].keys()
    assert "num_feat" in json.dumps(schema)
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_prepare_and_verify_a_database(tmp_path, capsys):
    (tmp_path / "hr").mkdir()
    generator = np.random.default_rng(0)
    for number in range(2):
        cv2.imwrite(str(tmp_path / "hr" / f"{number}.png"), generator.integers(0, 255, (40, 64, 3)).astype(np.uint8))
    sub, low, base = (str(tmp_path / name) for name in ("sub", "lr", "sub.lmdb"))
    assert main(["prepare", "subimages", str(tmp_path / "hr"), sub, "--size", "32", "--step", "16"]) == 0
    assert "12 written, 0 existed, from 2 images" in capsys.readouterr().out
    assert main(["prepare", "lr", sub, low, "--scale", "2"]) == 0
    assert main(["prepare", "lmdb", sub, base, "--codec", "raw"]) == 0
    assert main(["prepare", "lmdb", sub, base, "--codec", "raw"]) == 0
    assert "0 written, 12 existed" in capsys.readouterr().out
    assert main(["prepare", "verify", base]) == 0
    assert main(["prepare", "verify", sub, "--against", low]) == 0
    assert "no problems" in capsys.readouterr().out
    next((tmp_path / "lr").glob("*.png")).write_bytes(b"no image")
    assert main(["prepare", "verify", sub, "--against", low]) == 1
    assert "1 problem\n" in capsys.readouterr().out


def test_a_data_set_is_compared_with_its_manifest(tmp_path, capsys):
    generator = np.random.default_rng(0)
    sides = {"baby": (512, 512), "bird": (288, 288), "butterfly": (256, 256), "head": (280, 280), "woman": (344, 228)}
    (tmp_path / "HR").mkdir()
    for name, size in sides.items():
        cv2.imwrite(str(tmp_path / "HR" / f"{name}.png"), generator.integers(0, 255, (*size, 3)).astype(np.uint8))
    assert main(["prepare", "lr", str(tmp_path / "HR"), str(tmp_path / "LR_bicubic" / "X4"), "--scale", "4"]) == 0
    assert main(["prepare", "verify", "Set5", str(tmp_path)]) == 0
    output = capsys.readouterr()
    assert "HR: 5 images, names, sizes" in output.out and "HR + LR_bicubic/X4: 5 pairs (scale: 4)" in output.out
    assert output.out.endswith("matches Set5\n") and not output.err
    for number in range(12):
        cv2.imwrite(str(tmp_path / "HR" / f"{number}.png"), np.zeros((8, 8, 3), np.uint8))
    assert main(["prepare", "verify", "set5", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert "25 differences from Set5" in output.out  # the count, and for twelve images the name and the missing partner
    assert output.err.count("\n") == 11 and "17 images, expected 5" in output.err and "and 15 more" in output.err


def test_mistakes_about_a_data_set(tmp_path, capsys):
    for arguments, message in (
        (["goppro", str(tmp_path)], "no data set 'goppro'. Did you mean 'gopro'?"),
        (["gopro"], "mcir prepare verify gopro ROOT"),
        (["gopro", str(tmp_path / "nowhere")], "nowhere: no such folder"),
        (["gopro", str(tmp_path), "--against", str(tmp_path)], "--against and --filename_tmpl cannot be used with"),
        (["gopro", str(tmp_path), "--filename_tmpl", "{}_*"], "--against and --filename_tmpl cannot be used with"),
    ):
        assert main(["prepare", "verify", *arguments]) == 1
        assert message in capsys.readouterr().err


def test_one_clean_image_may_have_several_degraded_ones(tmp_path, capsys):
    image = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    for folder, name in (("gt", "1"), ("lq", "1_1"), ("lq", "1_2")):
        (tmp_path / folder).mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / folder / f"{name}.png"), image)
    pairs = [str(tmp_path / "gt"), "--against", str(tmp_path / "lq")]
    assert main(["prepare", "verify", *pairs, "--filename_tmpl", "{}_*"]) == 0
    assert main(["prepare", "verify", *pairs]) == 1
    assert "1_1.png: no ground truth" in capsys.readouterr().err


def test_prepare_split(tmp_path, capsys):
    for number in range(10):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((8, 8), np.uint8))
    out = tmp_path.with_name("lists")
    arguments = ["prepare", "split", str(tmp_path), str(out), "--test", "0.2", "--val", "3", "--seed", "1"]
    assert main(arguments) == 0 and main(arguments) == 0
    output = capsys.readouterr().out
    assert "3 written, 0 existed, from 10 images" in output and "0 written, 3 existed" in output
    assert [len((out / f"{kind}.txt").read_text().split()) for kind in ("train", "val", "test")] == [5, 3, 2]
    assert main([*arguments[:-1], "2"]) == 1
    assert "train.txt: differs" in capsys.readouterr().err


def test_a_mistake_is_reported_in_one_line(tmp_path, capsys):
    assert main(["prepare", "lmdb", str(tmp_path / "nowhere"), str(tmp_path / "x.lmdb")]) == 1
    output = capsys.readouterr().err
    assert output.startswith("mcir prepare: ")
    assert "nowhere" in output


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import mcir", {"torch", "numpy", "pydantic"}),
        ("from mcir.cli import main; main(['--help'])", {"torch", "numpy", "pydantic", "rich"}),
        (
            "from mcir.cli import main; main(['list', 'archs'])",
            {"cv2", "PIL", "scipy", "skimage", "torchvision", "rich"},
        ),
        ("from mcir.cli import main; main(['list', 'datasets'])", {"scipy", "skimage", "tensorboard", "torchvision"}),
        ("from mcir.cli import main; main(['check', '-opt', 'test.yml'])", {"scipy", "tensorboard", "gradio", "onnx"}),
    ],
)
def test_commands_import_only_what_they_need(tmp_path, code, unwanted):
    (tmp_path / "test.yml").write_text("name: a\nmodel_type: RestorationModel\nnetwork_g: {type: EDSR}\nscale: 4\n")
    test = f"import atexit, sys; atexit.register(lambda: print('LOADED:', *sys.modules)); {code}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", test], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.rpartition("LOADED: ")[2].split())
    assert "mcir" in loaded and not loaded & unwanted


def test_the_entry_points_of_torchrun_have_the_arguments_of_the_commands():
    for name, expected in (("train", "--auto_resume"), ("test", "--checkpoint")):
        command = [sys.executable, str(ROOT / "mcir" / f"{name}.py"), "--help"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert expected in done.stdout and "--force_yml" in done.stdout


def test_train_starts_other_launchers_with_the_same_arguments(monkeypatch, capsys):
    started = []
    monkeypatch.setattr("mcir.launch.launch", lambda options, arguments: started.append((options, arguments)) or 7)
    words = ["-opt", "x.yml", "--auto_resume", "--set", "a=1", "b=2", "--force_yml", "c:d=3"]
    slurm = ["--launcher", "slurm", "--nproc_per_node", "4", "--nnodes", "2", "--slurm", "time=60", "--no-wait"]
    assert main(["train", *words, *slurm]) == 7
    several = ["--nproc_per_node", "4", "--nnodes", "2", "--rdzv_endpoint", "node1:29500", "--max_restarts", "3"]
    assert main(["train", *words, *several]) == 7
    (options, arguments), (torchrun, same) = started
    assert arguments == same == ["-opt", "x.yml", "--set", "a=1", "b=2", "--force_yml", "c:d=3", "--auto_resume"]
    assert options == LaunchOptions("slurm", 4, 2, {"time": 60}, wait=False)
    assert torchrun == LaunchOptions("torchrun", 4, 2, rdzv_endpoint="node1:29500", max_restarts=3)
    assert main(["train", *words, "--no-wait"]) == 1
    assert "--no-wait require --launcher slurm" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "0")
    assert main(["train", *words, "--nproc_per_node", "4"]) == 1
    assert "torchrun has started this process" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "message"), [("gpu", "this machine has no CUDA GPU"), ("x", "or gpu, got 'x'")])
def test_the_number_of_processes_may_be_that_of_the_gpus(text, message, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with contextlib.suppress(SystemExit):
        assert main(["train", "x.yml", "--nproc_per_node", text]) == 1
    assert message in capsys.readouterr().err


def test_check_reports_inconsistent_sections(run, capsys):  # noqa: F811
    assert main(["check", "-opt", str(run.option_file), "--set", "network_g.upscale=4"]) == 1
    assert "network_g has scale 4, but the option 'scale' is 2" in capsys.readouterr().err


def test_check_warns_about_values_that_collapsed_in_the_paper(run, caplog):  # noqa: F811
    spn = ["train.contrastive_opt.weights=imagenet", "train.contrastive_opt.loss_weight=1e-2"]
    assert main(["check", "-opt", str(run.option_file), "--set", *spn, "train.negatives.weight=0"]) == 0
    warnings = [record.getMessage() for record in caplog.records]
    assert any(
        text.startswith("--set train.contrastive_opt.loss_weight=1e-2: train.contrastive_opt.loss_weight: expected a ")
        for text in warnings
    )
    assert any("train.negatives.weight: expected a number above 0.01, got 0" in text for text in warnings)


def test_check_rejects_a_network_that_returns_a_list(run, monkeypatch, capsys):  # noqa: F811
    class Pyramid(torch.nn.Module):
        def __init__(self, stages: int = 2) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 12, 3, padding=1)
            self.stages = stages

        def forward(self, x):
            return [torch.nn.functional.pixel_shuffle(self.conv(x), 2)] * self.stages

    monkeypatch.setattr(ARCHS, "_classes", dict(ARCHS._classes))
    ARCHS.register()(Pyramid)
    tree = options(run.folder)
    tree["network_g"] = {"type": "Pyramid", "stages": 3}
    run.write(tree)
    line = run.option_file.read_text().splitlines().index("network_g:") + 1
    assert main(["check", "-opt", str(run.option_file)]) == 1
    error = capsys.readouterr().err
    assert f"tiny.yml:{line}: network_g: " in error
    assert "Pyramid: expected one tensor (B, C, H, W) as output, got a list of 3 entries." in error


def test_inspect_describes_the_network_of_a_file(tmp_path, capsys):
    network = ARCHS.build({"type": "EDSR", "num_feat": 8, "num_block": 2, "upscale": 4})
    weights = network.state_dict()
    torch.save({"params": weights, "epoch": 3}, tmp_path / "net.pth")
    assert main(["inspect", str(tmp_path / "net.pth")]) == 0
    output = capsys.readouterr().out
    assert "key 'params'" in output
    assert "architecture  EDSR, ×4" in output
    assert f"parameters    {sum(value.numel() for value in weights.values()):,}" in output
    option = yaml.safe_load(output[output.index("network_g:") :])["network_g"]
    ARCHS.build(option).load_state_dict(weights, strict=True)

    weights["body.0.conv1.bias"] = torch.zeros(5)
    torch.save(weights, tmp_path / "odd.pth")
    assert main(["inspect", str(tmp_path / "odd.pth")]) == 1
    assert "differs       body.0.conv1.bias (expected (8,), got (5,))" in capsys.readouterr().out

    stated = {**option, "img_range": 1.0}
    facts = network_metadata(stated.pop("type"), stated)
    torch.save({"params": network.state_dict(), **facts}, tmp_path / "own.pth")
    assert main(["inspect", str(tmp_path / "own.pth")]) == 0
    output = capsys.readouterr().out
    assert yaml.safe_load(output[output.index("network_g:") :])["network_g"] == {**option, "img_range": 1.0}
    assert "img_range" not in output[output.index("assumed") : output.index("option")]

    torch.save({"features.0.weight": torch.ones(2, 3)}, tmp_path / "other.pth")
    assert main(["inspect", str(tmp_path / "other.pth")]) == 1
    output = capsys.readouterr().out
    assert "architecture  none of " in output
    assert "features.0.weight (2, 3)" in output

    assert main(["inspect", str(tmp_path / "nowhere.pth")]) == 1
    assert "expected a weight file, but the path does not exist" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
    "command",
    [
        "restore photos -w net.safetensors -o /proc/x",
        "compare net.safetensors other.safetensors photos -o /proc/x/page.html",
        "export net.safetensors --onnx -o /proc/x",
        "schema /proc/x",
        "prepare lr photos /proc/x --scale 2",
        "prepare lmdb photos /proc/x.lmdb",
    ],
)
def test_an_output_that_cannot_be_written_is_reported_in_one_line_before_the_work(tmp_path, command):
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos/a.png"), np.zeros((8, 8, 3), np.uint8))
    done = subprocess.run(
        [sys.executable, "-m", "mcir.cli", *command.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "/proc/x" in line
    assert "cannot be written: no file can be created in /proc" in line  # not that the weight file is missing
