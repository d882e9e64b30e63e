"""Kills during saves. They run in a process of their own, because a process that has trained cannot fork trainings."""

import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGNS = Path(__file__).with_name("save_kills.py")


@pytest.mark.parametrize("options", [[], pytest.param(["--runslow", "-m", "slow"], marks=pytest.mark.slow)])
def test_kills_during_saves(options):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-s",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        str(CAMPAIGNS),
        *options,
    ]
    result = subprocess.run(command, cwd=CAMPAIGNS.parents[2], capture_output=True, text=True)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
