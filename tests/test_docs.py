"""The documentation: its snippets and commands are valid, the files that it names exist, and it builds."""

import argparse
import html
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
MODELS_OF_QUICKSTART = "experiments/quickstart/models"
WEIGHTS = ("net_g_200.pth", "net_g_best.pth")


def snippets(language):
    """Return the text of each code block in a language; test ids are page and line."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, block.start()) + 1
            found.append(pytest.param(block[1], id=f"{page.name}:{line}"))
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Change to a folder with a copy of the option files, and with checkpoints under the names that the pages use."""
    shutil.copytree(ROOT / "options", tmp_path / "options")
    monkeypatch.chdir(tmp_path)
    Path(MODELS_OF_QUICKSTART).mkdir(parents=True)
    network = ARCHS.build(load(QUICKSTART).network_g)
    for file in WEIGHTS:
        torch.save({"params": network.state_dict()}, Path(MODELS_OF_QUICKSTART, file))
    return tmp_path


@pytest.mark.parametrize("text", snippets("yaml"))
def test_option_snippets_are_valid_and_their_models_can_be_built(text, folder):
    """A snippet that starts with ``# options/….yml`` is a complete file; any other one overrides the quickstart."""
    named = re.match(r"# (options/\S+\.yml)\n", text)
    file = Path(named[1] if named else "options/snippet.yml")
    file.write_text(text if named else f"_base_: {Path(QUICKSTART).name}\n{text}", encoding="utf-8")
    for run in runs_of(file) or [None]:
        options = load(file, [] if run is None else [f"sweep={run}"])
        with torch.device("meta"):  # without ImageNet weights
            MODELS.build(options.model_section())


@pytest.mark.parametrize("text", snippets("python"))
def test_python_snippets_run(text, folder):
    exec(compile(text, "snippet", "exec"), {})


def test_named_runs_exist_in_the_sweeps_of_the_page(folder):
    text = (DOCS / "tables.md").read_text(encoding="utf-8")
    sweeps = [block.values[0] for block in snippets("yaml") if "sweep:" in block.values[0]]
    runs = []
    for number, sweep in enumerate(sweeps):
        Path(f"options/{number}.yml").write_text(sweep, encoding="utf-8")
        runs += runs_of(f"options/{number}.yml")
    named = re.findall(r"--set sweep=([\w.]+)`", text)
    assert named and set(named) <= set(runs)


