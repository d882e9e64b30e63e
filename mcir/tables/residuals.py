"""Residuals of a network before and after its pre-training: how well do they distinguish images?

A residual is a noisy patch minus the output of the network. Two patches of an image are a positive pair, patches of two
images a negative pair; their distance is the earth mover's distance, for intensities in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from mcir.config import Options
from mcir.data import to_device
from mcir.data.noisy import NoisyPatchPairs
from mcir.data.sampler import SampleIndex, permutation
from mcir.device import device_kind
from mcir.engine.checkpoint import load_into
from mcir.losses import ResidualContrastiveLoss
from mcir.losses.distances import EarthMoversDistance
from mcir.models.base import Model
from mcir.models.batch import Batch
from mcir.models.gradients import LossGradients
from mcir.registry import DATASETS, MODELS
from mcir.report.page import Section
from mcir.seeding import seed_generators
from mcir.tables.cache import Record
from mcir.tables.formatting import MISSING

START, END, NOISE = "start", "end", "noise"
_BATCHES = 16


def patch_batches(
    noisy: NoisyPatchPairs, clean: NoisyPatchPairs, size: int, count: int, seed: int, device: torch.device
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield batches of ``size`` images and their noise (2B, C, P, P), the two patches of an image adjacent.

    ``clean`` are the images of ``noisy`` without noise.
    """
    for number in range(count):
        chosen = permutation(len(noisy), seed, number)[:size]
        samples = [SampleIndex(int(image), number * size + index, seed) for index, image in enumerate(chosen)]
        batch, without_noise = (
            to_device(default_collate([images[sample] for sample in samples]), device) for images in (noisy, clean)
        )
        yield batch, (batch["lq"] - without_noise["lq"]).flatten(0, 1)


def distances(residuals: Tensor) -> Tensor:
    """Return the distances (B, B) of first and second patches from residuals (2B, C, P, P)."""
    found: Tensor = EarthMoversDistance()(residuals[::2], residuals[1::2])
    return found


def differences(found: Tensor) -> Tensor:
    """Return ``D_ji − D_jj`` for all j and i ≠ j, row by row, (N·(B² − B),), from distances D, (…, B, B)."""
    others = ~torch.eye(found.shape[-1], dtype=torch.bool, device=found.device)
    return (found - found.diagonal(dim1=-2, dim2=-1)[..., None])[..., others].flatten()


def statistics(found: Tensor, noise: Tensor) -> dict[str, float]:
    """Return the mean distances of pairs, and how well they distinguish images.

    Args:
        found: distances of the residuals, (N, B, B).
        noise: distances of the true noise, (N, B, B).

    Returns:
        ``positive`` and ``negative``: mean distances of the pairs; ``difference``: their difference; ``above_0``:
        fraction of negative pairs that are farther apart than the positive pair of the same anchor; ``nearest``:
        fraction of anchors whose positive is nearer than all negatives; ``w1_to_noise``: 1-Wasserstein distance of the
        differences of ``found`` and of ``noise``.
    """
    from scipy import stats  # slow to import

    own, of_noise = (differences(values.double()).cpu() for values in (found, noise))
    positives = found.diagonal(dim1=-2, dim2=-1)
    nearest = found.argmin(-1) == torch.arange(found.shape[-1], device=found.device)
    return {
        "positive": positives.mean().item(),
        "negative": positives.mean().item() + own.mean().item(),
        "difference": own.mean().item(),
        "above_0": (own > 0).double().mean().item(),
        "nearest": nearest.double().mean().item(),
        "w1_to_noise": float(stats.wasserstein_distance(own.numpy(), of_noise.numpy())),
    }


# -- a pre-training ---------------------------------------------------------------------------------------------------


def before_and_after(options: Options, weights: Path) -> dict[str, dict[str, float]]:
    """Return the statistics of a pre-training with ``ResidualContrastiveModel`` before and after it.

    They are means over batches of the training set, with batch norms in training mode. In addition to
    :func:`statistics`, there are the ``contrastive_loss`` per anchor without its weight, the ``consistency_loss``, and
    the ``gradient_ratio``: the norm of the gradient of the contrastive loss at the output, relative to that of the
    consistency loss.

    Args:
        options: options of the pre-training.
        weights: its result.
    """
    assert options.datasets.train is not None
    data, device = options.datasets.train, torch.device(device_kind(options.num_gpu))
    noisy, clean = DATASETS.build(data.section), DATASETS.build({**data.section, "noise": None})
    seed_generators((options.manual_seed, 0, 0), device)
    model: Model = MODELS.build(options.model_section())
    losses: dict[str, list[dict[str, float]]] = {START: [], END: [], NOISE: []}
    found: dict[str, list[Tensor]] = {START: [], END: [], NOISE: []}
    for name in (START, END):
        if name == END:
            load_into(model, weights)
        model.to(device).enter_training()
        batches = patch_batches(noisy, clean, data.batch_size_per_gpu, _BATCHES, options.manual_seed, device)
        for batch, noise in batches:
            with torch.no_grad():
                output = model.network(model.inputs(batch))
            found[name].append(distances(batch["lq"].flatten(0, 1) - output))
            losses[name].append(_losses(model, output.requires_grad_(), batch))
            if name == START:
                found[NOISE].append(distances(noise))
                losses[NOISE].append(_contrastive_loss(model, noise))
    stacked = {name: torch.stack(values) for name, values in found.items()}
    return {name: statistics(values, stacked[NOISE]) | _means(losses[name]) for name, values in stacked.items()}


