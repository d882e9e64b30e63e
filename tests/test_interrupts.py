"""Tests of Ctrl-C while a command starts: status 130 without a traceback, also during the imports."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mcir.interrupts import exit_on_interrupt, raise_on_interrupt

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "train.py": [sys.executable, str(ROOT / "mcir/train.py"), "-opt", "sr/edsr_light_x4"],
    "test.py": [sys.executable, str(ROOT / "mcir/test.py"), "-opt", "sr/edsr_light_x4"],
    "mcir": [sys.executable, "-c", "from mcir.command import main; main()", "train", "-opt", "sr/edsr_light_x4"],
}


HOOK = """
import pathlib, sys

def note(event, arguments):
    if event == "import" and arguments[0] in ("mcir.arguments", "mcir.cli"):
        pathlib.Path(__file__).with_name("started").touch()

sys.addaudithook(note)
"""


def interrupted(command, folder, delay):
    """Start a command, send SIGINT some time after its first import, and return the status and the errors."""
    (folder / "sitecustomize.py").write_text(HOOK)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (folder / "started").exists():
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize(
    "delay", [0, *(pytest.param(delay, marks=pytest.mark.slow) for delay in (0.1, 0.3, 1, 1.5, 2))]
)
@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupted_start_ends_without_a_traceback(tmp_path, command, delay):
    assert interrupted(COMMANDS[command], tmp_path, delay) == (130, "")


def test_other_handlers_are_kept():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        exit_on_interrupt()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        raise_on_interrupt()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        signal.signal(signal.SIGINT, signal.default_int_handler)
        exit_on_interrupt()
        assert signal.getsignal(signal.SIGINT) != signal.default_int_handler
        raise_on_interrupt()
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
