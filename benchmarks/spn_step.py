"""Measure one SPN training step: mcir, a literal implementation, and a step without negatives.

The step has EDSR-light ×4, N = 4 negatives, VGG16 up to relu3_3, LR 48×48, Adam and a moving average. *Literal* is the
step of the paper's released code: it computes the features of the output and of the negative again for every negative,
and updates averages in a loop over parameters. *sample* evaluates a random subset of the negatives in each step. Times
are processor seconds of one thread, or seconds of the GPU; medians of interleaved rounds. The peak memory of each kind
of step is measured in a separate process. ``--sample`` measures only the time of steps that evaluate four, two and one
of the negatives::

    python benchmarks/spn_step.py --json spn_step.json
    python benchmarks/spn_step.py --sample --batch-size 1
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import clock, interleaved, peak_mib, run_and_read_number, write_report
from mcir.losses import SPNLoss
from mcir.models import EMA, ContrastiveModel, RestorationModel

N, LR_SIZE, SCALE = 4, 48, 4
NETWORK = {"type": "EDSR", "num_feat": 64, "num_block": 16, "upscale": SCALE}
OPTIMIZER = {"type": "Adam", "lr": 1e-4}
LAYERS = {"relu1_2": 0.2, "relu2_2": 0.3, "relu3_3": 0.5}
KINDS = {
    "literal": "literal, fp32",
    "ours": "mcir, fp32",
    "ours_bf16": "mcir, bf16 autocast",
    "ours_2_of_4": "mcir, fp32, sample: 2",
    "ours_1_of_4": "mcir, fp32, sample: 1",
    "plain": "plain L1 step, fp32",
}
SAMPLED = ("ours", "ours_2_of_4", "ours_1_of_4")
TARGETS = {"ours": (1.75, 0.47), "ours_bf16": (3.1, 0.31)}
TARGET_EFFICIENCY = 0.85


class LiteralStep:
    """Training step as in the formula and the released code, with the same gradients as mcir."""

    def __init__(self, model: ContrastiveModel) -> None:
        self.network, self.members = model.network, list(model.parts["negatives"].members)
        self.features = model.criteria["l_neg"].features
        self.weight = model.criteria["l_neg"].loss_weight
        self.average = EMA(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-4, foreach=False)

    def __call__(self, batch: dict[str, Any]) -> Tensor:
        """Run one step and return its loss."""
        self.optimizer.zero_grad()
        output = self.network(batch["lq"])
        loss = F.l1_loss(output, batch["gt"])
        distances: Any = 0.0
        for member in self.members:
            with torch.no_grad():
                negative = member(batch["lq"])
            output_features, negative_features = self.features(output), self.features(negative)
            for layer, weight in LAYERS.items():
                distances = distances + weight * F.l1_loss(output_features[layer], negative_features[layer])
        loss = loss - self.weight * distances / N
        loss.backward()
        self.optimizer.step()
        for decay, average in ((0.999, self.average), (0.1, self.members[0])):
            values = dict(self.network.named_parameters())
            for name, parameter in average.network.named_parameters():
                parameter.data.mul_(decay).add_(values[name].data, alpha=1 - decay)
        return loss.detach()


def build(kind: str, device: torch.device) -> Callable[[dict[str, Any]], Tensor]:
    """Return a function that runs one training step of a kind."""
    common: dict[str, Any] = {"network_g": NETWORK, "optim_g": OPTIMIZER, "pixel_opt": {"type": "L1Loss"}}
    if kind == "plain":
        plain = RestorationModel(**common, ema_decay=0.999, channels_last=True).to(device)
        return lambda batch: plain.training_step(batch, 1)["l_pix"]
    common["contrastive_opt"] = {"type": "SPNLoss", "weights": "random", "layer_weights": LAYERS}
    sample = {"ours_1_of_4": 1, "ours_2_of_4": 2}.get(kind)
    common["negatives"] = {"type": "HistoryNegatives", "steps": [1, 10**9, 10**9, 10**9], "sample": sample}
    if kind == "literal":
        return LiteralStep(ContrastiveModel(**common).to(device))
    precision = "bf16" if kind == "ours_bf16" else "fp32"
    model = ContrastiveModel(**common, ema_decay=0.999, channels_last=True, precision=precision).to(device)

    def step(batch: dict[str, Any]) -> Tensor:
        scalars = model.training_step(batch, 1)
        return scalars["l_pix"] + scalars["l_neg"]

    step.model = model  # type: ignore[attr-defined]
    return step


def make_batch(kind: str, size: int, device: torch.device) -> dict[str, Any]:
    """Return random images in the memory layout of a kind of step."""
    generator = torch.Generator().manual_seed(0)
    gt = torch.rand(size, 3, SCALE * LR_SIZE, SCALE * LR_SIZE, generator=generator)
    batch = {"lq": F.avg_pool2d(gt, SCALE), "gt": gt}
    layout = torch.contiguous_format if kind == "literal" else torch.channels_last
    return {key: value.to(device).contiguous(memory_format=layout) for key, value in batch.items()}


def seconds(kinds: list[str], batch_size: int, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Return the time of a step in each round, by kind; the kinds alternate."""
    steps = {kind: build(kind, device) for kind in kinds}
    batches = {kind: make_batch(kind, batch_size, device) for kind in kinds}
    return interleaved({kind: partial(steps[kind], batches[kind]) for kind in kinds}, rounds, device)


