"""`~` and `$VAR` are expanded in every path: options, constructor arguments and command-line arguments."""

import re
from pathlib import Path
from typing import Annotated, get_type_hints

import pytest

import mcir
from mcir import registry
from mcir.arguments import _arguments_of, _settings
from mcir.cli import Group, _commands
from mcir.config import load
from mcir.config.option_paths import resolve_paths
from mcir.config.options import PathOptions
from mcir.config.yaml_loader import read_value
from mcir.errors import Location
from mcir.inference.checkpoints import named_checkpoints
from mcir.paths import PathKind, UserPath, expand, expand_path, path_inside, path_kind, path_problem
from mcir.registry import Registry
from mcir.tables.proxy_plan import row_of

NAMED = {"first", "second", "checkpoints", "weights"}
"""Command-line arguments NAME=FILE, which the function that separates the name expands."""
NO_PATHS = {"set", "force_yml", "proxy_set", "key", "suffix", "filename_tmpl", "pattern", "row", "strip", "format"}
"""Command-line arguments whose help mentions files or folders, but which are not paths."""
LIKE_A_PATH = re.compile(r"root|file$|path|weights$|folder")
REGISTRIES = [value for value in vars(registry).values() if isinstance(value, Registry)]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    return tmp_path


def arguments(commands=None):
    for name, command in (_commands() if commands is None else commands).items():
        if isinstance(command, Group):
            yield from arguments(command.commands)
            continue
        types = get_type_hints(command, include_extras=True)
        yield from ((name, item, types[item.name]) for item in _arguments_of(command))


def test_every_path_of_the_command_line_is_expanded(home):
    checked = set()
    for command, item, kind in arguments():
        if path_kind(kind) or "Path" in str(kind):
            assert str(_settings(item, kind)["type"]("~/x")) == str(home / "x"), f"{command} {item.name}"
            assert str(_settings(item, kind)["type"]("$DATA/x")) == str(home / "data/x")
            checked.add(item.name)
    assert {"opt", "checkpoint", "inputs", "weights", "out", "gt", "runs", "source", "target", "results"} <= checked


def test_every_argument_that_names_a_file_has_the_type_of_a_path():
    wrong = [
        f"{command} {item.name}"
        for command, item, kind in arguments()
        if "str" in str(kind).replace("Annotated[str", "")
        and re.search(r"\b(file|files|folder|checkpoint|database)\b", item.metadata["help"])
        and not (path_kind(kind) or item.name in NAMED | NO_PATHS)
    ]
    assert not wrong


def test_files_with_names_are_expanded(home):
    (home / "w.pth").touch()
    assert named_checkpoints(["a=~/w.pth", "$HOME/w.pth"]) == {"a": home / "w.pth", "w": home / "w.pth"}
    assert row_of("a=~/w.pth") == ("a", home / "w.pth")


def test_every_path_of_a_component_is_expanded(home):
    checked = set()
    for kind in REGISTRIES:
        for name in kind.names():
            for key, parameter in kind.parameters(name).items():
                kind_of_value = str(parameter.annotation)
                if "Mapping" in kind_of_value or not (LIKE_A_PATH.search(key) and "str" in kind_of_value):
                    continue
                assert path_kind(parameter.annotation), f"{name}.{key}"
                checked.add(key)
    names = {"dataroot", "dataroot_gt", "dataroot_lq", "dataroot_negatives", "meta_info_file", "weights"}
    assert checked == names


def test_every_path_of_the_section_path_is_expanded(home, tmp_path):
    keys = [key for key in PathOptions.model_fields if key not in ("strict_load_g", "param_key_g")]
    assert len(keys) == 4
    root = read_value("path:\n" + "".join(f"  {key}: ${{DATA}}/x\n" for key in keys), Location("o.yml", 1))
    resolve_paths(root)
    assert set(root.plain()["path"].values()) == {str(home / "data/x")}


def test_a_whole_option_file(home, tmp_path):
    text = """\
name: x
model_type: RestorationModel
datasets:
  val: {type: PairedImageDataset, dataroot_gt: ~/gt, dataroot_lq: $DATA/lq}
network_g: {type: EDSR, upscale: 1}
path: {pretrain_network_g: ~/w.pth}
"""
    (home / "o.yml").write_text(text)
    options = load(home / "o.yml", ["path.results_root=~/results"])
    section = options.datasets.val["val"].section
    assert section["dataroot_gt"] == str(home / "gt")
    assert section["dataroot_lq"] == str(home / "data/lq")
    assert options.path.pretrain_network_g == str(home / "w.pth")
    assert options.path.results_root == str(home / "results")
    assert "~" not in options.dump()


def test_text_that_cannot_be_expanded_remains(monkeypatch):
    monkeypatch.delenv("UNSET_VARIABLE", raising=False)
    for text in ("~nobody-has-this-name/x", "$UNSET_VARIABLE/x", "a~/$", "a//b/", "", "imagenet"):
        assert expand(text) == text
    assert expand_path("a//b/") == Path("a/b")
    assert path_kind(UserPath | None) == PathKind()
    assert path_kind(Annotated[str, "text"] | None) is None


@pytest.mark.parametrize("text", ["a\0b", "x" * 256, "x/" * 2048])
def test_text_that_cannot_be_a_path(text, home):
    assert path_problem(text)
    (home / "o.yml").write_text(f"name: x\npath: {{resume_state: {'x' * 100_000}}}\n")
    with pytest.raises(mcir.OptionError) as caught:
        load(home / "o.yml")
    (line,) = (line for line in str(caught.value).splitlines() if "resume_state" in line)
    assert "o.yml:2: path.resume_state: expected a path, got 'xxx" in line
    assert len(line) < 600
    with pytest.raises(ValueError, match="The name"):
        path_inside(home, text)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a/.."])
def test_files_stay_in_their_folder(name, home):
    with pytest.raises(ValueError, match="leads out of"):
        path_inside(home, name)
    assert path_inside(home, "a/b.png") == home / "a/b.png"
