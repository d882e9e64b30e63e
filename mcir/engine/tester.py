"""Testing: checkpoints × data sets → a table and a JSON file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcir.atomic import write_atomically
from mcir.config import Options
from mcir.engine.checkpoint import load_into
from mcir.engine.distributed import DistContext
from mcir.engine.evaluation import Evaluation, EvaluationSet, evaluation_sets
from mcir.engine.loggers import RunLog, as_json, results_table
from mcir.models import Model
from mcir.registry import MODELS
from mcir.report.comparison import save_picture


class Tester:
    """Evaluates checkpoints of one network on every test set of an option file (its validation sets if it has none).

    Args:
        options: the checked option file.
        dist: this process; each takes its share of the images.

    Raises:
        ValueError: there is no set to test on, or data cannot be read.
    """

    def __init__(self, options: Options, dist: DistContext) -> None:
        self.options = options
        self.dist = dist
        self.sets = evaluation_sets(options, "test" if options.datasets.test else "val", dist)
        if not self.sets:
            raise ValueError(
                "Testing needs a data set: give 'datasets.test' (or 'test_1', 'test_2', …) in the options."
            )
        if not options.val.metrics:
            raise ValueError("Testing needs 'val.metrics', like {psnr: {type: PSNR, crop_border: 4}}.")
        whole = options.model_section()
        needed = {"type", *options.networks, *getattr(MODELS.get(options.model_type), "restores_by", ())}
        section = {key: value for key, value in whole.items() if key in needed}
        self.model: Model = MODELS.build(section, where=options.where_in_model)
        self.model.to(dist.device)

    def test(self, checkpoints: Sequence[str] = ()) -> Path:
        """Evaluate the weight files, or ``path.pretrain_network_g``, and return the file of the results.

        ``path.param_key_g`` and ``path.strict_load_g`` tell of ``path.pretrain_network_g`` alone: of another file the
        weights that restore best are tested, and all must fit.

        Raises:
            ValueError: no weight file is named, or one does not fit the network.
        """
        path = self.options.path
        files = list(checkpoints) or [path.pretrain_network_g or ""]
        if not all(files):
            raise ValueError("Testing needs weights: give 'path.pretrain_network_g' or --checkpoint FILE.")
        folder = Path(path.results_root) / self.options.name
        log = RunLog(folder if self.dist.is_rank_zero else None, 0, tensorboard=False)
        results: dict[str, Any] = {}
        for number, file in enumerate(files):
            if checkpoints:
                load_into(self.model, Path(file))
            else:
                load_into(self.model, Path(file), path.param_key_g, path.strict_load_g)
            stems = [Path(other).stem for other in files]
            label = stems[number] if stems.count(stems[number]) == 1 else f"{stems[number]}_{number + 1}"
            evaluations = [self._evaluate(part, folder, label) for part in self.sets]
            results[str(file)] = {evaluation.name: _as_record(evaluation) for evaluation in evaluations}
            log.console.print(results_table(str(file), evaluations, type(self.model.network).__name__))
        target = folder / "results.json"
        if self.dist.is_rank_zero:
            write_atomically(target, (as_json(results, indent=2) + "\n").encode())
        log.text(f"results: {target}")
        log.close()
        return target

    def _evaluate(self, part: EvaluationSet, folder: Path, checkpoint: str) -> Evaluation:
        val = self.options.val
        images = folder / "visualization" / checkpoint / part.name if val.save_img else None
        evaluation = part.evaluate(self.model.restore, val.pictures, images, f"_{val.suffix}" if val.suffix else "")
        if self.dist.is_rank_zero:
            for name, drawn in evaluation.pictures.items():
                save_picture(drawn, folder / "comparisons" / checkpoint / part.name, name)
        return evaluation


def _as_record(evaluation: Evaluation) -> dict[str, Any]:
    return {
        name: {"mean": score.mean, "of_input": score.of_input, "unit": score.unit, "images": score.images}
        for name, score in evaluation.scores.items()
    }
