"""``mcir check``: it finds what a training rejects, with the same messages, and the location of each wrong value."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from mcir.cli import main
from mcir.config import OptionError, load
from mcir.data.manifest import how_to_get, known_manifests, read_manifest
from mcir.train import main as train
from tests.engine.conftest import options

ROOT = Path(__file__).parents[2]

BROKEN = {
    "a crop that is too large": ["datasets.train.gt_size=400"],
    "a crop that is no multiple of the scale": ["datasets.train.gt_size=15"],
    "a missing folder": ["datasets.train.dataroot_gt=nowhere"],
    "a missing validation folder": ["datasets.val.dataroot_gt=nowhere"],
    "a missing list": ["datasets.train.meta_info_file=nowhere.txt"],
    "a device that is not available": ["num_gpu=mps"],
    "missing weights": ["path.pretrain_network_g=nowhere.pth"],
    "a missing state": ["path.resume_state=nowhere.state"],
    "weights that are no weights": ["path.pretrain_network_g=text.pth"],
    "weights of another network": ["path.pretrain_network_g=other.pth"],
    "a missing feature network": ["train.contrastive_opt.weights=nowhere.pth"],
    "another scale": ["network_g.upscale=3"],
    "a metric that is not valid": ["val.metrics.psnr.crop_border=-2"],
    "a metric that the images do not allow": ["val.metrics.psnr.crop_border=500"],
    "a degradation that is not valid": ["datasets.train.degradation={type: GaussianNoise, sigma: -1}"],
    "a batch that cannot be divided": ["train.accumulation_steps=3"],
    "a schedule of another length": ["train.scheduler={type: CosineAnnealingLR, T_max: 0}"],
}


@pytest.fixture
def folder(run, monkeypatch):
    monkeypatch.chdir(run.folder)
    Path("text.pth").write_text("no weights")
    torch.save({"params": {"weight": torch.zeros(3)}}, "other.pth")
    return run


def messages(text):
    return {line for line in text.splitlines() if line.strip() and not line.startswith("mcir: reading")}


@pytest.mark.parametrize("changes", BROKEN.values(), ids=BROKEN)
def test_check_and_train_reject_the_same_with_the_same_message(folder, changes, capsys):
    arguments = [str(folder.option_file), "--set", *changes]
    assert main(["check", *arguments]) == 1
    checked = capsys.readouterr()
    assert train(arguments) == 1
    trained = capsys.readouterr()
    (first, *_) = [line for line in trained.err.splitlines() if line.startswith("mcir: ")]
    assert first.removeprefix("mcir: ") in checked.err.replace("mcir check: ", "")
    assert not folder.path().exists()


def test_all_problems_are_reported_in_the_order_of_the_lines(folder, capsys):
    tree = options(folder.folder)
    tree["path"] = {"pretrain_network_g": "nowhere.pth"}
    tree["datasets"]["train"]["dataroot_gt"] = "nowhere"
    tree["datasets"]["val"]["dataroot_gt"] = "nowhere_either"
    folder.write(tree)
    assert main(["check", str(folder.option_file)]) == 1
    output, errors = capsys.readouterr()
    lines = [int(number) for number in re.findall(r"^\S+tiny\.yml:(\d+): ", errors, re.MULTILINE)]
    assert len(lines) == 3 and lines == sorted(lines)
    assert output.endswith("\n3 problems found.\n")
    assert "training: not available" in output


def test_a_file_that_cannot_be_read_ends_with_the_number_of_its_problems(folder, capsys):
    assert main(["check", str(folder.option_file), "--set", "network_g.num_feat=-3", "train.total_iter=0"]) == 1
    output, errors = capsys.readouterr()
    assert "network_g.num_feat: expected an integer ≥ 1, got -3." in errors
    assert output == "\n2 problems found. Images and other files were not checked.\n"


def test_a_valid_file_is_described(folder, capsys):
    assert main(["check", str(folder.option_file)]) == 0
    output, errors = capsys.readouterr()
    assert errors == "" and output.endswith("\nNo problems found.\n")
    assert "training: 4 images" in output and "network EDSR ×2" in output
    assert all(len(line) <= 80 for line in output.splitlines())


def test_problems_of_test_sets_are_counted_separately(folder, capsys):
    tree = options(folder.folder)
    tree["datasets"]["test_a"] = {**tree["datasets"]["val"], "name": "a", "dataroot_gt": "datasets/Urban100/HR"}
    folder.write(tree)
    assert main(["check", str(folder.option_file)]) == 1
    output, errors = capsys.readouterr()
    assert output.endswith("1 problem found. Only for the test sets, which a training does not read: 1.\n")
    assert "Urban100 is available at https://github.com/jbhuang0604/SelfExSR. Put it into datasets/Urban100." in errors
    assert "  for scale in 2 3 4; do mcir prepare lr Urban100/HR Urban100/LR_bicubic/X$scale" in errors


def test_every_data_set_is_recognized_by_its_folder():
    for name in known_manifests():
        manifest = read_manifest(name)
        text = how_to_get(f"/data/{manifest.root}/{manifest.folders[0].path}")
        assert text.startswith(f"{manifest.title} is available at {manifest.url}. Put it into /data/{manifest.root}.")
    assert how_to_get("/data/photographs/DIV2KX") == ""


def leaves():
    """Return the lines of the quick start's options that have a value, and their numbers."""
    lines = (ROOT / "options/quickstart.yml").read_text().splitlines()
    return [(number, line) for number, line in enumerate(lines, 1) if re.match(r"\s*\w+: [^{\s#]", line)]


@pytest.mark.parametrize("is_base", [False, True])
def test_every_wrong_value_is_reported_at_its_own_line(tmp_path, is_base):
    lines = (ROOT / "options/quickstart.yml").read_text().splitlines()
    file = tmp_path / "wrong.yml"
    (tmp_path / "top.yml").write_text(
        yaml.safe_dump({"_base_": "wrong.yml", "datasets": {"train": {"use_rot": False}}, "train": {"ema_decay": 0.5}})
    )
    for number, line in leaves():
        key = line.partition(":")[0]
        if is_base and key.strip() in ("use_rot", "ema_decay"):
            continue  # overridden
        changed = [*lines]
        changed[number - 1] = f"{key}: {{wrong: 1}}"
        file.write_text("\n".join(changed))
        with pytest.raises(OptionError) as caught:
            load(tmp_path / "top.yml" if is_base else file)
        places = {(Path(found.location.source).name, found.location.line) for found in caught.value.problems}
        assert ("wrong.yml", number) in places, (line, str(caught.value))
