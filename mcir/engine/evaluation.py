"""Evaluation: how well a model restores the images of a data set, shared over all processes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mcir.config import Options
from mcir.data import evaluation_loader, imresize, to_device
from mcir.engine.distributed import DistContext
from mcir.registry import DATASETS, METRICS
from mcir.report.comparison import Picture, comparison, picture, save_picture

Restore = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Score:
    """The values of one metric over a data set.

    ``of_input`` is the metric of the degraded input itself, enlarged bicubically where the scale asks for it: what the
    network must beat.
    """

    mean: float
    of_input: float
    unit: str
    higher_is_better: bool
    images: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """The scores of one data set by metric, and side-by-side pictures of its first images by name.

    ``given`` says what the network is compared with: the ``bicubic`` enlargement of its input, or the ``input``.
    """

    name: str
    given: str
    scores: dict[str, Score]
    pictures: dict[str, Picture]


class EvaluationSet:
    """A data set, ready to be restored again and again.

    Args:
        name: what the results are called.
        dataset: yields ``lq``, ``gt`` and their paths.
        metrics: the metrics by the name that the option file gives them.
        dist: this process; each takes its share of the images.
        workers: processes that read images.
        scale: of the network; above 1 it is compared with the bicubic enlargement of its input.
    """

    def __init__(
        self,
        name: str,
        dataset: Any,
        metrics: Mapping[str, Any],
        dist: DistContext,
        workers: int = 0,
        scale: int = 1,
    ) -> None:
        self.name = name
        self.given = "bicubic" if scale > 1 else "input"
        self._name_of = getattr(dataset, "name", None)
        self.metrics = metrics
        self.dist = dist
        self._loader: DataLoader[Any] = evaluation_loader(
            dataset, num_workers=workers, rank=dist.rank, world_size=dist.world_size
        )
        self._of_input: dict[int, dict[str, float]] = {}

    def evaluate(
        self, restore: Restore, pictures: int = 0, images_to: Path | None = None, suffix: str = ""
    ) -> Evaluation:
        """Restore every image and measure it; the means are exact however the images are shared out.

        Args:
            restore: maps ``lq`` (1, C, H, W) to the restored image.
            pictures: of how many of the first images side-by-side pictures are made.
            images_to: a folder for the restored images.
            suffix: what their names end with, before ``.png``.
        """
        rows: list[tuple[int, str, dict[str, float], dict[str, float]]] = []
        side_by_side: dict[str, Picture] = {}
        for item in self._loader:
            batch = to_device(item, self.dist.device)
            index = int(item["index"][0])
            name = self._name_of(index) if self._name_of else Path(batch["gt_path"][0]).stem
            gt, upscaled = batch["gt"], None
            output = restore(batch["lq"])
            values = {key: float(metric(output, gt)) for key, metric in self.metrics.items()}
            if index not in self._of_input:
                upscaled = _at_size_of(gt, batch["lq"])
                self._of_input[index] = {key: float(metric(upscaled, gt)) for key, metric in self.metrics.items()}
            rows.append((index, name, values, self._of_input[index]))
            if images_to is not None:
                save_picture(picture(output[0]), images_to, f"{name}{suffix}")
            if index < pictures:
                upscaled = _at_size_of(gt, batch["lq"]) if upscaled is None else upscaled
                captions = (
                    self._caption(self.given, self._of_input[index]),
                    self._caption("output", values),
                )
                side_by_side[name] = comparison(upscaled[0], output[0], gt[0], captions)
        shared = [row for rank_rows in self.dist.gather(rows) for row in rank_rows]
        drawn = [pair for rank_pictures in self.dist.gather(side_by_side) for pair in rank_pictures.items()]
        return Evaluation(self.name, self.given, self._scores(sorted(shared, key=lambda row: row[0])), dict(drawn))

    def _scores(self, rows: list[tuple[int, str, dict[str, float], dict[str, float]]]) -> dict[str, Score]:
        scores = {}
        for key, metric in self.metrics.items():
            values = {name: of_output[key] for _, name, of_output, _ in rows}
            scores[key] = Score(
                mean=sum(of_output[key] for _, _, of_output, _ in rows) / len(rows),
                of_input=sum(of_input[key] for _, _, _, of_input in rows) / len(rows),
                unit=metric.unit,
                higher_is_better=metric.higher_is_better,
                images=values,
            )
        return scores

    def _caption(self, what: str, values: Mapping[str, float]) -> str:
        return f"{what}: " + ", ".join(
            f"{key} {value:.2f} {self.metrics[key].unit}".rstrip() if self.metrics[key].unit else f"{key} {value:.4f}"
            for key, value in values.items()
        )


def evaluation_sets(options: Options, kind: str, dist: DistContext) -> list[EvaluationSet]:
    """Build the data sets and metrics of an option file.

    Args:
        options: of the run.
        kind: ``val`` or ``test``.
        dist: this process.

    Raises:
        ValueError: a data set cannot be read, or a metric cannot be built.
    """
    metrics = {
        name: METRICS.build(section, where=options.where("val", "metrics", name))
        for name, section in options.val.metrics.items()
    }
    sections = options.datasets.val if kind == "val" else options.datasets.test
    return [
        EvaluationSet(
            part.name,
            DATASETS.build(part.section, where=options.where("datasets", key)),
            metrics,
            dist,
            part.num_worker_per_gpu,
            options.scale,
        )
        for key, part in sections.items()
    ]


@torch.no_grad()
def _at_size_of(gt: Tensor, lq: Tensor) -> Tensor:
    """Return the degraded image at the size of its ground truth, enlarged bicubically if it is smaller."""
    if lq.shape[-1] == gt.shape[-1]:
        return lq
    return imresize(lq.double(), gt.shape[-1] / lq.shape[-1])[..., : gt.shape[-2], : gt.shape[-1]].float()
