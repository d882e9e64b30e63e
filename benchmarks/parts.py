"""Compare parts of mcir with their usual implementations.

(a) ``EMA.update`` and a loop over named parameters with ``mul_`` and ``add_``, for EDSR-light and for SwinIR-light with
its many small tensors; (b) separable SSIM and SSIM with a two-dimensional 11×11 window, by a convolution and by OpenCV,
on 480×480 images; (c) MATLAB's resize of a 480×480 image to a quarter and a loop over output rows; (d) the time for
which ``Checkpoints.save`` blocks the training of EDSR-light with a moving average, four negatives and Adam.

(a) to (c) are processor seconds of one thread, (d) is wall time on an idle disk; medians of interleaved rounds::

    python benchmarks/parts.py --json parts.json
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mcir.archs import EDSR, SwinIR
from mcir.data.resize import imresize
from mcir.engine.checkpoint import Checkpoints, NetworkFile
from mcir.metrics import SSIM
from mcir.models import EMA, ContrastiveModel

DECAY = 0.999
LIGHT = {"type": "EDSR", "num_feat": 64, "num_block": 16, "upscale": 4}
SWINIR_LIGHT = {
    "embed_dim": 60,
    "window_size": 8,
    "mlp_ratio": 2,
    "upscale": 4,
    "upsampler": "pixelshuffledirect",
}
TARGETS = {
    "EMA, EDSR-light": 3.5,
    "EMA, SwinIR-light": 8.0,
    "SSIM, 11×11 convolution": 3.0,
    "imresize": 5.0,
}
BLOCKING_TARGET_MS = 10.0

Pair = tuple[Callable[[], Any], Callable[[], Any], int, float]
"""Usual implementation, mcir's implementation, calls per round, and largest difference of the results."""


# -- (a) the moving average -------------------------------------------------------------------------------------------


class LoopEMA:
    """The moving average as a loop over named parameters."""

    def __init__(self, network: nn.Module) -> None:
        self.network = EMA(network).network

    def update(self, network: nn.Module, decay: float) -> None:
        """Update the average, one parameter after the other."""
        values = dict(network.named_parameters())
        for name, average in self.network.named_parameters():
            average.data.mul_(decay).add_(values[name].data, alpha=1 - decay)