def peak_memory_mib(kind: str, batch_size: int, device: torch.device) -> float:
    """Return the increase of the peak memory in MiB from three steps, measured in a separate process."""
    return run_and_read_number(__file__, "--memory-of", kind, "--batch-size", batch_size, "--device", device.type)


def print_memory(kind: str, batch_size: int, device: torch.device) -> None:
    """Run three steps and print the increase of the peak memory in MiB."""
    torch.set_num_threads(1)
    F.conv2d(torch.rand(1, 3, 8, 8), torch.rand(3, 3, 3, 3))
    idle = peak_mib(device)
    step, batch = build(kind, device), make_batch(kind, batch_size, device)
    for _ in range(3):
        step(batch)
    print(peak_mib(device) - idle)


def agreement(device: torch.device) -> dict[str, float]:
    """Return the relative differences of gradients (L2) and loss of each kind to those of the literal step.

    All kinds have the same weights and memory layout. A different layout rounds differently, and where an output almost
    equals its ground truth, rounding determines the sign of the derivative of L1.
    """
    results = {}
    literal = build("literal", device)
    assert isinstance(literal, LiteralStep)
    literal.optimizer.param_groups[0]["lr"] = 0.0
    literal.network.to(memory_format=torch.channels_last)
    expected_loss = float(literal(make_batch("ours", 2, device)))
    expected = torch.cat([parameter.grad.flatten() for parameter in literal.network.parameters()]).double()
    for kind in ("ours", "ours_bf16"):
        step = build(kind, device)
        loss = float(step(make_batch(kind, 2, device)))
        network = step.model.network  # type: ignore[attr-defined]
        gradient = torch.cat([parameter.grad.flatten() for parameter in network.parameters()]).double()
        results[f"{kind}.gradient"] = float((gradient - expected).norm() / expected.norm())
        results[f"{kind}.loss"] = abs(loss - expected_loss) / abs(expected_loss)
    return results


def minimum_flops(batch_size: int) -> tuple[float, float]:
    """Return the minimal FLOPs of the SPN step and of the plain step; a multiply-add counts as two.

    They are (3+N)·F_net + (2+N)·F_vgg and 3·F_net, with the FLOPs F of a forward pass.
    """
    model = RestorationModel(network_g=NETWORK)
    features = SPNLoss(LAYERS, weights="random").features
    with FlopCounterMode(display=False) as network, torch.no_grad():
        model.network(torch.rand(batch_size, 3, LR_SIZE, LR_SIZE))
    with FlopCounterMode(display=False) as vgg, torch.no_grad():
        features(torch.rand(batch_size, 3, SCALE * LR_SIZE, SCALE * LR_SIZE))
    return (
        (3 + N) * network.get_total_flops() + (2 + N) * vgg.get_total_flops(),
        3.0 * network.get_total_flops(),
    )


def convolution_rate(batch_size: int, device: torch.device, rounds: int) -> float:
    """Return the FLOPs per second of the convolutions of the step, run one by one (forward only)."""
    shapes = [
        (64, 64, 1, 34),
        (64, 256, 1, 1),
        (64, 256, 2, 1),
        (64, 3, 4, 1),
    ]  # channels in, out, scale, count
    vgg = [(3, 64, 4, 1), (64, 64, 4, 1), (64, 128, 2, 1), (128, 128, 2, 1), (128, 256, 1, 1), (256, 256, 1, 2)]
    work = [(*shape[:3], shape[3] * (3 + N)) for shape in shapes] + [(*shape[:3], shape[3] * (2 + N)) for shape in vgg]
    total_flops = total_seconds = 0.0
    for inputs, outputs, scale, count in work:
        side = LR_SIZE * scale
        image = torch.rand(batch_size, inputs, side, side, device=device)
        image = image.contiguous(memory_format=torch.channels_last)
        conv = torch.nn.Conv2d(inputs, outputs, 3, padding=1, device=device).to(memory_format=torch.channels_last)
        times = []
        with torch.no_grad():
            conv(image)
            for _ in range(rounds):
                start = clock(device)
                conv(image)
                times.append(clock(device) - start)
        total_flops += count * 18.0 * inputs * outputs * side * side * batch_size
        total_seconds += count * statistics.median(times)
    return total_flops / total_seconds


