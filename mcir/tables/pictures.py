"""Restore images of data sets with the trained networks of two rows, and compare them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import default_collate

from mcir.config import Options
from mcir.data import to_device
from mcir.engine.checkpoint import load_into
from mcir.engine.distributed import init_distributed
from mcir.engine.evaluation import build_metrics, format_scores, image_name
from mcir.engine.tester import restoring_model
from mcir.registry import DATASETS
from mcir.report.figures import Figure
from mcir.report.side_by_side import Restored, side_by_side
from mcir.tables.datasets import present_sets
from mcir.tables.published import Row
from mcir.tables.runs import TableRun


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network of a row.

    Attributes:
        row: name of the row.
        options: options of its evaluation.
        checkpoint: weight file.
    """

    row: str
    options: Options
    checkpoint: Path


@dataclass(frozen=True)
class ComparedImage:
    """An image that two networks have restored.

    Attributes:
        name: name of the image.
        scores: metrics of both restored images, by name.
        figure: crops, errors and divergence.
    """

    name: str
    scores: tuple[dict[str, float], dict[str, float]]
    figure: Figure


def network_for(runs: Sequence[TableRun], row: Row, data_set: str) -> TrainedNetwork | None:
    """Return the network of a row for a data set; None if the weights or the images do not exist."""
    for run in runs:
        found = run.to_evaluate() if run.row.name == row.name else None
        if found is not None and any(part.name == data_set for part in present_sets(found[0]).values()):
            return TrainedNetwork(row.name, *found)
    return None


def compare_images(
    first: TrainedNetwork, second: TrainedNetwork, data_set: str, numbers: Sequence[int]
) -> list[ComparedImage]:
    """Restore images of a data set with two networks, measure them by the protocol of the second, and compare them.

    Args:
        first: first network.
        second: second network.
        data_set: name of a data set that exists; no other data set is opened.
        numbers: indices of the images; those that the data set does not have are ignored.

    Raises:
        ValueError: images or weights cannot be read, or do not fit.
    """
    networks, options = (first, second), second.options
    part = next(part for part in present_sets(options).values() if part.name == data_set)
    dataset, metrics = DATASETS.build(part.section), build_metrics(options)
    compared = []
    with init_distributed(options.num_gpu, options.dist_params) as dist:
        models = [restoring_model(network.options, dist.device) for network in networks]
        for model, network in zip(models, networks, strict=True):
            load_into(model, network.checkpoint)
        for number in (number for number in numbers if number < len(dataset)):
            batch = to_device(default_collate([dataset[number]]), dist.device)
            outputs = [model.restore(batch["lq"]).cpu() for model in models]
            lq, gt, name = batch["lq"].cpu(), batch["gt"].cpu(), image_name(dataset, number, batch["gt_path"][0])
            scores = [{key: float(metric(output, gt)) for key, metric in metrics.items()} for output in outputs]
            restored = [
                Restored(network.row, output[0], format_scores(values, metrics))
                for network, output, values in zip(networks, outputs, scores, strict=True)
            ]
            figure = side_by_side(f"{data_set}: {name}", lq[0], restored[0], restored[1], gt[0])
            compared.append(ComparedImage(name, (scores[0], scores[1]), figure))
    return compared
