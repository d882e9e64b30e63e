"""Option files by name, in a clone and in an installed package."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mcir.cli import main
from mcir.config import OptionError, load, network_section
from mcir.config.files import find_by_name, find_file, shipped, shipped_names
from mcir.config.load import runs_of
from mcir.tables.commands import PaperTable
from mcir.tables.plan import option_file
from tests.config.conftest import GOOD

ROOT = Path(__file__).parents[2]
NAME = "sr/edsr_light_x4_spn"


def test_in_a_clone_the_files_are_those_at_the_top():
    assert shipped() == ROOT / "options"
    names = shipped_names()
    assert {NAME, "quickstart", "tables/table8", "rcl/mit"} <= set(names)
    assert not any(name.startswith("_base_") for name in names)
    assert all((ROOT / "options" / f"{name}.yml").is_file() for name in names)


@pytest.mark.parametrize("name", [NAME, f"{NAME}.yml", Path(NAME)])
def test_a_name_is_found_from_any_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert find_file(name) == ROOT / "options" / f"{NAME}.yml"
    assert load(name).name == "edsr_light_x4_spn"
    assert "steps_100" in runs_of("tables/table7")
    assert network_section(name).type == "EDSR"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ([f"{NAME}.yml", f"options/{NAME}.yml"], f"{NAME}.yml"),
        ([NAME, f"{NAME}.yml"], NAME),
        ([f"options/{NAME}.yml"], f"options/{NAME}.yml"),
        ([f"options/{NAME}_not.yml"], None),
    ],
)
def test_files_of_the_current_folder_win(tmp_path, monkeypatch, files, found):
    monkeypatch.chdir(tmp_path)
    for file in map(Path, files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(GOOD)
    assert find_file(NAME) == (ROOT / "options" / f"{NAME}.yml" if found is None else Path(found))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("sr/edsr_light_x4_spm", "Did you mean 'sr/edsr_light_x4_spn'? "),
        ("edsr_light_x4_spn.yml", "Did you mean 'sr/edsr_light_x4_spn'? "),
        ("mi.yml", "Did you mean 'mine.yml'? "),
        ("zzz", ""),
        ("../options/quickstart", "Did you mean 'quickstart'? "),
    ],
)
def test_a_missing_name_lists_the_searched_folders_and_the_closest_name(write, name, near):
    write(GOOD, "mine.yml")
    with pytest.raises(OptionError) as caught:
        load(name)
    searched = f"Searched in: the current folder, options/ in it, and {ROOT / 'options'}."
    assert str(caught.value) == f"{name}: The file does not exist. {near}{searched}"


@pytest.mark.parametrize("name", ["../pyproject.toml", "sr/../../pyproject.toml", str(ROOT / "options/quickstart.yml")])
def test_a_name_stays_inside_the_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "options/sr").mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    assert find_by_name(name) is None


def test_a_base_is_a_path_or_a_name(write, problems):
    text = "_base_: {}\nname: mine\n"
    assert load(write(text.format(NAME))).train.model.contrastive_opt.type == "SPNLoss"
    write(GOOD, f"{NAME}.yml")
    assert load("x.yml").train.model.optim_g.lr == 1e-4
    (problem,) = problems(text.format("sr/edsr_light_x4_spm"), overrides=[])
    assert problem.endswith(
        "_base_: 'sr/edsr_light_x4_spm': The file does not exist. Did you mean 'sr/edsr_light_x4_spn.yml'?"
    )


def test_a_copied_folder_works_on_its_own(tmp_path, monkeypatch):
    copy = shutil.copytree(ROOT / "options", tmp_path / "copy")
    files = [copy / f"{name}.yml" for name in shipped_names()]
    monkeypatch.setattr("mcir.config.files.shipped", lambda: tmp_path / "nothing")
    for file in files:
        runs = runs_of(file)
        assert load(file, [f"sweep={runs[0]}"] if runs else []).name


def test_a_table_uses_the_folder_options_or_the_files_of_mcir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"{NAME}.yml"
    assert option_file(PaperTable(), name) == ROOT / "options" / name
    (tmp_path / "options/sr").mkdir(parents=True)
    (tmp_path / "options" / name).touch()
    (tmp_path / "sr").mkdir()
    (tmp_path / name).touch()
    assert option_file(PaperTable(), name) == Path("options") / name
    assert option_file(PaperTable(options=Path("others")), name) == Path("others") / name


def test_the_list_of_files(capsys):
    assert main(["list", "options", "sr/swinir_light*"]) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in rows] == ["sr/swinir_light_x4", "sr/swinir_light_x4_spn"]
    assert rows[0][1] == 'SwinIR-light ×4 on DIV2K: "SwinIR-light ×4" of the paper\'s Table 1.'
    assert main(["list", "options", "sr/swinir_lite_x4"]) == 1
    assert "Did you mean 'sr/swinir_light_x4'?" in capsys.readouterr().err


# -- an installed package ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """Build a wheel from a copy of the sources, install it into a folder, and return a function that runs commands."""
    pytest.importorskip("setuptools", "77")
    source, home = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("mcir", "options"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", home, source], check=True)
    (wheel,) = home.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", home / "site", wheel], check=True)

    def run(*arguments, cwd):
        environment = {**os.environ, "PYTHONPATH": str(home / "site")}
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

    run.wheel, run.package = wheel, home / "site/mcir"
    return run


@pytest.mark.slow
def test_a_wheel_contains_every_option_file(installed):
    names = {name for name in zipfile.ZipFile(installed.wheel).namelist() if name.startswith("mcir/options/")}
    tracked = [file for file in (ROOT / "options").rglob("*") if file.suffix in (".yml", ".md", ".json")]
    assert names == {f"mcir/{file.relative_to(ROOT)}" for file in tracked}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-m", "mcir.cli", "check", NAME, "--print"], "name: edsr_light_x4_spn"),
        (["-m", "mcir.cli", "list", "options", "rcl/m*"], "rcl/mit"),
        (["-m", "mcir.cli", "reproduce", "table1", "--row", "EDSR*"], "options/sr/edsr_light_x4_spn.yml)  not trained"),
        (["-m", "mcir.cli", "reproduce", "rcl-table1", "--row", "N2N"], "options/rcl/mit.yml"),
        (["-m", "mcir.cli", "test", "-opt", "sr/test/edsr_light_x4"], "datasets/Set5/HR: no such folder"),
        (["{package}/train.py", "-opt", "quickstart", "--set", "total_iter=1"], "There is no option 'total_iter'"),
        (["{package}/train.py", "-opt", "quickstrat"], "Did you mean 'quickstart'?"),
    ],
)
def test_an_installed_package_finds_its_option_files(installed, tmp_path, arguments, text):
    result = installed(*(part.format(package=installed.package) for part in arguments), cwd=tmp_path)
    output = result.stdout + result.stderr
    assert text in output, output
    assert str(ROOT) not in output.replace(sys.prefix, "")


@pytest.mark.slow
def test_an_installed_package_trains_by_name(installed, tmp_path):
    settings = ["num_gpu=cpu", "train.total_iter=2", "train.negatives=null", "train.contrastive_opt=null"]
    settings += ["model_type=RestorationModel", "datasets.val=null", "datasets.train.num_worker_per_gpu=0"]
    result = installed("-m", "mcir.cli", "train", "-opt", "quickstart", "--set", *settings, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert list((tmp_path / "experiments").glob("*/models/net_g_2.pth"))
