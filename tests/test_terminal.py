"""Names from files and options reach the terminal, the log and the pages as they are, and control nothing."""

import ast
import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from mcir.console import Console
from mcir.report.page import Report, Section

ROOT = Path(__file__).parents[1]
HOSTILE = "\x1b[36mred\x1b[2J\x1b]0;title\x07 [red]x[/y] :bug: \r\u202e"
SHOWN = r"\x1b[36mred\x1b[2J\x1b]0;title\x07 [red]x[/y] :bug: \x0d\u202e"

SINKS = {"print", "rich", "rich.print", "rich.console.Console", "rich.progress.TextColumn", "argparse.ArgumentParser"}

IN_A_TERMINAL = """
import argparse, logging, sys
from rich.progress import Progress
from rich.table import Table
from mcir.arguments import Parser
from mcir.console import Console, TextColumn
from mcir.terminal import LogFormatter, make_tracebacks_printable, show, show_error
name = {name!r}
show("show " + name)
show_error("error " + name)
console = Console(soft_wrap=True)
assert console.is_terminal
console.print("print " + name)
table = Table(title="title " + name)
table.add_column("column " + name)
table.add_row("row " + name)
console.print(table, soft_wrap=False, width=200)
handler = logging.StreamHandler()
handler.setFormatter(LogFormatter())
logging.getLogger().addHandler(handler)
logging.getLogger().error("log %s", name)
with Progress(TextColumn("{{task.description}}"), TextColumn("{{task.fields[x]}}"), console=console) as bar:
    bar.add_task("task " + name, total=None, x="field " + name)
try:
    Parser(prog="p").parse_args(["unknown " + name])
except SystemExit:
    make_tracebacks_printable()
    raise RuntimeError("traceback " + name)
"""


def output_in_a_terminal(code):
    """Run Python code in a pseudo-terminal, and return what it writes."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    parts = []
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(master)
    assert process.wait() == 1
    return b"".join(parts).decode()


def test_nothing_controls_a_real_terminal():
    written = output_in_a_terminal(IN_A_TERMINAL.format(name=HOSTILE))
    for place in ("show", "error", "print", "title", "column", "row", "log", "unknown", "traceback"):
        assert f"{place} {SHOWN}" in written
    for place in ("task", "field"):
        assert rf"{place} \x1b[36mred\x1b[2J\x1b]0;title" in written
    for sequence in ("\x1b[36m", "\x1b[2J", "\x1b]", "\x07", "\u202e"):
        assert sequence not in written
    assert "\x1b[?25l" in written  # rich itself still controls the terminal


def test_a_terminal_breaks_lines_between_words_and_leaves_paths_whole():
    path = "/a/" + "b" * 80
    text = f"These words do not fit into the row of a terminal with 40 columns: {path} is whole."
    for is_terminal in (True, False):
        file = io.StringIO()
        Console(file=file, force_terminal=is_terminal, width=40, color_system=None).print_wrapped(text)
        lines = file.getvalue().splitlines()
        assert " ".join(line.strip() for line in lines) == text
        assert all(len(line) <= 40 or line.strip() == path for line in lines) == is_terminal


ERRORS = """
import logging
from mcir.terminal import LogHandler, show_error
log = logging.getLogger("mcir")
log.addHandler(LogHandler())
log.setLevel(logging.INFO)
log.info("information")
log.warning("a warning")
log.error("an error")
show_error("mcir: wrong option")
"""


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_warnings_are_yellow_and_errors_red_unless_colours_are_disabled(variables):
    screen = pytest.importorskip("tests.screen", reason="pseudo-terminals need pyte and a POSIX system")
    environment = {"PYTHONPATH": str(ROOT), **variables}
    terminal = screen.Terminal([sys.executable, "-c", ERRORS], 80, environment).read()
    texts = ["information", "a warning", "an error", "mcir: wrong option"]
    assert terminal.rows() == texts
    expected = ["default"] * 4 if variables else ["default", "brown", "red", "red"]  # pyte's name of yellow is brown
    assert [terminal.colours(text) for text in texts] == [{colour} for colour in expected]
    assert (b"\x1b[" in terminal.raw) == (not variables)


def test_styles_remain():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=60)
    table = Table(title="results")
    table.add_column("[bold]name")
    table.add_row("x")
    console.print(table)
    assert "\x1b[3m" in file.getvalue()  # the title is in italics
    assert "[bold]name" in file.getvalue()


def test_pages_contain_no_control_characters():
    report = Report(f"run {HOSTILE}", [Section(f"set {HOSTILE}", table=[["a", "b"], ["x\ny|", HOSTILE]])])
    for text in (report.as_html(), report.as_markdown()):
        assert "\\x1b[36mred" in text
        assert not {"\x1b", "\x07", "\r", "\u202e"} & set(text)
    assert "| x y\\| | " in report.as_markdown()


def test_all_output_passes_through_one_module():
    wrong = []
    for file in (ROOT / "mcir").rglob("*.py"):
        if file.name in ("terminal.py", "console.py", "arguments.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                imported = {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                imported = {alias.name for alias in node.names}
            else:
                imported = {"print"} if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" else set()
            if imported & SINKS:
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert not wrong


def test_the_log_of_a_command_is_printable(capsys, monkeypatch):
    from mcir.engine.loggers import log_to_console

    logger = logging.getLogger("mcir")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "level", logging.INFO)
    log_to_console()
    logger.warning("%s", HOSTILE)
    assert capsys.readouterr().err == f"{SHOWN}\n"
