"""The documentation: its snippets are understood by the code, and it builds without a warning."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mcir import cli
from mcir.config import load, runs_of
from mcir.registry import ARCHS, MODELS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
QUICKSTART = "options/quickstart.yml"
WEIGHTS = ("pretrained/first.pth", "pretrained/second.pth")


def snippets(language):
    """Return every fenced block of a language, by page and line."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, block.start()) + 1
            found.append(pytest.param(block[1], id=f"{page.name}:{line}"))
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The present folder: a copy of the option files, and checkpoints under the names that the pages use."""
    shutil.copytree(ROOT / "options", tmp_path / "options")
    monkeypatch.chdir(tmp_path)
    Path("pretrained").mkdir()
    network = ARCHS.build(load(QUICKSTART).network_g)
    for file in WEIGHTS:
        torch.save({"params": network.state_dict()}, file)
    return tmp_path


@pytest.mark.parametrize("text", snippets("yaml"))
def test_an_option_snippet_is_understood_and_built(text, folder):
    """A snippet is a file where its first line says so, ``# options/….yml``, and else lies over the quickstart's."""
    named = re.match(r"# (options/\S+\.yml)\n", text)
    file = Path(named[1] if named else "options/snippet.yml")
    file.write_text(text if named else f"_base_: {Path(QUICKSTART).name}\n{text}", encoding="utf-8")
    for run in runs_of(file) or [None]:
        options = load(file, [] if run is None else [f"sweep={run}"])
        with torch.device("meta"):  # shapes, and no ImageNet weights
            MODELS.build(options.model_section())


@pytest.mark.parametrize("text", snippets("python"))
def test_a_python_snippet_runs(text, folder):
    exec(compile(text, "snippet", "exec"), {})


def test_a_named_run_of_a_sweep_is_one_of_it(folder):
    text = (DOCS / "tables.md").read_text(encoding="utf-8")
    sweeps = [block.values[0] for block in snippets("yaml") if "sweep:" in block.values[0]]
    runs = []
    for number, sweep in enumerate(sweeps):
        Path(f"options/{number}.yml").write_text(sweep, encoding="utf-8")
        runs += runs_of(f"options/{number}.yml")
    named = re.findall(r"--set sweep=([\w.]+)`", text)
    assert named and set(named) <= set(runs)


def commands():
    """Return every call of ``mcir`` in the pages: lines of bash, and code within the text."""
    blocks = [line for block in snippets("bash") for line in block.values[0].replace("\\\n", "").splitlines()]
    inline = [code for page in PAGES for code in re.findall(r"`(mcir [^`]+)`", page.read_text(encoding="utf-8"))]
    return sorted({line for line in [*blocks, *inline] if line.startswith("mcir ")})


@pytest.mark.parametrize("line", commands())
def test_a_command_is_understood(line, capsys):
    words = shlex.split(line, comments=True)[1:]
    if len(words) == 1:  # only its name is mentioned
        with pytest.raises(SystemExit) as end:
            cli.main([*words, "--help"])
        assert end.value.code == 0
    else:
        assert cli._parser().parse_args(words).cls


def test_every_file_that_is_named_is_there():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    files = set(re.findall(r"`((?:examples|benchmarks|options|tests|datasets)/[\w/]+\.(?:py|yml|md))`", text))
    files |= {f"options/{file}" for file in re.findall(r"`((?:sr|dehaze|deblur|tables)/\w+\.yml)`", text)}
    assert len(files) > 5
    assert not [file for file in files if not (ROOT / file).is_file()]


def test_the_pages_build_without_a_warning(tmp_path):
    for package in ("sphinx", "myst_parser", "furo"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f'{package} is not installed: pip install -e ".[docs]"')
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert built.returncode == 0, built.stderr
    for page in PAGES:
        assert (tmp_path / f"{page.stem}.html").is_file()
    assert (tmp_path / "results" / "mini.html").is_file()
