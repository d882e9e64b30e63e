"""Relative paths: next to the option file, then in the current folder; on the command line, in the current folder."""

from dataclasses import dataclass

import pytest

from mcir.config import load
from mcir.config.files import shipped
from mcir.paths import OutputPath, UserPath
from mcir.registry import DATASETS, LOSSES
from tests.data.images import noise, save

TEXT = """\
name: x
model_type: RestorationModel
scale: 2
datasets:
  val: {type: PairedImageDataset, dataroot_gt: gt, degradation: {type: BicubicDown}}
network_g: {type: EDSR, upscale: 2, num_feat: 4, num_block: 1}
path: {pretrain_network_g: net.pth, resume_state: run/1.state}
val: {metrics: {psnr: {type: PSNR}}}
"""


@dataclass
class LossWithPaths:
    table: UserPath
    tables: tuple[UserPath, ...] = ()
    log: OutputPath = "log"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Return the folder of an option file and another folder, which is the current one."""
    project, here = tmp_path / "project", tmp_path / "here"
    for folder in (project, here):
        folder.mkdir()
    (project / "x.yml").write_text(TEXT)
    monkeypatch.chdir(here)
    return project, here


def notices(caplog):
    return [record.getMessage() for record in caplog.records if "Relative paths" in record.getMessage()]


def gt(options):
    return options.datasets.val["val"].section["dataroot_gt"]


def test_inputs_are_found_next_to_the_option_file(folders, caplog):
    project, _ = folders
    (project / "gt").mkdir()
    (project / "net.pth").touch()
    options = load(project / "x.yml")
    assert gt(options) == str(project / "gt")
    assert options.path.pretrain_network_g == str(project / "net.pth")
    assert options.path.resume_state == "run/1.state"  # exists nowhere
    assert options.path.experiments_root == "experiments"
    assert not notices(caplog)


def test_outputs_are_relative_to_the_current_folder(folders):
    project, _ = folders
    (project / "results").mkdir()
    assert load(project / "x.yml", ["path.results_root=results"]).path.results_root == "results"
    (project / "y.yml").write_text("_base_: x.yml\npath: {results_root: results}\n")
    assert load(project / "y.yml").path.results_root == "results"


def test_the_current_folder_comes_second_with_one_notice(folders, caplog):
    project, here = folders
    (here / "gt").mkdir()
    (here / "net.pth").touch()
    options = load(project / "x.yml")
    assert (gt(options), options.path.pretrain_network_g) == ("gt", "net.pth")
    (notice,) = notices(caplog)
    assert "Found only in the current folder: " in notice
    assert {"path.pretrain_network_g", "datasets.val.dataroot_gt"} <= set(notice.replace(",", "").rstrip(".").split())


def test_no_notice_for_an_option_file_in_a_subfolder_of_the_current_folder(folders, monkeypatch, caplog):
    project, _ = folders
    (project.parent / "gt").mkdir()
    monkeypatch.chdir(project.parent)
    assert gt(load("project/x.yml")) == "gt"
    assert not notices(caplog)


def test_no_notice_for_files_that_come_with_mcir(folders, caplog):
    _, here = folders
    (here / "datasets/DIV2K").mkdir(parents=True)
    load("sr/edsr_light_x4")
    assert shipped().is_dir()
    assert not notices(caplog)


def test_the_file_next_to_the_option_file_wins_with_a_notice(folders, caplog):
    project, here = folders
    for folder in folders:
        (folder / "gt").mkdir()
    assert gt(load(project / "x.yml")) == str(project / "gt")
    (notice,) = notices(caplog)
    assert f"datasets.val.dataroot_gt: 'gt' exists in both. {project / 'gt'} is used." in notice
    (here / "gt").rmdir()
    (here / "gt").symlink_to(project / "gt")
    caplog.clear()
    assert gt(load(project / "x.yml")) == str(project / "gt")
    assert not notices(caplog), "both are the same folder"


def test_in_the_current_folder_paths_remain_as_written(folders, monkeypatch):
    project, _ = folders
    (project / "gt").mkdir()
    monkeypatch.chdir(project)
    assert gt(load("x.yml")) == gt(load(project / "x.yml")) == "gt"


def test_a_base_has_its_own_folder(folders):
    project, _ = folders
    (project / "gt").mkdir()
    (project / "sub").mkdir()
    (project / "sub/net.pth").touch()
    (project / "sub/y.yml").write_text("_base_: ../x.yml\npath: {pretrain_network_g: net.pth}\n")
    options = load(project / "sub/y.yml")
    assert gt(options) == str(project / "gt")
    assert options.path.pretrain_network_g == str(project / "sub/net.pth")


def test_the_command_line_is_relative_to_the_current_folder(folders):
    project, _ = folders
    for folder in folders:
        (folder / "gt").mkdir()
    key = "datasets.val.dataroot_gt"
    assert gt(load(project / "x.yml", [f"{key}=gt"])) == "gt"
    assert gt(load(project / "x.yml", force_yml=[f"{key.replace('.', ':')}=gt"])) == "gt"


def test_runs_of_a_sweep(folders):
    project, _ = folders
    (project / "a.pth").touch()
    text = TEXT.replace("path: {pretrain_network_g: net.pth, ", "path: {")
    (project / "x.yml").write_text(text + "sweep: {path.pretrain_network_g: [a.pth, b.pth]}\n")
    assert load(project / "x.yml", ["sweep=pretrain_network_g_a.pth"]).path.pretrain_network_g == str(project / "a.pth")


def test_old_keys(folders):
    project, _ = folders
    (project / "old.pth").touch()
    (project / "old.yml").write_text("_base_: x.yml\npath: {pretrain_network_g: null, pretrain_model_g: old.pth}\n")
    assert load(project / "old.yml").path.pretrain_network_g == str(project / "old.pth")


TRAIN = """\
name: x
model_type: ContrastiveModel
datasets:
  train: {type: PairedImageDataset, dataroot_gt: /gt, dataroot_lq: /lq, batch_size_per_gpu: 1, gt_size: 8}
