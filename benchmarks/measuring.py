"""What the benchmarks measure with: a clock of work, the peak memory of a process, the machine's own rate."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def clock(device: torch.device) -> float:
    """Return the seconds that the work so far took: of the processor, or of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Return the seconds of each call in each round, the calls taking turns; a first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            began = clock(device)
            call()
            if round_:
                times[name].append(clock(device) - began)
    return times


def peak_mib(device: torch.device) -> float:
    """Return the peak memory of this process so far, on the device or of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()  # a process's ru_maxrss would begin at that of its parent
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def last_number_of(script: str, *arguments: object) -> float:
    """Run a benchmark in a process of its own and return the last number that it prints."""
    command = [sys.executable, script, *map(str, arguments)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def machine_rates(device: torch.device, rounds: int = 9) -> dict[str, float]:
    """Return the FLOPs a second of a convolution and of a matrix product, each large enough to be at its best."""
    image = torch.rand(4, 64, 128, 128, device=device).to(memory_format=torch.channels_last)
    conv = torch.nn.Conv2d(64, 64, 3, padding=1, device=device).to(memory_format=torch.channels_last)
    matrix = torch.rand(1024, 1024, device=device)
    with torch.no_grad():
        times = interleaved({"convolution": lambda: conv(image), "GEMM": lambda: matrix @ matrix}, rounds, device)
    flops = {"convolution": 2 * 9 * 64 * 64 * image[:, 0].numel(), "GEMM": 2 * 1024**3}
    return {name: flops[name] / statistics.median(values) for name, values in times.items()}


def write_report(file: Path | None, report: dict[str, Any], device: torch.device) -> None:
    """Write the numbers with the machine they were measured on, if a file is wanted."""
    if file is not None:
        name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
        file.write_text(json.dumps({**report, "device": name, "torch": torch.__version__}, indent=2) + "\n")