def ema_pair(network: nn.Module, calls: int) -> Pair:
    """Return both updates, for a network whose weights have changed."""
    loop, ours = LoopEMA(network), EMA(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    loop.update(network, DECAY)
    ours.update(network, DECAY)
    both = zip(loop.network.parameters(), ours.network.parameters(), strict=True)
    difference = max(float((one - other).abs().max()) for one, other in both)
    return lambda: loop.update(network, DECAY), lambda: ours.update(network, DECAY), calls, difference


# -- (b) SSIM ---------------------------------------------------------------------------------------------------------


def full_ssim(output: Tensor, gt: Tensor, by_opencv: bool) -> Tensor:
    """Return the SSIM of one image with a two-dimensional window: by a convolution or OpenCV's ``filter2D``."""
    offsets = torch.arange(-5.0, 6.0, dtype=torch.float64)
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = torch.outer(line, line) / line.sum() ** 2
    x, y = ((image.clamp(0, 1) * 255).round().double() for image in (output, gt))
    channels = x.shape[1]
    kernel = window.expand(channels, 1, 11, 11)

    def blurred(image: Tensor) -> Tensor:
        if by_opencv:
            pixels = image[0].permute(1, 2, 0).contiguous().numpy()
            filtered = cv2.filter2D(pixels, -1, window.numpy())[5:-5, 5:-5]
            return torch.from_numpy(filtered).permute(2, 0, 1)[None]
        return F.conv2d(image, kernel, groups=channels)

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = blurred(x), blurred(y)
    var_x, var_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    similarity = similarity * (2 * covariance + c2) / (var_x + var_y + c2)
    return similarity.mean((1, 2, 3))


def ssim_pair(by_opencv: bool) -> Pair:
    """Return both metrics, for an image of 480×480."""
    generator = torch.Generator().manual_seed(0)
    gt = torch.rand(1, 3, 480, 480, generator=generator)
    output = gt + 0.1 * torch.randn(gt.shape, generator=generator)
    metric = SSIM()
    difference = float((full_ssim(output, gt, by_opencv) - metric(output, gt)).abs().max())
    return lambda: full_ssim(output, gt, by_opencv), lambda: metric(output, gt), 1, difference


# -- (c) resizing -----------------------------------------------------------------------------------------------------


def resize_by_rows(image: Tensor, scale: float) -> Tensor:
    """Resize (C, H, W) as MATLAB does, one output row after the other."""
    for _ in range(2):
        length = image.shape[1]
        reach = 2 / min(scale, 1.0)
        rows = []
        for weights, first in _kernels(length, scale, reach):
            taps = torch.arange(first, first + len(weights)) % (2 * length)
            taps = torch.minimum(taps, 2 * length - 1 - taps)
            rows.append((image[:, taps] * weights[:, None]).sum(1))
        image = torch.stack(rows, 1).mT
    return image


def _kernels(length: int, scale: float, reach: float) -> list[tuple[Tensor, int]]:
    kernels = []
    for row in range(math.ceil(length * scale)):
        center = row / scale + (1 / scale - 1) / 2
        first = math.floor(center - reach)
        distance = (torch.arange(first, first + math.ceil(2 * reach) + 2) - center).abs().double() * min(scale, 1.0)
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        weights = torch.where(distance <= 1, near, torch.where(distance <= 2, far, 0.0))
        kernels.append((weights / weights.sum(), first))
    return kernels


def resize_pair() -> Pair:
    """Return both functions, for an image of 480×480 and scale ¼."""
    image = torch.rand(3, 480, 480, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    difference = float((resize_by_rows(image, 0.25) - imresize(image, 0.25)).abs().max())
    return lambda: resize_by_rows(image, 0.25), lambda: imresize(image, 0.25), 4, difference


def seconds(pairs: dict[str, Pair], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return the processor seconds of a call in each round, for both implementations alternately."""
    times: dict[str, dict[str, list[float]]] = {label: {"usual": [], "mcir": []} for label in pairs}
    for round_ in range(rounds + 1):
        for label, (usual, ours, calls, _) in pairs.items():
            for name, call in (("usual", usual), ("mcir", ours)):
                start = time.process_time()
                for _ in range(calls):
                    call()
                if round_:  # the first round is a warm-up
                    times[label][name].append((time.process_time() - start) / calls)
    return times


# -- (d) checkpoints --------------------------------------------------------------------------------------------------


def blocking_ms(rounds: int) -> tuple[list[float], float]:
    """Return the time for which each call of ``save`` blocks, including the first, and the size of the state in MiB."""
    model = ContrastiveModel(
        network_g=LIGHT,
        optim_g={"type": "Adam", "lr": 1e-4},
        pixel_opt={"type": "L1Loss"},
        contrastive_opt={"type": "SPNLoss", "weights": "random", "layer_weights": {"relu1_1": 1.0}},
        negatives={"type": "HistoryNegatives", "steps": [1, 2, 3, 4]},
        ema_decay=DECAY,
    )
    gt = torch.rand(1, 3, 32, 32)
    model.training_step({"lq": F.avg_pool2d(gt, 4), "gt": gt}, 1)
    times = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), keep=2)
        for iteration in range(1, rounds + 2):
            state = {"model": model.state_dict()}
            network = NetworkFile(model.weights(), "EDSR", model.network.hyperparameters)  # type: ignore[arg-type]
            start = time.perf_counter()
            checkpoints.save(iteration, state, network)
            times.append(1000 * (time.perf_counter() - start))
            checkpoints.wait()
        size = (checkpoints.states / f"{rounds + 1}.state").stat().st_size / 2**20
    return times, size


def main() -> None:
    """Measure, print a table and write the numbers to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds (default: 15)")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments = parser.parse_args()
    logging.getLogger("mcir").setLevel(logging.ERROR)  # random features are intended
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    torch.manual_seed(0)
    edsr_arguments = {key: value for key, value in LIGHT.items() if key != "type"}
    pairs = {
        "EMA, EDSR-light": ema_pair(EDSR(**edsr_arguments), 20),  # type: ignore[arg-type]
        "EMA, SwinIR-light": ema_pair(SwinIR(**SWINIR_LIGHT), 20),  # type: ignore[arg-type]
        "SSIM, 11×11 convolution": ssim_pair(by_opencv=False),
        "SSIM, 11×11 window by OpenCV": ssim_pair(by_opencv=True),
        "imresize": resize_pair(),
    }
    times = seconds(pairs, arguments.rounds)
    medians = {
        label: {name: statistics.median(values) for name, values in both.items()} for label, both in times.items()
    }
    blocked, size = blocking_ms(arguments.rounds)
    median_blocked = statistics.median(blocked[1:])

    table = Table(title="Parts of mcir, processor time in milliseconds, one thread")
    for heading in ("part", "usual", "mcir", "usual / mcir", "target", "results differ by"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for label, both in medians.items():
        speedup = both["usual"] / both["mcir"]
        target = f"≥ {TARGETS[label]}" if label in TARGETS else ""
        row = (f"{1000 * both['usual']:.3f}", f"{1000 * both['mcir']:.3f}", f"{speedup:.2f}", target)
        table.add_row(label, *row, f"{pairs[label][3]:.1e}")
    console = Console(width=120)
    console.print(table)
    console.print(
        f"Checkpoints.save blocks for {median_blocked:.1f} ms (target ≤ {BLOCKING_TARGET_MS:.0f}; the "
        f"first time {blocked[0]:.1f}), for a state of {size:.0f} MiB"
    )
    if arguments.json:
        report = {
            "seconds": times,
            "median_seconds": medians,
            "difference": {label: pair[3] for label, pair in pairs.items()},
            "targets": TARGETS,
            "save_blocks_ms": blocked,
            "save_blocks_median_ms": median_blocked,
            "state_mib": size,
            "machine": platform.platform(),
            "torch": torch.__version__,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