def blocks_of(page):
    """Yield language and text of the code blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    yield from re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def lines_of(block):
    """Return the commands of a bash block as words."""
    lines = block.replace("\\\n", "").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def commands():
    """Return the ``mcir`` commands of the pages, from bash blocks and from code in the text."""
    blocks = [shlex.join(words) for block in snippets("bash") for words in lines_of(block.values[0])]
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    inline = [" ".join(code.split()) for page in pages for code in re.findall(r"`(mcir [^`]+)`", page)]
    return sorted({line for line in [*blocks, *inline] if line.startswith("mcir ")})


@pytest.mark.parametrize("line", commands())
def test_commands_are_valid(line):
    arguments = shlex.split(line, comments=True)[1:]
    if len(arguments) == 1:  # only the name of a command
        with pytest.raises(SystemExit) as end:
            cli.build_parser().parse_args([*arguments, "--help"])
        assert end.value.code == 0
    else:
        assert cli.build_parser().parse_args(arguments).command == arguments[0]


READ = (
    "opt",
    "weights",
    "inputs",
    "gt",
    "lq",
    "data",
    "checkpoint",
    "checkpoints",
    "first",
    "second",
    "source",
    "runs",
)
WRITTEN = ("out", "output", "target", "folder", "file", "haze", "rain", "noise", "blur", "jpeg")
NO_FILES = ("FILE", "random", "oracle", "sl-den", "last", "best")


class Reader:
    """A reader of the pages, who has a clone, and the files of the quick start and of the commands of a page so far."""

    def __init__(self, folder):
        self.folder = folder
        self.made = {"photos"}
        self.train(QUICKSTART, [])

    def follow(self, words):
        """Return the files that a command reads and that do not exist; remember those that it writes."""
        if words[0] in ("torchrun", "python"):
            return [word for word in words if re.search(r"\.(py|yml)$", word) and not self.has(word)]
        if words[0] != "mcir":
            return []
        arguments = vars(cli.build_parser().parse_args(words[1:]))
        overrides = arguments.get("set") or []
        read = [file for name in READ for file in files_in(arguments.get(name))]
        read += re.findall(r"dataroot\w*[:=] ?([^,}\s]+)", " ".join(overrides))
        missing = [file for file in read if not self.has(file)]
        self.made |= {file for name in WRITTEN for file in files_in(arguments.get(name))}
        if not missing and arguments["command"] == "train":
            self.train(arguments["opt"], overrides)
        if arguments["command"] == "test":
            self.made.add(f"results/{Path(arguments['opt']).stem}")
        if arguments["command"] == "export":
            self.made.add(f"{arguments['checkpoint']}".replace(".pth", ".onnx"))
        return missing

    def train(self, file, overrides):
        """Add the checkpoints of a training."""
        if file in self.made:  # written by `mcir new`
            self.made |= {f"experiments/{Path(file).stem}", Path(file).stem}
            return
        options = load(file, overrides)
        every, last = options.logger.save_checkpoint_freq, options.train.total_iter
        names = ["best", *range(every, last + 1, every), last]
        self.made |= {f"experiments/{options.name}/models/net_g_{name}.pth" for name in names}
        self.made.add(options.name)

    def has(self, file):
        """Return whether the reader has a file or folder. A pattern counts as its folder."""
        file = file.partition("*")[0].rstrip("/") if "*" in file else file
        parents = [str(parent) for parent in Path(file).parents]
        known = any(place in self.made for place in (file, *parents))
        beneath = any(made.startswith(f"{file}/") for made in self.made)
        shipped = file.startswith(("sr/", "dehaze/", "derain/", "deblur/", "denoise/"))
        exists = any((root / file).exists() for root in (self.folder, ROOT))
        return known or beneath or exists or (shipped and (ROOT / "options" / f"{file}.yml").is_file())


def files_in(value):
    """Return the files in the value of an argument."""
    values = value if isinstance(value, list) else [value]
    files = [str(item).rpartition("=")[2].rstrip("/") for item in values if item not in (None, True, False)]
    return [file for file in files if file not in NO_FILES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_use_files_that_the_reader_has(page, folder):
    reader = Reader(folder)
    for language, text in blocks_of(page):
        if language == "yaml" and (name := re.match(r"# (options/\S+\.yml)\n", text)):
            Path(name[1]).write_text(text, encoding="utf-8")
        if language == "bash":
            for words in lines_of(text):
                assert reader.follow(words) == [], shlex.join(words)


def test_a_command_with_a_file_that_the_reader_lacks_is_found(folder):
    reader = Reader(folder)
    line = "mcir restore {} -w experiments/quickstart/models/net_g_{}.pth -o better"
    assert reader.follow(shlex.split(line.format("holiday", "best"))) == ["holiday"]
    assert reader.follow(shlex.split(line.format("photos/coffee.png", "123"))) != []
    assert reader.follow(shlex.split(line.format("better", "200"))) == []


def test_named_files_exist():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    files = set(re.findall(r"`((?:examples|benchmarks|options|tests|datasets)/[\w/]+\.(?:py|yml|md))`", text))
    files |= {f"options/{file}" for file in re.findall(r"`((?:sr|dehaze|deblur|tables)/\w+\.yml)`", text)}
    assert len(files) > 5
    assert not [file for file in files if not (ROOT / file).is_file()]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return the folder of the built pages."""
    for package in ("sphinx", "myst_parser", "furo", "latex2mathml", "sphinx_copybutton", "sphinx_design"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f'{package} is not installed: pip install -e ".[docs]"')
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stderr
    return folder


def test_the_pages_build_without_warnings(site):
    for page in PAGES:
        assert (site / f"{page.stem}.html").is_file()
    assert (site / "results" / "mini.html").is_file()


def test_the_reference_describes_every_command_and_argument(site):
    text = html.unescape(re.sub(r"<[^>]+>", "", (site / "cli.html").read_text(encoding="utf-8")))
    parsers = [cli.build_parser()]
    for parser in parsers:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
                assert all(name in text for name in action.choices)
            elif parser is not parsers[0]:
                assert all(flag in text for flag in action.option_strings if flag not in ("-h", "--help")), parser.prog
    assert len(parsers) > 20


def test_the_pages_need_no_other_server(site):
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link|img|iframe)[^>]* (?:src|href)=.https?:[^>]*>", text), page.name


def test_formulas_are_visible_in_a_browser(site, browser):
    page = browser.new_page()
    formulas = 0
    for file in site.glob("*.html"):
        if "<math" in file.read_text(encoding="utf-8"):
            page.goto(file.as_uri())
            sizes = page.eval_on_selector_all("math", "all => all.map(m => m.getBoundingClientRect().toJSON())")
            assert all(size["width"] > 3 and size["height"] > 3 for size in sizes), file.name
            assert "\\" not in "".join(page.locator("math").all_text_contents()), file.name
            formulas += len(sizes)
    assert formulas > 100
