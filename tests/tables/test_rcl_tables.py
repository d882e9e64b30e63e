"""The commands for the RCL tables, on tiny images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mcir.archs import UNet
from mcir.cli import main
from tests.processes import PAUSING_LOSS, children_of, is_running, wait_until

ROOT = Path(__file__).parents[2]
OPTIONS = str(ROOT / "options")
TINY = [
    "network_g.num_feat=2",
    "datasets.train.patch_size=32",
    "datasets.train.batch_size_per_gpu=2",
    "datasets.train.num_worker_per_gpu=0",
    "datasets.val.max_images=1",
    "train.total_iter=2",
    "val.pictures=0",
    "logger.use_tb_logger=false",
    "num_gpu=0",
]
SMALL = ["--trials", "2", "--steps", "2", "--jobs", "1", "--set", *TINY]


def command(table, *more):
    return ["reproduce", table, "--options", OPTIONS, *SMALL[:6], *more, *SMALL[6:]]


def draw(folder, count, side, ending="png"):
    """Write smooth images, wider than high by a fifth."""
    generator = np.random.default_rng(0)
    Path(folder).mkdir(parents=True)
    for number in range(count):
        rough = generator.integers(0, 255, (5, 6, 3)).astype(np.uint8)
        cv2.imwrite(
            f"{folder}/{number}.{ending}", cv2.resize(rough, (side * 6 // 5, side), interpolation=cv2.INTER_CUBIC)
        )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, in which processes find this mcir and the modules in the folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def voc(folder):
    """Eight photographs of VOC and their lists."""
    draw("datasets/VOC2012/JPEGImages", 8, 40, "jpg")
    home = "datasets/VOC2012/"
    assert main(["prepare", "split", f"{home}JPEGImages", f"{home}splits", "--val", "1", "--test", "2"]) == 0


@pytest.fixture
def stanford(folder):
    """Rooms of two areas in two sizes, and their lists."""
    for area in (1, 2):
        draw(f"datasets/Stanford/LR/area_{area}", 3, 40)
        draw(f"datasets/Stanford/HR/area_{area}", 3, 80)
    arguments = ["datasets/Stanford/LR", "datasets/Stanford/splits", "--test", "1", "--folders"]
    assert main(["prepare", "split", *arguments]) == 0


def read(name):
    return json.loads(Path(f"results/{name}.json").read_text())


def test_missing_data_are_listed_with_their_sources(folder, capsys):
    assert main(["reproduce", "rcl-table1", "--options", OPTIONS]) == 1
    text = capsys.readouterr().out
    for part in (
        f"RCL-EMD  ({OPTIONS}/rcl/mit.yml)  not trained",
        "no checkpoint experiments/rcl_voc2012_DenseCL+/models/net_g_50000.pth: train with --train or",
        "MIT demosaicing belongs in datasets/MIT",
        "datasets/Stanford/splits/test.txt",
        "mcir prepare split Stanford/LR Stanford/splits --test 1 --folders",
        "mcir prepare verify voc2012 datasets/VOC2012",
    ):
        assert part in text, part
    assert text.count("PASCAL VOC 2012 belongs in") == 1
    columns = read("rcl-table1")["rows"][0]["columns"]
    assert columns["VOC2012"]["psnr"]["published"] == 31.39 and columns["VOC2012"]["psnr"]["ours"] is None
    assert "| RCL-MMD |" in Path("results/rcl-table1.md").read_text()
    assert main(["reproduce", "rcl-table2", "--options", OPTIONS, "--train", "--row", "N2N"]) == 1
    text = capsys.readouterr().out
    assert "N2N: cannot be trained. Missing: datasets/Stanford/LR" in text and "datasets/Stanford/HR" in text
    assert main(["reproduce", "rcl-table3", "--options", OPTIONS, "--row", "N2N"]) == 1
    assert "Its rows are 'SL', 'RCL+SL'" in capsys.readouterr().err
    assert main(["reproduce", "rcl-table3", "--options", "nowhere"]) == 1
    assert "there is no folder nowhere" in capsys.readouterr().err


def test_a_table_is_pre_trained_evaluated_and_reported(stanford, capfd):
    arguments = command("rcl-table2", "--labels", "2", "--row", "[ns]*[2)]*")  # N2N, N2S, SL (Den)
    assert main([*arguments, "--train"]) == 0
    assert "1/6  sr N2N, 2 labels, seed 0: " in capfd.readouterr().out
    assert read("rcl-table2")["steps"] == 2 and [row["row"] for row in read("rcl-table2")["rows"]] == [
        "N2N",
        "N2S",
        "SL (Den)",
    ]
    for row in read("rcl-table2")["rows"]:
        for column in ("Stanford SR", "Stanford JDenSR"):
            cell = row["columns"][column]["psnr"]
            assert cell["trials"] == 2 and cell["std"] > 0 and 0 < cell["ours"] < 60
    columns = {column["name"]: column for column in read("rcl-table2")["columns"]}
    assert columns["Stanford SR"]["input"]["psnr"] > columns["Stanford JDenSR"]["input"]["psnr"]  # that has noise, too
    first = Path("results/rcl-table2.html").read_text()
    (pretrained,) = Path("results/rcl-table2/stanford_sr/pretrained").glob("*/pretrained/models/net_g_2.pth")
    assert main(arguments) == 0  # reports known results, without training
    assert " of them in " not in capfd.readouterr().out and Path("results/rcl-table2.html").read_text() == first
    assert main([*arguments, "--train"]) == 0
    assert "6 trainings, 6 of them in" in capfd.readouterr().out
    pretrained.unlink()
    assert main(arguments) == 1  # without its weights, a row is not mistaken for one of random weights
    cells = read("rcl-table2")["rows"][2]["columns"]
    assert cells["Stanford SR"]["psnr"]["ours"] is None and cells["Stanford JDenSR"]["psnr"]["trials"] == 2


def test_rows_with_and_without_labels(voc):
    network = UNet(num_feat=2)
    file = Path("experiments/rcl_voc2012_RCL-EMD/models/net_g_2.pth")
    file.parent.mkdir(parents=True)
    torch.save({"params": network.state_dict()}, file)
    assert main(command("rcl-table3", "--labels", "0", "4", "--train")) == 0
    plain, pretrained = read("rcl-table3")["rows"]
    assert [cell["psnr"]["trials"] for cell in plain["columns"].values()] == [0, 2]
    assert [cell["psnr"]["trials"] for cell in pretrained["columns"].values()] == [1, 2]
    assert pretrained["columns"]["0"]["psnr"]["difference"] == pretrained["columns"]["0"]["psnr"]["ours"] - 22.62
    assert plain["columns"]["4"]["psnr"]["ours"] != pretrained["columns"]["4"]["psnr"]["ours"]
    (conditions,) = {json.dumps(column["conditions"]) for column in read("rcl-table3")["columns"]}
    conditions = json.loads(conditions)
    names = ("pretrain-steps", "steps", "patch", "batch", "data")
    assert [conditions[name] for name in names] == [2, 2, 32, 2, "datasets/VOC2012/JPEGImages"]
    everywhere = read("rcl-table3")["conditions"]
    assert everywhere["torch"] == torch.__version__ and everywhere["seeds of the trials"] == [0, 1]
    assert everywhere["overrides of the pre-trainings"] == TINY
    assert main(command("rcl-table3", "--labels", "0", "4", "--proxy-set", "manual_seed=7")) == 1
    assert read("rcl-table3")["rows"][0]["columns"]["4"]["psnr"]["ours"] is None  # results of other trainings
    page = Path("results/rcl-table3.md").read_text()
    assert "overrides of the trainings on labelled images: manual_seed=7" in page and "| pretrain-steps |" in page


def test_a_pre_training_with_other_options_is_marked_and_incomplete(voc, capsys):
    arguments = command("rcl-table3", "--labels", "4", "--row", "RCL+SL", "--train")
    assert main([*arguments, "--resnet", "random"]) == 0
    assert read("rcl-table3")["rows"][0]["columns"]["4"]["psnr"]["trained_otherwise"] == []
    assert "¶" not in Path("results/rcl-table3.md").read_text()
    capsys.readouterr()
    assert main(arguments) == 1  # the row needs the ImageNet classifier
    assert "trained with other options: experiments/rcl_voc2012_RCL-EMD/models/net_g_2.pth" in capsys.readouterr().out
    cell = read("rcl-table3")["rows"][0]["columns"]["4"]["psnr"]
    way = "train.consistency_opt.weights random instead of imagenet"
    assert cell["trials"] == 2 and cell["trained_otherwise"] == [way]
    for ending in ("md", "html"):
        page = Path(f"results/rcl-table3.{ending}").read_text()
        assert "(2) ¶" in page and f"¶ RCL+SL was pre-trained with other options (rcl/voc2012.yml): {way}." in page


WILD = """
import torch
from mcir.registry import OPTIMIZERS

