"""Figures of the compared rows of a table: training curves and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mcir.data import to_device
from mcir.engine.checkpoint import load_into
from mcir.engine.distributed import DistContext, init_distributed
from mcir.engine.tester import Tester
from mcir.registry import DATASETS
from mcir.report.comparison import error_map, picture
from mcir.report.figures import Figure, curves, picture_figure
from mcir.report.page import Section
from mcir.report.records import read_run
from mcir.tables.evaluation import RunResult, select_metric
from mcir.tables.published import Row
from mcir.tables.results import Results
from mcir.tables.runs import TableRun, sets_to_evaluate

_MAX_SIDE = 320


def training_curves(results: Results, runs: Sequence[TableRun]) -> Section:
    """Return the section with the first metric of compared rows during training."""
    section, metric = Section("During training"), results.table.metrics[0]
    for pair in results.compared_rows():
        for column in results.table.columns:
            series = {row.name: _curve(runs, row, column.name, metric) for row in pair}
            if all(series.values()):
                section.figures.append(curves(series, f"{column.name}, during training", "iteration", metric))
    return section


def _curve(runs: Sequence[TableRun], row: Row, data_set: str, metric: str) -> list[tuple[int, float]]:
    points: list[tuple[int, float]] = []
    for run in runs:
        if run.row.name == row.name and run.options is not None:
            found = select_metric(read_run(run.job.folder).metrics.get(data_set, {}), metric)
            points += found.points if found else []
    return points


def compared_images(results: Results, tested: Mapping[tuple[str, str], RunResult]) -> Section:
    """Return the section with restored images of compared rows, evaluated as in ``tested`` by row and column."""
    section = Section("Images")
    for other, row in results.compared_rows():
        for name, numbers in results.table.pictures.items():
            first, second = tested.get((other.name, name)), tested.get((row.name, name))
            if first is None or second is None:
                continue
            with init_distributed(second.options.num_gpu, second.options.dist_params) as dist:
                try:
                    for number in numbers:
                        section.figures += _side_by_side((first, second), name, number, dist)
                except (ValueError, OSError) as error:  # the images may have changed since the evaluation
                    section.paragraphs.append(f"{row.name}, {name}: {error}")
    return section


def _side_by_side(pair: tuple[RunResult, RunResult], data_set: str, number: int, dist: DistContext) -> list[Figure]:
    """Return input, both outputs, ground truth and the difference of the outputs (Fig. 5 of the paper)."""
    outputs: list[Tensor] = []
    for result in pair:
        part = next(part for part in sets_to_evaluate(result.options).values() if part.name == data_set)
        dataset = DATASETS.build(part.section)
        if number >= len(dataset):
            return []
        item = dataset[number]
        batch = to_device({**item, "lq": item["lq"][None], "gt": item["gt"][None]}, dist.device)
        tester = Tester(result.options, dist)
        load_into(tester.model, result.checkpoint)
        outputs.append(tester.model.restore(batch["lq"])[0])
    lq, gt = batch["lq"][0], batch["gt"][0]
    scale = gt.shape[-1] // lq.shape[-1]
    side = _MAX_SIDE // scale
    images = [_center(lq, lq, side, 1).repeat_interleave(scale, 1).repeat_interleave(scale, 2)]
    images += [_center(image, lq, side, scale) for image in (*outputs, gt)]
    names = [result.run.row.name for result in pair]
    captions = ("input", *names, "ground truth")
    title = f"{data_set}, image {number}"
    figures = [picture_figure(picture(im), f"{title}: {name}") for im, name in zip(images, captions, strict=True)]
    first, second = images[1:3]
    errors = (first.clamp(0, 1) - second.clamp(0, 1)).abs().float().mean(0)
    limit = max(1.0, 255 * float(torch.quantile(errors, 0.99)))
    caption = f"{title}: difference |{names[0]} − {names[1]}| (brightest: {limit:.1f} of 255, the 99th percentile or 1)"
    return [*figures, picture_figure(error_map(first, second.clamp(0, 1), limit), caption)]


def _center(image: Tensor, lq: Tensor, side: int, scale: int) -> Tensor:
    """Crop an image to the center of the degraded image.

    Args:
        image: image, (C, scale * H, scale * W).
        lq: degraded image, (C, H, W).
        side: largest height and width of the crop, in pixels of ``lq``.
        scale: ratio of the sizes.
    """
    top, left = (scale * max(0, (length - side) // 2) for length in lq.shape[1:])
    return image[:, top : top + side * scale, left : left + side * scale]
