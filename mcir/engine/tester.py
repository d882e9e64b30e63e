"""Tests of weight files on data sets."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mcir.atomic import remove_temporary_files, write_atomically
from mcir.checked_json import as_json
from mcir.config import Options
from mcir.engine.checkpoint import load_into
from mcir.engine.distributed import DistContext
from mcir.engine.dry_validation import dry_validation
from mcir.engine.evaluation import Evaluation, EvaluationSet, evaluation_sets
from mcir.engine.loggers import RunLog, results_table
from mcir.engine.worse_than_input import worse_than_input
from mcir.errors import locate_errors
from mcir.models import Model
from mcir.paths import path_inside
from mcir.registry import MODELS

_LOG = logging.getLogger("mcir")


class Tester:
    """Evaluate weight files of one network on the test sets of an option file, or on its validation sets.

    Args:
        options: options of the run.
        dist: this process.

    Attributes:
        results: scores of the last :meth:`test` by weight file, data set and metric.

    Raises:
        ValueError: there is no data set or no metric, or data cannot be read.
    """

    def __init__(self, options: Options, dist: DistContext) -> None:
        self.options = options
        self.dist = dist
        self.results: dict[str, Any] = {}
        self.sets = evaluation_sets(options, "test" if options.datasets.test else "val", dist)
        if not self.sets:
            raise ValueError("Testing requires a data set: set 'datasets.test' (or 'test_1', 'test_2', …).")
        if not options.val.metrics:
            raise ValueError("Testing requires 'val.metrics', for example {psnr: {type: PSNR, crop_border: 4}}.")
        self.model = restoring_model(options, dist.device)
        with dist.rank_zero_first():
            for part in self.sets if dist.is_rank_zero else ():
                dry_validation(part, self.model)

    def test(self, checkpoints: Sequence[str] = ()) -> Path:
        """Evaluate weight files, print tables, and return the path of the results.

        Args:
            checkpoints: paths of weight files. The moving average is tested if there is one, and all weights must match
                the network. Default: ``path.pretrain_network_g``, with ``path.param_key_g`` and
                ``path.strict_load_g``.

        Raises:
            ValueError: there is no weight file, or its weights do not match the network.
        """
        path = self.options.path
        files = list(checkpoints) or [path.pretrain_network_g or ""]
        if not all(files):
            raise ValueError("Testing requires weights: set 'path.pretrain_network_g' or --checkpoint FILE.")
        folder = Path(path.results_root) / self.options.name
        if self.dist.is_rank_zero:
            remove_temporary_files(folder)
        log = RunLog(folder if self.dist.is_rank_zero else None, 0, tensorboard=False)
        self.results = {}
        problems: list[str] = []
        stems = [Path(file).stem for file in files]
        for number, (file, stem) in enumerate(zip(files, stems, strict=True), start=1):
            if checkpoints:
                load_into(self.model, Path(file))
            else:
                with locate_errors(self.options.where("path"), "pretrain_network_g"):
                    load_into(self.model, Path(file), path.param_key_g, path.strict_load_g)
            label = stem if stems.count(stem) == 1 else f"{stem}_{number}"
            evaluations = [self._evaluate(part, folder, label) for part in self.sets]
            self.results[str(file)] = {evaluation.name: _as_record(evaluation) for evaluation in evaluations}
            log.print(results_table(str(file), evaluations, type(self.model.network).__name__))
            if problem := worse_than_input(self.options, evaluations, trained=False):
                problems.append(f"{file}: {problem}")
        target = folder / "results.json"
        if self.dist.is_rank_zero:
            write_atomically(target, (as_json(self.results, indent=2) + "\n").encode())
        log.log_text(f"results: {target}")
        log.close()
        for problem in problems if self.dist.is_rank_zero else ():
            _LOG.warning("%s", problem)
        return target

    def _evaluate(self, part: EvaluationSet, folder: Path, checkpoint: str) -> Evaluation:
        val = self.options.val
        images = path_inside(folder, f"visualization/{checkpoint}/{part.name}") if val.save_img else None
        evaluation = part.evaluate(self.model.restore, val.pictures, images, f"_{val.suffix}" if val.suffix else "")
        if self.dist.is_rank_zero:
            evaluation.save_comparisons(path_inside(folder, f"comparisons/{checkpoint}"))
        return evaluation


def restoring_model(options: Options, device: torch.device) -> Model:
    """Build the model of an option file on a device, only with what a restoration needs: without losses and optimizer.

    Raises:
        ValueError: the model cannot be built.
    """
    model_class: type[Model] = MODELS.get(options.model_type)
    needed = {"type", *options.networks, *model_class.restore_options}
    section = {key: value for key, value in options.model_section().items() if key in needed}
    model: Model = MODELS.build(section, where=options.where_in_model)
    return model.to(device)


def _as_record(evaluation: Evaluation) -> dict[str, Any]:
    return {
        name: {"mean": score.mean, "of_input": score.of_input, "unit": score.unit, "images": score.images}
        for name, score in evaluation.scores.items()
    }
