"""Measure the speed of every published network configuration, forward and forward with backward.

Networks with optimized parts (attention, normalization) are compared with a direct implementation of the paper
(``literal``), in interleaved rounds. Times are medians: CPU seconds of one thread, or device seconds on a GPU. FLOPs
are those of convolutions, linear layers and attention products. *efficiency* is the time that they would take at the
speed of a large convolution and a large matrix product on this machine, divided by the measured time. *step* is forward
with backward, counted as three forward passes; its peak memory is measured in a separate process::

    python benchmarks/archs.py --only 'swinir_light_x4' --batch-size 4 --json archs.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.literal import LITERAL
from benchmarks.measuring import interleaved, machine_rates, peak_mib, run_and_read_number, write_report
from mcir.archs.network import Network
from mcir.registry import ARCHS
from tests.golden import networks

SIDES = {"edsr": 48, "ffanet": 64, "swinir": 64, "dehazeformer": 64, "nafnet": 128, "idt": 128, "unet": 128}
TARGETS = {"swinir_light_x4": (1.3, 1.1)}


def build(config: str, device: torch.device) -> Network:
    """Build a configuration with random weights, in channels-last layout."""
    torch.manual_seed(0)
    net: Network = ARCHS.build(networks.load(config).section)
    return net.to(device=device, memory_format=torch.channels_last).eval()


def images(config: str, batch_size: int, device: torch.device) -> Tensor:
    """Return random images of about the size of the network's training crops, or smaller where crops are slow."""
    golden = networks.load(config)
    side = golden.kwargs["img_size"] if golden.family == "idt" else SIDES[golden.family]
    side -= side % golden.kwargs.get("window_size", 1)
    batch = torch.rand(batch_size, golden.cases[0].input.shape[1], side, side, device=device)
    return batch.to(memory_format=torch.channels_last)


def forward(net: nn.Module, batch: Tensor) -> None:
    """Run the network without gradients."""
    with torch.no_grad():
        net(batch)


def step(net: nn.Module, batch: Tensor) -> None:
    """Run the network, and compute the gradient of every parameter."""
    net.zero_grad()
    net(batch).square().mean().backward()


def flops(config: str, batch_size: int) -> dict[str, int]:
    """Return the floating-point operations of a forward pass by kind; a multiply-add counts as two."""
    meta = torch.device("meta")
    with FlopCounterMode(display=False) as counter:
        forward(build(config, meta), images(config, batch_size, meta))
    counts = {"convolution": 0, "GEMM": 0}
    for operation, count in counter.get_flop_counts()["Global"].items():
        counts["convolution" if "convolution" in str(operation) else "GEMM"] += int(count)
    return counts


def measure(
    config: str, batch_size: int, rounds: int, device: torch.device, memory: bool, rates: Mapping[str, float]
) -> dict[str, Any]:
    """Return the measurements of one configuration."""
    net, batch = build(config, device), images(config, batch_size, device)
    forms = {"mcir": net}
    literal = LITERAL.get(type(net).__name__)
    if literal is not None:
        forms["literal"] = literal(net)
    result: dict[str, Any] = {"config": config, "images": list(batch.shape)}
    forward_flops = flops(config, batch_size)
    for name, function in {"forward": forward, "step": step}.items():
        calls = {form: partial(function, module, batch) for form, module in forms.items()}
        times = {form: statistics.median(values) for form, values in interleaved(calls, rounds, device).items()}
        counts = {kind: (1 if function is forward else 3) * count for kind, count in forward_flops.items()}
        ideal = sum(count / rates[kind] for kind, count in counts.items())
        result[name] = {
            "seconds": times,
            "flops": counts,
            "flops_per_second": sum(counts.values()) / times["mcir"],
            "efficiency": ideal / times["mcir"],
        }
    if memory:
        result["peak_mib"] = {
            form: run_and_read_number(
                __file__, "--memory-of", config, form, "--batch-size", batch_size, "--device", device
            )
            for form in forms
        }
    return result


def print_memory(config: str, form: str, batch_size: int, device: torch.device) -> None:
    """Run two steps and print the increase of the peak memory in MiB."""
    net: nn.Module = build(config, device)
    if form == "literal":
        net = LITERAL[type(net).__name__](net)
    batch = images(config, batch_size, device)
    idle = peak_mib(device)
    for _ in range(2):
        step(net, batch)
    print(peak_mib(device) - idle)


def row(result: dict[str, Any]) -> list[str]:
    """Return the table row of one configuration."""
    cells = [result["config"], "×".join(map(str, result["images"]))]
    count = result["images"][0]
    cells.append(f"{sum(result['forward']['flops'].values()) / 2e9 / count:.2f}")
    for name in ("forward", "step"):
        part = result[name]
        seconds = part["seconds"]
        cells += [f"{count / seconds['mcir']:.2f}", f"{part['flops_per_second'] / 1e9:.0f}"]
        cells.append(f"{part['efficiency']:.0%}")
        cells.append(f"{seconds['literal'] / seconds['mcir']:.2f}" if "literal" in seconds else "")
    memory = result.get("peak_mib", {})
    cells.append(f"{memory['mcir']:.0f}" if memory else "")
    cells.append(f"{memory['mcir'] / memory['literal']:.2f}" if "literal" in memory else "")
    return cells


def main() -> None:
    """Measure, print a table, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="glob pattern of configuration names, like 'nafnet_*'")
    parser.add_argument("--batch-size", type=int, default=1, help="images per batch (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: 5)")
    parser.add_argument("--no-memory", action="store_true", help="do not measure the peak memory")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(1)
    if arguments.memory_of:
        return print_memory(*arguments.memory_of, arguments.batch_size, device)
    rates = machine_rates(device)
    table = Table(title=f"Networks on {device}")
    table.add_column("configuration", no_wrap=True)
    table.add_column("images", no_wrap=True)
    speed = ("images/s", "GFLOP/s", "efficiency", "literal / mcir")
    headings = ["GMACs", *(f"forward {column}" for column in speed), *(f"step {column}" for column in speed)]
    for heading in (*headings, "step MiB", "/ literal"):
        table.add_column(heading, justify="right")
    console = Console(width=170)
    results = []
    for config in filter(lambda name: fnmatchcase(name, arguments.only), networks.configs()):
        result = measure(config, arguments.batch_size, arguments.rounds, device, not arguments.no_memory, rates)
        results.append(result)
        table.add_row(*row(result))
        print(*row(result), file=sys.stderr, flush=True)
    console.print(table)
    console.print(", ".join(f"{name}: {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items()))
    for result in results:
        if result["config"] in TARGETS:
            seconds = [result[name]["seconds"] for name in ("forward", "step")]
            ratios = [times["literal"] / times["mcir"] for times in seconds]
            console.print(
                f"{result['config']}: {ratios[0]:.2f}× and {ratios[1]:.2f}× the literal form (targets ≥ "
                f"{TARGETS[result['config']][0]} and {TARGETS[result['config']][1]})"
            )
    write_report(arguments.json, {"rates": rates, "networks": results, "threads": 1}, device)
    return None


if __name__ == "__main__":
    main()
