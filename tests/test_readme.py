"""The README: its commands, snippets and links."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from mcir import cli
from mcir.config import load

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [
    line for language, block in BLOCKS if language == "bash" for line in block.splitlines() if line.startswith("mcir ")
]
WIDTH = 88
"""Columns that GitHub shows of a code block, with a margin."""


def test_ci_runs_the_two_commands():
    """``.ci/run`` reads them from the file."""
    training, tests = re.findall(r"^pip install -e .*$", TEXT, re.MULTILINE)
    assert training == "pip install -e . && mcir train options/quickstart.yml"
    assert tests == 'pip install -e ".[dev]" && pytest'


def test_code_blocks_are_not_wider_than_github_shows_them():
    assert len(BLOCKS) > 5
    assert [line for _, block in BLOCKS for line in block.splitlines() if len(line) > WIDTH] == []


def test_the_last_lines_belong_to_the_quick_start():
    options = load(ROOT / "options/quickstart.yml")
    assert f"experiments/{options.name}/models/net_g_{options.train.total_iter}.pth" in TEXT
    (table,) = [block for _, block in BLOCKS if "bicubic" in block]
    (before, after, gain) = (float(value) for value in re.findall(r"([+\d.]+) dB", table))
    assert after - before == pytest.approx(gain, abs=0.011)


@pytest.mark.parametrize("line", [*COMMANDS, *re.findall(r"`(mcir \w+ [^`]+)`", TEXT)])
def test_commands_are_valid(line):
    arguments = shlex.split(line, comments=True)[1:]
    assert cli.build_parser().parse_args(arguments).command == arguments[0]


def test_option_snippets_are_valid(tmp_path):
    snippets = [block for language, block in BLOCKS if language == "yaml"]
    assert snippets
    for snippet in snippets:
        assert yaml.safe_load(snippet)["model_type"] == "ContrastiveModel"
        (tmp_path / "x.yml").write_text(f"_base_: {ROOT}/options/quickstart.yml\n{snippet}", encoding="utf-8")
        load(tmp_path / "x.yml", ["train.contrastive_opt.weights=random"])


def test_linked_files_and_sections_exist():
    links = re.findall(r"\]\(([^)#:]*)(?:#([\w-]+))?\)", TEXT)
    assert len(links) > 20
    for path, section in links:
        file = ROOT / (path or "README.md")
        assert file.exists(), path
        headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE) if section else ()
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not section or section in anchors, f"{path}#{section}"


def test_badges_agree_with_the_package():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'requires-python = ">=3.10"' in project and "python-3.10_or_later" in TEXT
    assert 'license = "Apache-2.0"' in project and "licence-Apache_2.0" in TEXT
    assert "Development Status :: 3 - Alpha" in project and "status-alpha" in TEXT
