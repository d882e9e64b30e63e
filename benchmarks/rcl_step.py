"""Measure the fraction of a pre-training step that the distances of residual contrastive learning take.

The step has a U-Net with 31 M parameters, pairs of 128×128 crops, a consistency loss on ResNet50 up to layer1, and
Adam. The contrastive loss is timed alone for each distance, forward and backward, on the residuals of ``--pairs``
images (64, the paper's batch size). The rest of the step is measured with ``--batch-size`` pairs and scaled linearly.
*Literal* is a double loop over pairs as in the formulas: two sorts for each pair, its moments, or all m² kernels. It is
measured on ``--literal-pairs`` images and scaled quadratically. Times are processor seconds of one thread, or seconds
of the GPU; medians of interleaved rounds. The peak memory, in addition to the residuals, is measured in separate
processes::

    python benchmarks/rcl_step.py --batch-size 4 --json rcl_step.json
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.measuring import interleaved, peak_mib, run_and_read_number, write_report
from mcir.losses import ResidualContrastiveLoss
from mcir.models import ResidualContrastiveModel

CROP, TEMPERATURE, WEIGHT, SAMPLES = 128, 0.1, 1e-3, 1024
BANDWIDTHS = (0.01, 0.02, 0.04, 0.08, 0.16)
TARGET_FRACTION = 0.15

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def emd(a: Tensor, b: Tensor) -> Tensor:
    """Return the earth mover's distance between two residuals."""
    return (a.flatten().sort().values - b.flatten().sort().values).abs().mean()


def bd(a: Tensor, b: Tensor) -> Tensor:
    """Return the Bhattacharyya distance between two residuals."""
    (var_a, mean_a), (var_b, mean_b) = (torch.var_mean(x, correction=0) for x in (a, b))
    both = var_a + var_b
    return (mean_a - mean_b).square() / (4 * both) + (both / (2 * (var_a * var_b).sqrt())).log() / 2


