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
from torch.utils.data import default_collate

import mcir
from mcir.data import to_device
from mcir.data.noisy import NoisyPatchPairs
from mcir.data.sampler import SampleIndex, permutation
from mcir.launch import Log
from mcir.losses.distances import EarthMoversDistance
from mcir.registry import ARCHS
from mcir.report.figures import curves
from mcir.report.page import Section
from mcir.tables.commands import RclFigure2
from mcir.tables.formatting import counted
from mcir.tables.proxy_plan import detect_file
from mcir.tables.render import page, write_results
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
    noise = found[NOISE]
    rows = [["residuals", "mean", "above 0", "W₁ to the true noise"]]
    data: dict[str, Any] = {}
    for name, values in found.items():
        mean, share, distance = values.mean().item(), (values > 0).double().mean().item(), wasserstein(values, noise)
        data[name] = {"mean": mean, "above_0": share, "w1_to_noise": distance, "differences": len(values)}
        rows.append([name, f"{mean:.5f}", f"{share:.3f}", f"{distance:.5f}"])
    nearer = data[TRAINED]["w1_to_noise"] < data[UNTRAINED]["w1_to_noise"]
    paragraphs = [
        f"{settings.weights}: EMD(anchor, negative) − EMD(anchor, positive) of residuals, "
        f"{counted(len(noise), 'difference')}, intensities in [0, 1]. Both networks normalize over the batch, as in "
        "training.",
        "The paper claims that pre-training brings the density closer to that of the true noise. Here it "
        f"{'is closer' if nearer else 'is not closer'}.",
    ]
    figure = curves(densities(found), "Density of the differences", "difference of EMD", "density")
    title = f"{NAME}: are images distinguishable by their residuals?"
    report = page(title, [Section("Differences", paragraphs, rows, [figure])])
    log(report.as_markdown())
    stored = {key: str(value) if isinstance(value, Path) else value for key, value in vars(settings).items()}
    content = {"figure": NAME, "mcir": mcir.__version__, "settings": stored, "nearer": nearer, "residuals": data}
    write_results(settings.results, NAME, content, report, log)
    return 0


def measure(settings: RclFigure2) -> dict[str, Tensor]:
    """Return the differences for the residuals of both networks and for the true noise."""
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
    for number in range(settings.batches):
        chosen = permutation(len(noisy), settings.seed, number)[:count]
        samples = [SampleIndex(int(image), number * count + index, settings.seed) for index, image in enumerate(chosen)]
        x, y = (
            to_device(default_collate([{"lq": images[sample]["lq"]} for sample in samples]), device)["lq"].flatten(0, 1)
            for images in (noisy, clean)
        )
        with torch.no_grad():
            for name, built in networks.items():
                found[name].append(_residual_differences(x - built(x)))
        found[NOISE].append(_residual_differences(x - y))
    return {name: torch.cat(values).cpu() for name, values in found.items()}


def _residual_differences(residuals: Tensor) -> Tensor:
    """Return the differences for residuals, (2B, C, P, P), in which the two patches of an image are adjacent."""
    return differences(EarthMoversDistance()(residuals[::2], residuals[1::2]))


def differences(distances: Tensor) -> Tensor:
    """Return ``D_ji − D_jj`` for all j and i ≠ j, row by row, (B² − B,), from distances D, (B, B)."""
    others = ~torch.eye(len(distances), dtype=torch.bool, device=distances.device)
    return (distances - distances.diagonal()[:, None])[others]


def wasserstein(a: Tensor, b: Tensor) -> float:
    """Return the 1-Wasserstein distance of two samples, (N,)."""
    from scipy import stats

    return float(stats.wasserstein_distance(a.double().numpy(), b.double().numpy()))


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