def _losses(model: Model, output: Tensor, batch: Batch) -> dict[str, float]:
    """Return the losses and the norms of their gradients at the output by name."""
    gradients = LossGradients(model.criteria, {})
    values, _ = gradients.backward(model.losses(output, batch), output, lambda loss: loss)
    model.criteria.clear_features()
    found = values | gradients.finish(1.0, lambda products: products)
    residuals = batch["lq"].flatten(0, 1) - output.detach()
    return {name: value.item() for name, value in found.items()} | _contrastive_loss(model, residuals)


def _contrastive_loss(model: Model, residuals: Tensor) -> dict[str, float]:
    """Return the contrastive loss per anchor without its weight; an empty dict if the model has none."""
    for loss in model.criteria.modules():
        if isinstance(loss, ResidualContrastiveLoss):
            anchors, keys = residuals[::2], residuals[1::2]
            count = len(anchors) if loss.reduction == "sum" else 1
            return {"contrastive_loss": loss(anchors, keys).item() / (count * loss.loss_weight)}
    return {}


def _means(batches: Sequence[Mapping[str, float]]) -> dict[str, float]:
    means = {name: fmean(batch[name] for batch in batches) for name in batches[0]}
    found = {"contrastive_loss": means.get("contrastive_loss"), "consistency_loss": means.get("l_consist")}
    if "grad_l_contrast" in means and means.get("grad_l_consist"):
        found["gradient_ratio"] = means["grad_l_contrast"] / means["grad_l_consist"]
    return {name: value for name, value in found.items() if value is not None}


# -- the report -------------------------------------------------------------------------------------------------------

_LOSSES = {
    "gradient_ratio": "gradient ratio",
    "contrastive_loss": "contrastive loss",
    "consistency_loss": "consistency loss",
}
_DISTANCES = {
    "positive": "EMD of positive pairs",
    "negative": "EMD of negative pairs",
    "nearest": "positive is nearest",
    "w1_to_noise": "W₁ to the true noise",
}


def residuals_sections(pretrained: Sequence[Record], titles: Mapping[str, str]) -> list[Section]:
    """Return the section about the pre-trainings with statistics, if there are any."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in pretrained:
        if "residuals" in record:
            groups.setdefault(record["method"], []).append(record["residuals"])
    if not groups:
        return []
    rows = [["pre-training", *_LOSSES.values(), *_DISTANCES.values(), "contrastive loss of the true noise"]]
    for method, group in groups.items():
        changes = [_change(group, column) for column in (*_LOSSES, *_DISTANCES)]
        rows.append([titles[method], *changes, _mean([part[NOISE] for part in group], "contrastive_loss")])
    noise = [part[NOISE] for group in groups.values() for part in group]
    of_noise = [_mean(noise, column) for column in _DISTANCES]
    rows.append(["the true noise", *[MISSING] * len(_LOSSES), *of_noise, MISSING])
    paragraphs = [
        "Each number before → after the pre-training, on the same batches of the training set, with batch norms in "
        "training mode; means over the seeds. The gradient ratio is the norm of the gradient of the contrastive loss, "
        "with its weight, at the output, relative to that of the consistency loss. The contrastive loss is that of one "
        "image without its weight; its value for the true noise is that of a perfect residual.",
        "EMD is measured between residuals with intensities in [0, 1]. “Positive is nearest” is the fraction of "
        "patches whose positive is nearer than all negatives of the batch. W₁ is the distance between the densities of "
        "EMD(negative pair) − EMD(positive pair) of the residuals and of the true noise; the paper's Figure 2 claims "
        "that the pre-training decreases it.",
    ]
    return [Section("The residuals before and after the pre-training", paragraphs, rows)]


def _change(group: Sequence[Mapping[str, Mapping[str, float]]], column: str) -> str:
    before, after = (_mean([part[name] for part in group], column) for name in (START, END))
    return MISSING if before == MISSING else f"{before} → {after}"


def _mean(parts: Sequence[Mapping[str, float]], column: str) -> str:
    values = [part[column] for part in parts if column in part]
    return f"{fmean(values):.3g}" if values else MISSING