def mmd(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy between SAMPLES random values of two residuals."""
    a, b = (x.flatten()[torch.randperm(x.numel(), device=x.device)[:SAMPLES]] for x in (a, b))

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        square = (u[:, None] - v).square()
        return torch.stack([torch.exp(-square / (2 * s * s)).mean() for s in BANDWIDTHS]).mean()

    return kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)


KINDS = {
    "EMD": ("EarthMoversDistance", emd),
    "BD": ("BhattacharyyaDistance", bd),
    "MMD": ("MaximumMeanDiscrepancy", mmd),
}


def literal(kind: str, anchors: Tensor, keys: Tensor) -> Tensor:
    """Return the contrastive loss, computed with a double loop."""
    distance = KINDS[kind][1]
    matrix = torch.stack([torch.stack([distance(anchor, key) for key in keys]) for anchor in anchors])
    targets = torch.arange(len(anchors), device=anchors.device)
    return WEIGHT * F.cross_entropy(-matrix / TEMPERATURE, targets, reduction="sum")


def ours(kind: str, device: torch.device) -> Loss:
    """Return mcir's contrastive loss."""
    section = {"type": KINDS[kind][0]}
    loss = ResidualContrastiveLoss(distance=section, temperature=TEMPERATURE, residual_scale=1.0, loss_weight=WEIGHT)
    return loss.to(device)


def residuals(pairs: int, device: torch.device, side: int = CROP) -> tuple[Tensor, Tensor]:
    """Return Gaussian noise for two patches per image, with a different standard deviation for each image."""
    generator = torch.Generator().manual_seed(0)
    sigma = 20 / 255 * torch.rand(pairs, 1, 1, 1, generator=generator)
    first, second = (torch.randn(pairs, 3, side, side, generator=generator).mul_(sigma) for _ in range(2))
    return first.to(device).requires_grad_(), second.to(device).requires_grad_()


def forward_and_backward(loss: Loss, anchors: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss, and its gradients in one tensor."""
    value = loss(anchors, keys)
    return value.detach(), torch.cat(torch.autograd.grad(value, (anchors, keys)))


def rest_of_step(pairs: int, device: torch.device) -> Callable[[], Any]:
    """Return a function that runs a training step without contrastive loss."""
    model = ResidualContrastiveModel(
        network_g={"type": "UNet"},
        optim_g={"type": "Adam", "lr": 1e-3, "eps": 1e-7},
        consistency_opt={"type": "ConsistencyLoss", "weights": "random"},
        channels_last=True,
    ).to(device)
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    assert parameters == 31_037_763
    lq = torch.rand(pairs, 2, 3, CROP, CROP, generator=torch.Generator().manual_seed(0)).to(device)
    return lambda: model.training_step({"lq": lq}, 1)


def agreement(kind: str, device: torch.device) -> tuple[float, float]:
    """Return the relative differences of loss and gradient (L2) to those of ``literal``, on small patches."""
    anchors, keys = residuals(6, device, side=16)  # 768 values, fewer than SAMPLES
    value, gradient = forward_and_backward(ours(kind, device), anchors, keys)
    expected, reference = forward_and_backward(partial(literal, kind), anchors, keys)
    return float((value - expected).abs() / expected), float((gradient - reference).norm() / reference.norm())


def print_memory(kind: str, pairs: int, device: torch.device) -> None:
    """Print the increase of the peak memory in MiB from the contrastive loss and the gradients of the residuals."""
    torch.set_num_threads(1)
    loss = ours(kind, device)
    forward_and_backward(loss, *residuals(2, device, side=16))
    inputs = residuals(pairs, device)
    idle = peak_mib(device)
    forward_and_backward(loss, *inputs)
    print(peak_mib(device) - idle)


def main() -> None:
    """Measure, print a table and write the numbers to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64, help="batch size of the step (default: 64)")
    parser.add_argument("--batch-size", type=int, help="batch size of the measured step (default: --pairs)")
    parser.add_argument("--literal-pairs", type=int, default=6, help="batch size of the double loop (default: 6)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: 3)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--memory-of", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device, pairs = torch.device(arguments.device), arguments.pairs
    if arguments.memory_of:
        return print_memory(arguments.memory_of, pairs, device)
    logging.getLogger("mcir").setLevel(logging.ERROR)  # random features are intended
    torch.set_num_threads(1)
    batch_size = arguments.batch_size or pairs
    calls: dict[str, Callable[[], Any]] = {"rest": rest_of_step(batch_size, device)}
    few, all_pairs = residuals(arguments.literal_pairs, device), residuals(pairs, device)
    for kind in KINDS:
        calls[f"{kind}.ours"] = partial(forward_and_backward, ours(kind, device), *all_pairs)
        calls[f"{kind}.literal"] = partial(forward_and_backward, partial(literal, kind), *few)
    times = interleaved(calls, arguments.rounds, device)
    medians = {name: statistics.median(values) for name, values in times.items()}
    rest = medians["rest"] * pairs / batch_size
    differences = {kind: agreement(kind, device) for kind in KINDS}
    size = ("--pairs", pairs, "--device", device.type)
    memory = {kind: run_and_read_number(__file__, "--memory-of", kind, *size) for kind in KINDS}

    table = Table(title=f"The contrastive loss of {pairs} pairs of {CROP}×{CROP} crops, on {device}")
    headings = (
        "distance",
        "seconds",
        "literal, s",
        "literal / mcir",
        "memory, MiB",
        "fraction of the step",
        "difference of the loss",
        "of the gradient",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "distance" else "right")
    fractions = {}
    for kind in KINDS:
        ours_seconds = medians[f"{kind}.ours"]
        loop = medians[f"{kind}.literal"] * (pairs / arguments.literal_pairs) ** 2
        fractions[kind] = {"ours": ours_seconds / (rest + ours_seconds), "literal": loop / (rest + loop)}
        row = (
            f"{ours_seconds:.3f}",
            f"{loop:.1f}",
            f"{loop / ours_seconds:.0f}",
            f"{memory[kind]:.0f}",
            f"{fractions[kind]['ours']:.2%}",
        )
        table.add_row(kind, *row, *(f"{difference:.1e}" for difference in differences[kind]))
    console = Console(width=120)
    console.print(table)
    scaled = "" if batch_size == pairs else f" ({pairs / batch_size:g} × that of {batch_size} pairs)"
    console.print(
        f"rest of the step: {rest:.2f} s{scaled}; target: each distance under {TARGET_FRACTION:.0%} of the step"
    )
    console.print(
        "fraction with literal: " + ", ".join(f"{kind} {each['literal']:.0%}" for kind, each in fractions.items())
    )
    report = {
        "seconds": times,
        "median_seconds": medians,
        "fractions": fractions,
        "memory_mib": memory,
        "agreement": differences,
        "pairs": pairs,
        "batch_size": batch_size,
        "literal_pairs": arguments.literal_pairs,
    }
    write_report(arguments.json, report, device)
    return None


if __name__ == "__main__":
    main()