@OPTIMIZERS.register()
class Wild(torch.optim.SGD):
    def __init__(self, params, lr: float = 1.0) -> None:
        super().__init__(params, lr=lr)

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.fill_(float("nan"))
"""


def test_a_collapsed_pre_training_is_a_result(voc, capsys):
    Path("wild.py").write_text(WILD)
    wild = ["imports=['wild']", "train.optim_g={type: Wild}"]
    arguments = [*command("rcl-table3", "--labels", "4", "--resnet", "random", "--train"), *wild]
    assert main(arguments) == 3
    assert capsys.readouterr().out.splitlines()[-1] == "collapsed: RCL+SL (4): pre-training, iteration 2"
    plain, pretrained = read("rcl-table3")["rows"]
    assert plain["columns"]["4"]["psnr"]["ours"] > 0 and plain["columns"]["4"]["psnr"]["collapse"] is None
    assert pretrained["columns"]["4"]["psnr"]["ours"] == "collapsed"
    page = Path("results/rcl-table3.md").read_text()
    assert "| collapsed (pre-training, iteration 2) |" in page and "NaN or infinite values of" in page
    assert main(arguments) == 3
    assert " mcir.train " not in capsys.readouterr().out


def test_several_rows(voc):
    assert main(command("rcl-table1", "--row", "N2N", "--row", "RCL-M*")) == 1
    assert [row["row"] for row in read("rcl-table1")["rows"]] == ["RCL-MMD", "N2N"]


def test_a_table_of_data_sets_needs_a_single_number_of_labels(voc, capsys):
    assert main(command("rcl-table1", "--labels", "2", "4")) == 1
    assert "expected one number of labelled images, got 2" in capsys.readouterr().err


def test_more_labels_than_images_are_an_error_before_anything_is_trained(voc, capsys):
    assert main(command("rcl-table3", "--labels", "50", "--train")) == 1
    assert "max_images: " in capsys.readouterr().err
    assert main(command("rcl-table3", "--labels", "4", "--train", "--trials", "0")) == 1
    assert not Path("experiments").exists()


def test_a_killed_table_resumes(voc):
    arguments = [
        sys.executable,
        "-m",
        "mcir.cli",
        *command("rcl-table3", "--row", "SL", "--labels", "2", "4", "--train"),
    ]
    runs = Path("results/rcl-table3/voc2012_denoise/runs.jsonl")
    first = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    wait_until(lambda: runs.is_file() and runs.read_text().count("\n"))
    first.kill()
    first.wait()
    done = runs.read_text().splitlines()
    assert 1 <= len(done) < 4
    text = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert f"4 trainings, {len(done)} of them in" in text
    after = runs.read_text().splitlines()
    assert after[: len(done)] == done and len({json.loads(line)["fingerprint"] for line in after}) == len(after) == 4


def test_a_pre_training_stops_with_its_command_and_resumes(voc):
    Path("pausing.py").write_text(PAUSING_LOSS)
    Path("hold").touch()
    changes = ["imports=['pausing']", "train.pixel_opt={type: PausingLoss}", "logger.save_checkpoint_freq=1"]
    arguments = [*command("rcl-table1", "--row", "N2N", "--labels", "4", "--train"), *changes]
    first = subprocess.Popen([sys.executable, "-m", "mcir.cli", *arguments])
    wait_until(Path("reached0").exists)
    (training,) = children_of(first.pid)
    first.kill()
    first.wait()
    Path("hold").unlink()
    wait_until(lambda: not is_running(training))
    folder = Path("experiments/rcl_voc2012_N2N")
    assert (folder / "models/net_g_1.pth").is_file()
    text = subprocess.run(
        [sys.executable, "-m", "mcir.cli", *arguments], capture_output=True, text=True, check=False
    ).stdout
    assert (folder / "models/net_g_2.pth").is_file()
    assert "trains UNet" not in text or "from iteration 1" in text  # it resumed, unless it was stopped at its end
    columns = read("rcl-table1")["rows"][0]["columns"]
    assert columns["VOC2012"]["psnr"]["trials"] == 2 and columns["MIT"]["psnr"]["trials"] == 0
