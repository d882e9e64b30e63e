"""Tests of the tester: data sets, weight files, the table and the results file."""

import json
from pathlib import Path

import cv2
import pytest
import torch

from mcir.config import load
from mcir.data import imresize
from mcir.engine import tester as testing
from mcir.engine.checkpoint import NetworkFile, write_network
from mcir.engine.distributed import DistContext
from mcir.metrics import PSNR, SSIM
from mcir.registry import ARCHS, DATASETS
from mcir.test import main
from mcir.weights import WeightsError
from tests.engine.conftest import capture, options

NETWORK = {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2, "img_range": 1.0}


@pytest.fixture(autouse=True)
def folder_and_width(run, monkeypatch):
    monkeypatch.chdir(run.folder)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def run_test(run, *arguments, status=0):
    """Run the command and return its output."""
    output, returned = capture(main, ["-opt", str(run.option_file), *map(str, arguments)])
    assert returned == status, output
    return output


@pytest.fixture
def networks(run):
    """Two networks and their weight files."""
    made = {}
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = ARCHS.build(NETWORK)
        write_network(run.folder / f"net_{seed}", NetworkFile({"params": network.state_dict()}, "EDSR", {}), 0)
        made[run.folder / f"net_{seed}.pth"] = network
    return made


@pytest.fixture
def sets(run):
    """The sections of two test sets, and an option file with them and without training."""
    (run.folder / "few").mkdir()
    (run.folder / "pictures" / "3.png").rename(run.folder / "few" / "only.png")
    base = {"type": "PairedImageDataset", "degradation": {"type": "BicubicDown"}}
    sections = {name: {**base, "dataroot_gt": str(run.folder / name)} for name in ("pictures", "few")}
    tree = options(run.folder)
    del tree["train"], tree["logger"]
    tree["datasets"] = {
        "test_1": {"name": "many", **sections["pictures"]},
        "test_2": {"name": "few", **sections["few"]},
    }
    tree["path"] = {"results_root": str(run.folder / "results")}
    tree["val"] = {"pictures": 1, "metrics": {"psnr": {"type": "PSNR", "crop_border": 2}, "ssim": {"type": "SSIM"}}}
    run.write(tree)
    return {"many": sections["pictures"], "few": sections["few"]}


def reference_score(section, restore, metric):
    dataset = DATASETS.build({**section, "scale": 2})
    values = {}
    for item in dataset:
        lq, gt = (item[key].float()[None] / (255 if item[key].dtype == torch.uint8 else 1) for key in ("lq", "gt"))
        with torch.no_grad():
            values[Path(item["gt_path"]).stem] = float(metric(restore(lq), gt))
    return values


def mean(values):
    return pytest.approx(sum(values.values()) / len(values), rel=1e-6)


def test_two_checkpoints_on_two_sets(run, networks, sets):
    output = run_test(run, "--checkpoint", *networks, "--set", "val.save_img=true", "val.suffix=mine")
    folder = run.folder / "results" / "tiny"
    results = json.loads((folder / "results.json").read_text())
    assert list(results) == [str(file) for file in networks]
    for file, network in networks.items():
        assert list(results[str(file)]) == ["many", "few"]
        for name, section in sets.items():
            for key, metric in {"psnr": PSNR(crop_border=2), "ssim": SSIM()}.items():
                record = results[str(file)][name][key]
                assert record["images"] == pytest.approx(reference_score(section, network, metric), rel=1e-6)
                assert record["mean"] == mean(record["images"])
                assert record["of_input"] == mean(
                    reference_score(section, lambda lq: imresize(lq.double(), 2).float(), metric)
                )
                assert record["unit"] == ("dB" if key == "psnr" else "")
                assert f"{record['mean']:.4f}" in output or f"{record['mean']:.2f} dB" in output
    assert len({record["many"]["psnr"]["mean"] for record in results.values()}) == 2
    for text in ("net_1.pth", "net_2.pth", "bicubic", "EDSR", "gain", str(folder / "results.json")):
        assert text in output
    for line, file in zip(output.splitlines()[-2:], networks, strict=True):
        assert line.startswith(f"{file}: The result is worse than the input: psnr ") and "scale: 2" in line
    for label in ("net_1", "net_2"):
        saved = sorted(file.name for file in (folder / "visualization" / label / "many").iterdir())
        assert saved == ["0_mine.png", "1_mine.png", "2_mine.png"]
        assert cv2.imread(str(folder / "visualization" / label / "few" / "only_mine.png")).shape == (24, 28, 3)
        assert [file.name for file in (folder / "comparisons" / label / "few").iterdir()] == ["only.png"]


def test_the_option_file_of_a_training_can_be_tested(run, networks):
    """Its validation sets and weights are used; its losses and negatives are not built."""
    (file, network), *_ = networks.items()
    run_test(run, "--set", f"path.pretrain_network_g={file}", "train.contrastive_opt.weights=imagenet")
    results = json.loads((run.folder / "results" / "tiny" / "results.json").read_text())
    section = {**options(run.folder)["datasets"]["val"]}
    assert results[str(file)]["val"]["psnr"]["mean"] == mean(reference_score(section, network, PSNR()))


