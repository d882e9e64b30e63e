"""Evaluation of a model on data sets. All processes of a run share the images."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mcir.config import DatasetOptions, Options
from mcir.data import DataError, evaluation_loader, imresize, to_device
from mcir.engine.distributed import DistContext
from mcir.errors import is_user_error
from mcir.paths import path_inside
from mcir.registry import DATASETS, METRICS
from mcir.report.comparison import Picture, comparison, picture, save_picture
from mcir.report.metric import format_value

Restore = Callable[[Tensor], Tensor]


class EvaluationInterrupted(Exception):
    """An evaluation was stopped before its last image."""


@dataclass(frozen=True)
class Score:
    """The values of one metric on a data set.

    Attributes:
        mean: mean over all restored images.
        of_input: mean over the degraded images, which are enlarged bicubically to the size of the ground truths. This
            is the baseline.
        unit: unit of the metric, for example ``dB``. It may be empty.
        higher_is_better: whether larger values are better.
        images: value of each restored image, by name.
    """

    mean: float
    of_input: float
    unit: str
    higher_is_better: bool
    images: dict[str, float]

    @property
    def quality(self) -> float:
        """The mean, or the negative mean if smaller values are better."""
        return self.mean if self.higher_is_better else -self.mean

    @property
    def gain(self) -> float:
        """The improvement over the baseline, which is positive if the output is better."""
        return self.mean - self.of_input if self.higher_is_better else self.of_input - self.mean


@dataclass(frozen=True)
class Evaluation:
    """The results on one data set.

    Attributes:
        name: name of the data set.
        baseline: baseline of the comparison: ``bicubic`` (the enlarged input) or ``input``.
        scores: scores by metric.
        comparisons: side-by-side comparisons of the first images, by name.
    """

    name: str
    baseline: str
    scores: dict[str, Score]
    comparisons: dict[str, Picture]

    def save_comparisons(self, folder: Path) -> None:
        """Save the side-by-side comparisons in a subfolder with the name of the data set."""
        for name, image in self.comparisons.items():
            save_picture(image, path_inside(folder, self.name), name)


@dataclass(frozen=True)
class _Row:
    """The values of all metrics for one image."""

    index: int
    name: str
    output: dict[str, float]
    input: dict[str, float]


@contextmanager
def errors_of_image(path: str) -> Iterator[None]:
    """Add the path of an image to the errors of mcir in the block.

    Raises:
        DataError: the image cannot be restored or measured.
    """
    try:
        yield
    except ValueError as error:
        if not is_user_error(error):
            raise
        raise DataError(f"{path}: {error}") from error


@dataclass
class _Part:
    """The results of the images of one process."""

    rows: list[_Row] = field(default_factory=list)
    comparisons: dict[str, Picture] = field(default_factory=dict)
    interrupted: bool = False


class EvaluationSet:
    """A data set with metrics, for repeated evaluation.

    Args:
        name: name of the data set in the results.
        dataset: data set of samples with ``lq``, ``gt`` and their paths.
        metrics: metrics by their names in the option file.
        dist: this process.
        workers: number of processes that load data.
        scale: scale of the network.
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
        self.baseline = "bicubic" if scale > 1 else "input"
        self.metrics = metrics
        self.dist = dist
        self.dataset = dataset
        self._loader: DataLoader[Any] = evaluation_loader(
            dataset, num_workers=workers, rank=dist.rank, world_size=dist.world_size
        )
        self._input_values: dict[int, dict[str, float]] = {}

    def evaluate(
        self,
        restore: Restore,
        pictures: int = 0,
        images_to: Path | None = None,
        suffix: str = "",
        should_stop: Callable[[], bool] | None = None,
        write: Callable[[Callable[[], object]], object] = lambda action: action(),
    ) -> Evaluation:
        """Restore every image and compute its metrics. The means do not depend on the number of processes.

        Args:
            restore: function that maps ``lq`` (1, C, H, W) to the restored image (1, C, sH, sW).
            pictures: number of images with a side-by-side comparison.
            images_to: folder for the restored images. Default: they are not saved.
            suffix: suffix of their file names, before ``.png``.
            should_stop: function that is called before each image and returns whether the evaluation stops.
            write: function that calls a function which writes an image. It may ignore its errors.

        Raises:
            EvaluationInterrupted: ``should_stop`` returned true in one of the processes. All of them raise it.
        """

        def save(name: str, image: Tensor) -> None:
            if images_to is not None:
                write(partial(save_picture, picture(image), images_to, f"{name}{suffix}"))

        def evaluate_part() -> _Part:
            return self._evaluate_part(restore, pictures, save, should_stop)

        parts = self.dist.gather_results(evaluate_part)
        if any(part.interrupted for part in parts):
            raise EvaluationInterrupted
        rows = sorted((row for part in parts for row in part.rows), key=lambda row: row.index)
        comparisons = {name: image for part in parts for name, image in part.comparisons.items()}
        return Evaluation(self.name, self.baseline, self._scores(rows), comparisons)

    def _evaluate_part(
        self,
        restore: Restore,
        pictures: int,
        save: Callable[[str, Tensor], None],
        should_stop: Callable[[], bool] | None,
    ) -> _Part:
        """Evaluate the images of this process."""
        part = _Part()
        for item in self._loader:
            if should_stop is not None and should_stop():
                part.interrupted = True
                break
            batch = to_device(item, self.dist.device)
            index = int(item["index"][0])
            name = image_name(self.dataset, index, batch["gt_path"][0])
            with errors_of_image(batch["gt_path"][0]):
                lq, gt, output = (self._to_measure(image) for image in (batch["lq"], batch["gt"], restore(batch["lq"])))
                row = _Row(index, name, self._measure(output, gt), self.measure_input(index, lq, gt))
            part.rows.append(row)
            save(name, output[0])
            if index < pictures:
                captions = (self._caption(self.baseline, row.input), self._caption("output", row.output))
                part.comparisons[name] = comparison(_to_gt_size(lq, gt)[0], output[0], gt[0], captions)
        return part

    def measure_input(self, index: int, lq: Tensor, gt: Tensor) -> dict[str, float]:
        """Return the values of the baseline for an image of the set, which are computed once."""
        if index not in self._input_values:
            lq, gt = self._to_measure(lq), self._to_measure(gt)
            self._input_values[index] = self._measure(_to_gt_size(lq, gt), gt)
        return self._input_values[index]

    def _to_measure(self, image: Tensor) -> Tensor:
        return image.cpu() if image.device.type == "mps" else image  # metrics need float64, which MPS lacks

    def _measure(self, image: Tensor, gt: Tensor) -> dict[str, float]:
        return {name: float(metric(image, gt)) for name, metric in self.metrics.items()}

    def _scores(self, rows: list[_Row]) -> dict[str, Score]:
        return {
            name: Score(
                mean=sum(row.output[name] for row in rows) / len(rows),
                of_input=sum(row.input[name] for row in rows) / len(rows),
                unit=metric.unit,
                higher_is_better=metric.higher_is_better,
                images={row.name: row.output[name] for row in rows},
            )
            for name, metric in self.metrics.items()
        }

    def _caption(self, title: str, values: Mapping[str, float]) -> str:
        return f"{title}: {format_scores(values, self.metrics)}"


