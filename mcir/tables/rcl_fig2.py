"""Figure 2 of residual contrastive learning (arXiv:2106.10070): does a network tell images apart by their residuals?

For the residual of a patch, how much farther that of another image is than that of the same image: the differences
``EMD(anchor, negative) − EMD(anchor, positive)`` of all anchors and negatives. The paper draws their density for a
network as it begins, for the same one after pre-training, and for the true noise, which the second is to be nearer to.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

import mcir
from mcir.atomic import write_atomically
from mcir.data import to_device
from mcir.data.noisy import NoisyPatchPairs
from mcir.data.sampler import SampleIndex, permutation
from mcir.engine.loggers import as_json
from mcir.losses.distances import EarthMoversDistance
from mcir.network_spec import NetworkSpec, spec_of
from mcir.registry import ARCHS
from mcir.report.figures import curves
from mcir.report.page import Report, Section
from mcir.tables.formatting import counted
from mcir.tables.proxy_plan import section_of
from mcir.tables.training import Say
from mcir.weights import load_network

NAME = "rcl-fig2"
BEGINNING, TRAINED, NOISE = "at its beginning", "pre-trained", "true noise"
_BINS = 60
_TILE = 2  # bundled photographs are cut into squares of so many patches at a side


@dataclass(frozen=True)
class Fig2Settings:
    """What the figure is made of.

    Attributes:
        weights: of a network that does not enlarge.
        data: folder or data base of clean images; without, the bundled photographs, in squares.
        patch: side of the patches.
        batch: images that are compared with each other; fewer where there are not so many.
        batches: how many times.
        seed: of images, patches and noise, and of the network as it begins.
        results: where the page goes.
    """

    weights: Path
    data: Path | None = None
    patch: int = 128
    batch: int = 64
    batches: int = 4
    seed: int = 0
    results: Path = Path("results")


def reproduce_fig2(settings: Fig2Settings, say: Say = print) -> int:
    """Make the figure, and return 0.

    Raises:
        ValueError: weights or images that cannot be read or do not fit, or numbers that make no sense.
    """
    found = measured(settings)
    noise = found[NOISE]
    rows = [["residuals", "mean", "above 0", "W₁ to the true noise"]]
    data: dict[str, Any] = {}
    for name, values in found.items():
        mean, share = values.mean().item(), (values > 0).double().mean().item()
        away = wasserstein(values, noise)
        data[name] = {"mean": mean, "above_0": share, "w1_to_noise": away, "differences": len(values)}
        rows.append([name, f"{mean:.5f}", f"{share:.3f}", f"{away:.5f}"])
    nearer = data[TRAINED]["w1_to_noise"] < data[BEGINNING]["w1_to_noise"]
    verdict = (
        f"The paper's claim: pre-training brings the density nearer to that of the true noise. Here it is "
        f"{'nearer' if nearer else 'not nearer'}."
    )
    told = (
        f"{settings.weights}: EMD(anchor, negative) − EMD(anchor, positive) of residuals, "
        f"{counted(len(noise), 'difference')}, intensities in [0, 1]. Both networks normalise over the batch, as they "
        "do in training."
    )
    figure = curves(densities(found), "Density of the differences", "difference of EMD", "density")
    report = Report(
        "rcl-fig2: are images told apart by their residuals?", [Section("Differences", [told, verdict], rows, [figure])]
    )
    given = {
        key: None if value is None else str(value) if isinstance(value, Path) else value
        for key, value in asdict(settings).items()
    }
    settings.results.mkdir(parents=True, exist_ok=True)
    target = settings.results / f"{NAME}.json"
    content = {"figure": NAME, "mcir": mcir.__version__, "settings": given, "nearer": nearer, "residuals": data}
    write_atomically(target, (as_json(content, indent=2) + "\n").encode())
    say(report.as_markdown())
    for path in [target, *report.write(settings.results, NAME)]:
        say(f"results: {path}")
    return 0


def measured(settings: Fig2Settings) -> dict[str, Tensor]:
    """Return all differences by what their residuals are of: the network untrained and trained, and the noise itself.

    Raises:
        ValueError: weights or images that cannot be read or do not fit, or numbers that make no sense.
    """
    if settings.batch < 2 or settings.batches < 1:
        raise ValueError(
            f"A batch has at least 2 images, and there is at least 1, not {settings.batch} and {settings.batches}."
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained = load_network(settings.weights)
    if (spec_of(trained) or NetworkSpec()).scale != 1:
        raise ValueError(f"{settings.weights}: its network enlarges, so there is no residual of input and output.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        networks = {BEGINNING: ARCHS.build(section_of(settings.weights)), TRAINED: trained}
    for network in networks.values():
        network.to(device).train()
    where: dict[str, Any] = {"dataroot": str(settings.data), "patch_size": settings.patch, "small": "skip"}
    if settings.data is None:
        where |= {"dataroot": "bundled", "tile_size": _TILE * settings.patch}
    noisy, clean = NoisyPatchPairs(**where), NoisyPatchPairs(**where, noise=None)
    count = min(settings.batch, len(noisy))
    if count < 2:
        raise ValueError(f"{where['dataroot']}: one image has no negatives.")
    found: dict[str, list[Tensor]] = {BEGINNING: [], TRAINED: [], NOISE: []}
    for number in range(settings.batches):
        chosen = permutation(len(noisy), settings.seed, number)[:count]
        draws = [SampleIndex(int(index), number * count + place, settings.seed) for place, index in enumerate(chosen)]
        x, y = (
            to_device(default_collate([{"lq": images[draw]["lq"]} for draw in draws]), device)["lq"].flatten(0, 1)
            for images in (noisy, clean)
        )
        for name, network in networks.items():
            found[name].append(_differences_of(x - _output(network, x)))
        found[NOISE].append(_differences_of(x - y))
    return {name: torch.cat(values).cpu() for name, values in found.items()}


@torch.no_grad()
def _output(network: nn.Module, images: Tensor) -> Tensor:
    output: Tensor = network(images)
    return output


def _differences_of(residuals: Tensor) -> Tensor:
    """Return the differences of residuals (2B, C, P, P), the two of an image side by side."""
    return differences(EarthMoversDistance()(residuals[::2], residuals[1::2]))


def differences(distances: Tensor) -> Tensor:
    """Return ``D_ji − D_jj`` for all j and i ≠ j of distances (B, B), row by row, (B² − B)."""
    others = ~torch.eye(len(distances), dtype=torch.bool, device=distances.device)
    return (distances - distances.diagonal()[:, None])[others]


def wasserstein(a: Tensor, b: Tensor) -> float:
    """Return the 1-Wasserstein distance of two samples (N) of the same size."""
    return (a.double().sort().values - b.double().sort().values).abs().mean().item()


def densities(found: dict[str, Tensor]) -> dict[str, list[tuple[float, float]]]:
    """Return points (difference, density) of each sample, over the range that all but a hundredth of each lies in."""
    ends = [values.double().quantile(torch.tensor([0.005, 0.995], dtype=torch.float64)) for values in found.values()]
    low, high = min(end[0].item() for end in ends), max(end[1].item() for end in ends)
    width = (high - low) / _BINS or 1.0
    drawn: dict[str, list[tuple[float, float]]] = {}
    for name, values in found.items():
        counts = torch.histc(values.double(), _BINS, low, low + _BINS * width) / (len(values) * width)
        drawn[name] = [(low + (place + 0.5) * width, float(count)) for place, count in enumerate(counts.tolist())]
    return drawn