network_g: {type: EDSR, upscale: 1, num_feat: 4, num_block: 1}
train:
  total_iter: 1
  optim_g: {type: Adam, lr: 1e-3}
  pixel_opt: {type: L1Loss}
  perceptual_opt: {type: LossWithPaths, table: a, tables: [a, b], log: a}
  contrastive_opt: {type: SPNLoss, loss_weight: 0.1, layer_weights: {relu1_1: 1}, weights: random}
  negatives: {type: FrozenNegatives, weights: [a, random]}
"""


def test_paths_of_nested_and_own_components(folders, monkeypatch):
    project, _ = folders
    assert "SPNLoss" in LOSSES
    monkeypatch.setitem(LOSSES._classes, "LossWithPaths", LossWithPaths)
    (project / "x.yml").write_text(TRAIN)
    for name in ("a", "random", "imagenet"):
        (project / name).touch()
    model = load(project / "x.yml").train.model
    found = str(project / "a")
    assert (model.perceptual_opt.table, model.perceptual_opt.tables) == (found, (found, "b"))
    assert model.perceptual_opt.log == "a"
    assert model.contrastive_opt.weights == "random", "a name, although a file has the same name"
    assert list(model.negatives.weights) == [found, "random"]


def test_a_variable_is_expanded_once(folders, monkeypatch):
    project, _ = folders
    monkeypatch.setenv("A", "$B")
    monkeypatch.setenv("B", "never")
    (project / "x.yml").write_text(TEXT.replace("dataroot_gt: gt", "dataroot_gt: $A/gt"))
    save(project / "$B/gt/a.png", noise(16, 16))
    options = load(project / "x.yml")
    assert gt(options) == f"{project}/$B/gt"
    assert len(DATASETS.build(options.datasets.val["val"].section)) == 1


def test_a_missing_path_names_both_places(folders):
    project, here = folders
    options = load(project / "x.yml")
    with pytest.raises(ValueError, match="dataroot_gt") as caught:
        DATASETS.build(options.datasets.val["val"].section, where=options.where("datasets", "val"))
    first, second = str(caught.value).splitlines()
    assert first == f"{project}/x.yml:5: datasets.val.dataroot_gt: gt: no such folder"
    places = f"{project} (the folder of the option file) and in {here} (the current folder)"
    assert second == f"'gt' was looked up in {places}."


def test_a_missing_path_of_the_command_line_names_the_current_folder(folders):
    project, here = folders
    options = load(project / "x.yml", ["path.resume_state=a.state"])
    assert options.where("path")(("resume_state",)).note == f"'a.state' was looked up in {here} (the current folder)."


def test_a_resumed_run_finds_its_data_from_another_folder(folders, monkeypatch):
    project, _ = folders
    (project / "gt").mkdir()
    first = load(project / "x.yml").dump()
    monkeypatch.chdir(project.parent)
    assert load("project/x.yml").dump() == first
