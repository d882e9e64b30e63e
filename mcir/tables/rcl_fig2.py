"""Figure 2 of RCL (arXiv:2106.10070): are images distinguishable by the residuals of a network?

The figure shows the density of ``EMD(anchor, negative) − EMD(anchor, positive)`` over all anchors and negatives, for
the residuals of an untrained network and of the pre-trained network, and for the true noise. The positive is another
patch of the same image, a negative is a patch of another image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mcir
from mcir.data.noisy import NoisyPatchPairs
from mcir.launch import Log
from mcir.registry import ARCHS
from mcir.report.figures import curves
from mcir.report.page import Report, Section
from mcir.tables.commands import RclFigure2
from mcir.tables.formatting import counted
from mcir.tables.proxy_plan import detect_file
from mcir.tables.render import write_results
from mcir.tables.residuals import differences, distances, patch_batches, statistics
from mcir.weights import load_network

NAME = "rcl-fig2"
UNTRAINED, TRAINED, NOISE = "untrained", "pre-trained", "true noise"
_BINS = 60
_TILE = 2  # side of a bundled tile in patches


def reproduce_fig2(settings: RclFigure2, log: Log = print) -> int:
    """Write the figure and its numbers, and return 0.

    Raises:
        ValueError: weights or images cannot be read, or settings are not valid.
    """
    found = measure(settings)
    drawn = {name: differences(values) for name, values in found.items()}
    rows = [["residuals", "positive pairs", "negative pairs", "difference", "above 0", "W₁ to the true noise"]]
    data: dict[str, Any] = {}
    for name, values in found.items():
        data[name] = numbers = statistics(values, found[NOISE])
        cells = [f"{numbers[key]:.5f}" for key in ("positive", "negative", "difference")]
        rows.append([name, *cells, f"{numbers['above_0']:.3f}", f"{numbers['w1_to_noise']:.5f}"])
        data[name]["differences"] = len(drawn[name])
    nearer = data[TRAINED]["w1_to_noise"] < data[UNTRAINED]["w1_to_noise"]
    paragraphs = [
        f"{settings.weights}: EMD(anchor, negative) − EMD(anchor, positive) of residuals, "
        f"{counted(len(drawn[NOISE]), 'difference')}, intensities in [0, 1]. Both networks normalize over the batch, "
        "as in training.",
        "The paper claims that pre-training brings the density closer to that of the true noise. Here it "
        f"{'is closer' if nearer else 'is not closer'}.",
    ]
    figure = curves(densities(drawn), "Density of the differences", "difference of EMD", "density")
    title = f"{NAME}: are images distinguishable by their residuals?"
    report = Report(title, [Section("Differences", paragraphs, rows, [figure])])
    log(report.as_markdown())
    stored = {key: str(value) if isinstance(value, Path) else value for key, value in vars(settings).items()}
    content = {"figure": NAME, "mcir": mcir.__version__, "settings": stored, "nearer": nearer, "residuals": data}
    write_results(settings.results, NAME, content, report, log)
    return 0


def measure(settings: RclFigure2) -> dict[str, Tensor]:
    """Return the distances (N, B, B) of the residuals of both networks and of the true noise, in N batches."""
    if settings.batch < 2 or settings.batches < 1:
        raise ValueError(
            f"Expected --batch of at least 2 and --batches of at least 1, got {settings.batch} and {settings.batches}."
        )
    network = detect_file(settings.weights)
    if network.scale != 1:
        raise ValueError(f"{settings.weights}: expected a network with scale 1, got scale {network.scale}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        networks = {UNTRAINED: ARCHS.build(network.section), TRAINED: load_network(settings.weights)}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for built in networks.values():
        built.to(device).train()
    source: dict[str, Any] = {"dataroot": str(settings.data), "patch_size": settings.patch, "small": "skip"}
    if settings.data is None:
        source |= {"dataroot": "bundled", "tile_size": _TILE * settings.patch}
    noisy, clean = NoisyPatchPairs(**source), NoisyPatchPairs(**source, noise=None)
    count = min(settings.batch, len(noisy))
    if count < 2:
        raise ValueError(f"{source['dataroot']}: expected at least two images, got {count}.")
    found: dict[str, list[Tensor]] = {UNTRAINED: [], TRAINED: [], NOISE: []}
    for batch, noise in patch_batches(noisy, clean, count, settings.batches, settings.seed, device):
        x = batch["lq"].flatten(0, 1)
        with torch.no_grad():
            for name, built in networks.items():
                found[name].append(distances(x - built(x)))
        found[NOISE].append(distances(noise))
    return {name: torch.stack(values).cpu() for name, values in found.items()}


def densities(found: dict[str, Tensor]) -> dict[str, list[tuple[float, float]]]:
    """Return the points (difference, density) of each sample, over a range that covers 99 % of every sample."""
    limits = torch.tensor([0.005, 0.995], dtype=torch.float64)
    ends = [values.double().quantile(limits) for values in found.values()]
    low, high = min(end[0].item() for end in ends), max(end[1].item() for end in ends)
    width = (high - low) / _BINS or 1.0
    points: dict[str, list[tuple[float, float]]] = {}
    for name, values in found.items():
        counts = torch.histc(values.double(), _BINS, low, low + _BINS * width) / (len(values) * width)
        points[name] = [(low + (index + 0.5) * width, float(count)) for index, count in enumerate(counts.tolist())]
    return points
