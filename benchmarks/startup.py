"""Measure the processor time of short commands, which is mostly startup time.

The results are medians of interleaved rounds. Every command that needs registered classes imports torch, so the time of
``import torch`` is a lower bound for ``list`` and ``check``::

    python benchmarks/startup.py
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
TEST_ONLY = """
name: test_only
model_type: RestorationModel
scale: 4
network_g: {type: EDSR, num_feat: 64, num_block: 16, upscale: 4}
datasets:
  test: {name: Set5, type: PairedImageDataset, dataroot_gt: datasets/Set5, degradation: {type: BicubicDown}}
"""
TARGETS = {"mcir --help": 0.3, "mcir list archs": 1.5, "mcir check, without training": 3.0}


def commands(folder: Path) -> dict[str, list[str]]:
    """Return the measured commands by name."""
    file = folder / "test_only.yml"
    file.write_text(TEST_ONLY, encoding="utf-8")
    mcir = [sys.executable, "-m", "mcir.cli"]
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import torch": [sys.executable, "-c", "import torch"],
        "import mcir": [sys.executable, "-c", "import mcir"],
        "mcir --help": [*mcir, "--help"],
        "mcir list archs": [*mcir, "list", "archs"],
        "mcir list datasets": [*mcir, "list", "datasets"],
        "mcir check, without training": [*mcir, "check", "-opt", str(file)],
        "mcir check, quickstart": [*mcir, "check", "-opt", str(ROOT / "options" / "quickstart.yml")],
    }


def processor_time(command: list[str]) -> float:
    """Run a command and return the seconds of processor time that it used."""
    before = psutil.Process().cpu_times()
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=True)
    after = psutil.Process().cpu_times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: 5)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        measured = commands(Path(folder))
        times: dict[str, list[float]] = {name: [] for name in measured}
        for _ in range(rounds):
            for name, command in measured.items():
                times[name].append(processor_time(command))
    print("| command | processor time, s | target |\n|---|---|---|")
    for name, seconds in times.items():
        target = f"< {TARGETS[name]}" if name in TARGETS else ""
        print(f"| {name} | {statistics.median(seconds):.2f} | {target} |")


if __name__ == "__main__":
    main()