def test_options_of_the_pretrained_weights_do_not_apply_to_checkpoints(run, networks, sets):
    first, second = networks.values()
    file = run.folder / "trained.pth"
    torch.save({"params": first.state_dict(), "params_ema": second.state_dict()}, file)
    partial = run.folder / "partial.pth"
    torch.save({key: value for key, value in first.state_dict().items() if key != "conv_last.bias"}, partial)
    of_pretrained = ("path.param_key_g=params", "path.strict_load_g=false")
    for arguments, network in (
        (("--checkpoint", file, "--set"), second),
        (("--set", f"path.pretrain_network_g={file}"), first),
    ):
        run_test(run, *arguments, *of_pretrained)
        results = json.loads((run.folder / "results" / "tiny" / "results.json").read_text())
        score = reference_score(sets["few"], network, PSNR(crop_border=2))
        assert results[str(file)]["few"]["psnr"]["images"] == pytest.approx(score, rel=1e-6)
    assert "conv_last.bias" in run_test(run, "--checkpoint", partial, "--set", *of_pretrained, status=1)


def test_restored_images_can_be_stored_negatives(run, networks):
    """The two commands in docs/negatives.md."""
    file = next(iter(networks))
    (run.folder / "pictures" / "deep").mkdir()
    (run.folder / "pictures" / "3.png").rename(run.folder / "pictures" / "deep" / "3.png")
    run_test(run, "--checkpoint", file, "--set", "val.save_img=true", f"path.results_root={run.folder / 'results'}")
    outputs = run.folder / "results" / "tiny" / "visualization" / "net_1" / "val"
    assert len(list(outputs.rglob("*.png"))) == 4
    run.train(
        *("--set", f"datasets.train.dataroot_negatives=[{outputs}, {outputs}]", "train.total_iter=1"),
        "train.negatives={type: ConsensusNegatives, stored: true}",
    )
    assert run.path("models", "net_g_1.pth").exists()


def test_missing_weights_are_reported_in_one_line(run, sets):
    output = run_test(run, status=1)
    assert "Testing requires weights: set 'path.pretrain_network_g' or --checkpoint FILE." in output
    assert "Traceback" not in output
    assert not list(run.folder.rglob("results.json"))


def make_tester(run, *changes):
    return testing.Tester(load(run.option_file, changes), DistContext(0, 1, torch.device("cpu")))


def test_missing_data_sets_and_metrics_are_named(run, networks, sets):
    with pytest.raises(WeightsError, match=r"nowhere\.pth: expected a weight file, but the path does not exist"):
        make_tester(run).test(["nowhere.pth"])
    with pytest.raises(ValueError, match=r"Testing requires 'val\.metrics'"):
        make_tester(run, "val.metrics={}")
    tree = options(run.folder)
    del tree["datasets"]["val"]
    run.write(tree)
    with pytest.raises(ValueError, match=r"Testing requires a data set: set 'datasets\.test'"):
        make_tester(run)


def test_weights_of_another_network_are_an_error(run, networks, sets):
    with pytest.raises(ValueError, match="do not match EDSR") as caught:
        make_tester(run, "network_g.num_feat=8").test([str(next(iter(networks)))])
    assert "conv_first.weight (expected (8, 3, 3, 3), got (4, 3, 3, 3))" in str(caught.value)
    assert not list(run.folder.rglob("results.json"))


def test_weights_that_are_not_finite_are_an_error(run, networks, sets, tmp_path):
    content = torch.load(next(iter(networks)), weights_only=True)
    for weights in (content["params"], content.get("params_ema", {})):
        weights["conv_last.bias"] = torch.full((3,), torch.inf)
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"net\.pth: 1 of \d+ weights are not finite .*: conv_last\.bias\."):
        make_tester(run).test([str(tmp_path / "net.pth")])
    assert not list(run.folder.rglob("results.json"))


def test_options_that_change_restoring_apply_to_tests(run):
    """A test uses only those training options, like the mask of Noise2Self."""
    tree = options(run.folder)
    data = {"type": "PairedImageDataset", "dataroot_gt": str(run.folder / "pictures")}
    tree |= {
        "model_type": "Noise2SelfModel",
        "scale": 1,
        "datasets": {
            "train": {"type": "NoisyPatchPairs", "dataroot": data["dataroot_gt"], "patch_size": 16},
            "val": {**data, "degradation": {"type": "HeteroscedasticNoise"}},
        },
        "network_g": {"type": "NAFNet", "width": 2, "enc_blk_nums": [1], "dec_blk_nums": [1]},
        "train": {"total_iter": 1, "optim_g": {"type": "Adam"}, "j_invariant": True, "mask_width": 3},
    }
    tree["datasets"]["train"]["batch_size_per_gpu"] = 2
    run.write(tree)
    tester = testing.Tester(load(run.option_file), DistContext(0, 1, torch.device("cpu")))
    assert (tester.model.j_invariant, tester.model.mask_width, tester.model.optimizer) == (True, 3, None)