def print_sampled(batch_size: int, rounds: int, device: torch.device, file: Path | None) -> None:
    """Measure the steps with sampled negatives, print a table and write the numbers to a file."""
    times = seconds(list(SAMPLED), batch_size, rounds, device)
    table = Table(title=f"One step of EDSR-light ×4, N = {N}, batch {batch_size}, on {device}")
    for heading in ("step", "median, s", "speedup", "minimum", "maximum"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for kind in SAMPLED:
        speedups = [every / sampled for every, sampled in zip(times["ours"], times[kind], strict=True)]
        numbers = (statistics.median(speedups), min(speedups), max(speedups))
        table.add_row(KINDS[kind], f"{statistics.median(times[kind]):.3f}", *(f"{number:.2f}×" for number in numbers))
    Console(width=120).print(table)
    write_report(file, {"seconds": times, "batch_size": batch_size}, device)


def main() -> None:
    """Measure, print a table and write the numbers to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=4, help="batch size (default: 4)")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default: 7)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--sample", action="store_true", help="only measure sampled negatives")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--memory-of", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.memory_of:
        return print_memory(arguments.memory_of, arguments.batch_size, device)
    logging.getLogger("mcir").setLevel(logging.ERROR)  # random features are intended
    torch.set_num_threads(1)
    if arguments.sample:
        return print_sampled(arguments.batch_size, arguments.rounds, device, arguments.json)
    times = seconds(list(KINDS), arguments.batch_size, arguments.rounds, device)
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    memory = {kind: peak_memory_mib(kind, arguments.batch_size, device) for kind in KINDS}
    flops, plain_flops = minimum_flops(arguments.batch_size)
    rate = convolution_rate(arguments.batch_size, device, arguments.rounds)
    differences = agreement(device)

    table = Table(title=f"One step of EDSR-light ×4, N = {N}, batch {arguments.batch_size}, on {device}")
    for heading in (
        "step",
        "median, s",
        "literal / step",
        "memory, MiB",
        "/ literal",
        "difference of the loss",
        "of the gradient",
    ):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for kind, label in KINDS.items():
        table.add_row(
            label,
            f"{medians[kind]:.3f}",
            f"{medians['literal'] / medians[kind]:.2f}",
            f"{memory[kind]:.0f}",
            f"{memory[kind] / memory['literal']:.2f}",
            f"{differences[f'{kind}.loss']:.1e}" if f"{kind}.loss" in differences else "",
            f"{differences[f'{kind}.gradient']:.1e}" if f"{kind}.gradient" in differences else "",
        )
    console = Console(width=120)
    console.print(table)
    efficiency = flops / rate / medians["ours"]
    console.print(
        f"minimum (3+N)·F_net + (2+N)·F_vgg: {flops / 1e9:.0f} GFLOP; plain step 3·F_net: {plain_flops / 1e9:.0f} GFLOP"
    )
    console.print(f"speed of the convolutions of the step, one by one: {rate / 1e9:.0f} GFLOP/s")
    console.print(
        f"efficiency of the fp32 step relative to this speed: {efficiency:.0%} (target {TARGET_EFFICIENCY:.0%})"
    )
    console.print("bf16 is less precise: the table shows the differences of its loss and gradient")
    for kind, (speedup, memory_ratio) in TARGETS.items():
        reached = medians["literal"] / medians[kind], memory[kind] / memory["literal"]
        console.print(
            f"{KINDS[kind]}: {reached[0]:.2f}× literal (target ≥ {speedup}), "
            f"memory {reached[1]:.2f} (target ≤ {memory_ratio})"
        )
    report = {
        "seconds": times,
        "median_seconds": medians,
        "memory_mib": memory,
        "agreement": differences,
        "minimum_flops": flops,
        "convolution_flops_per_second": rate,
        "efficiency": efficiency,
        "batch_size": arguments.batch_size,
    }
    write_report(arguments.json, report, device)
    return None


if __name__ == "__main__":
    main()