def format_scores(values: Mapping[str, float], metrics: Mapping[str, Any]) -> str:
    """Return the values of metrics with their names and units; ``metrics`` are the metrics by name."""
    return ", ".join(f"{name} {format_value(value, metrics[name].unit)}" for name, value in values.items())


def evaluation_sets(options: Options, kind: str, dist: DistContext) -> list[EvaluationSet]:
    """Build the validation sets or the test sets of an option file, with its metrics.

    Args:
        options: options of the run.
        kind: ``val`` or ``test``.
        dist: this process.

    Raises:
        ValueError: a data set cannot be read, or a metric cannot be built.
    """
    metrics = build_metrics(options)
    sets = options.datasets.val if kind == "val" else options.datasets.test
    return [evaluation_set(options, key, part, metrics, dist) for key, part in sets.items()]


def evaluation_set(
    options: Options, key: str, part: DatasetOptions, metrics: Mapping[str, Any], dist: DistContext
) -> EvaluationSet:
    """Build one validation or test set of an option file.

    Args:
        options: options of the run.
        key: key of the set in the section 'datasets'.
        part: options of the set.
        metrics: metrics by name.
        dist: this process.

    Raises:
        ValueError: the data set cannot be read.
    """
    dataset = DATASETS.build(part.section, where=options.where("datasets", key))
    return EvaluationSet(part.name, dataset, metrics, dist, part.num_worker_per_gpu, options.scale)


def build_metrics(options: Options) -> dict[str, Any]:
    """Build the metrics of an option file, by their names in it.

    Raises:
        ValueError: a metric cannot be built.
    """
    return {
        name: METRICS.build(section, where=options.where("val", "metrics", name))
        for name, section in options.val.metrics.items()
    }


def image_name(dataset: Any, index: int, gt_path: str) -> str:
    """Return the name of an image in results: the name in the data set if it has names, or else the ground truth's."""
    return str(dataset.name(index)) if hasattr(dataset, "name") else Path(gt_path).stem


@torch.no_grad()
def _to_gt_size(lq: Tensor, gt: Tensor) -> Tensor:
    """Return the degraded image, enlarged bicubically to the size of its ground truth if it is smaller."""
    if lq.shape[-1] == gt.shape[-1]:
        return lq
    return imresize(lq.double(), gt.shape[-1] / lq.shape[-1])[..., : gt.shape[-2], : gt.shape[-1]].float()
