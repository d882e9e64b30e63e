"""Measure time and memory, for the benchmarks."""

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
    """Return the processor time of this process in seconds, or for a GPU the wall time after all its work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Return the seconds of each call in each round. The calls alternate, and a first round is a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            start = clock(device)
            call()
            if round_:
                times[name].append(clock(device) - start)
    return times


def peak_mib(device: torch.device) -> float:
    """Return the peak memory of this process in MiB: on the GPU, or in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()  # ru_maxrss would include the peak of the parent process
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def run_and_read_number(script: str, *arguments: object) -> float:
    """Run a script in a separate process and return the last number that it prints."""
    command = [sys.executable, script, *map(str, arguments)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def machine_rates(device: torch.device, rounds: int = 9) -> dict[str, float]:
    """Return the FLOPs per second of a large convolution and of a large matrix product."""
    image = torch.rand(4, 64, 128, 128, device=device).to(memory_format=torch.channels_last)
    conv = torch.nn.Conv2d(64, 64, 3, padding=1, device=device).to(memory_format=torch.channels_last)
    matrix = torch.rand(1024, 1024, device=device)
    with torch.no_grad():
        times = interleaved({"convolution": lambda: conv(image), "GEMM": lambda: matrix @ matrix}, rounds, device)
    flops = {"convolution": 2 * 9 * 64 * 64 * image[:, 0].numel(), "GEMM": 2 * 1024**3}
    return {name: flops[name] / statistics.median(values) for name, values in times.items()}


def write_report(file: Path | None, report: dict[str, Any], device: torch.device) -> None:
    """Write the numbers, the name of the device and the version of torch to a file, unless it is None."""
    if file is not None:
        name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
        file.write_text(json.dumps({**report, "device": name, "torch": torch.__version__}, indent=2) + "\n")
