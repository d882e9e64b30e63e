"""What trained networks of a table measure: evaluated once for the same weights, protocol and version, and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mcir
from mcir.atomic import write_atomically
from mcir.config import DatasetOptions, Options
from mcir.config.schema import thaw
from mcir.engine.distributed import init_distributed
from mcir.engine.loggers import as_json
from mcir.engine.tester import Tester
from mcir.tables.plan import Job, evaluation_parts, missing_paths

Say = Callable[[str], None]
_Kept = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Evaluated:
    """The results of a training.

    Attributes:
        job: the training.
        options: what it was evaluated with.
        checkpoint: the weights.
        sets: scores by data set and metric, of the sets that are here.
        problem: why sets that are here have no scores.
        otherwise: how its training differs from what the row says; None: nobody knows.
    """

    job: Job
    options: Options
    checkpoint: Path
    sets: dict[str, dict[str, Any]]
    problem: str
    otherwise: list[str] | None

    @property
    def is_own(self) -> bool:
        """Whether the weights are of a training of ours, not published ones."""
        return self.options is self.job.options

    @property
    def is_whole(self) -> bool:
        """Whether every set of the row has its scores, of a training as the row says or of published weights."""
        return not self.otherwise and len(self.sets) == len(evaluation_parts(self.options))

    def score(self, data_set: str, metric: str) -> float | None:
        """Return the mean of a column, or None."""
        score = column_of(self.sets.get(data_set, {}), metric)
        return None if score is None else float(score["mean"])


def evaluate(job: Job, again: bool, say: Say) -> Evaluated | None:
    """Evaluate by the protocol of the option file on the sets that are here, or read what is known already.

    Args:
        job: the training.
        again: evaluate, too, what is known.
        say: takes what is to be told.

    Returns:
        None where there is nothing to evaluate.
    """
    found = job.to_evaluate()
    if found is None:
        return None
    options, checkpoint = found
    here = {key: part for key, part in evaluation_parts(options).items() if not missing_paths([part])}
    digests = {part.name: _digest(options, part, checkpoint) for part in here.values()}
    target = Path(options.path.results_root) / options.name / "evaluated.json"
    kept, problem = _read(target), ""
    lacking = {key: part for key, part in here.items() if again or digests[part.name] not in kept}
    if lacking:
        say(f"{job.row.name}: evaluates {checkpoint} on {', '.join(part.name for part in lacking.values())}")
        try:
            results = _test(options, lacking, checkpoint)
        except (ValueError, OSError) as error:  # of this row alone: the others go on
            problem = f"cannot be evaluated: {error}"
        else:
            names = {part.name for part in lacking.values()}
            of_this = {"checkpoint": str(checkpoint)}
            kept = {
                **{key: e for key, e in kept.items() if e["checkpoint"] != str(checkpoint) or e["set"] not in names},
                **{digests[name]: {**of_this, "set": name, "scores": results[name]} for name in names},
            }
            write_atomically(target, (as_json(kept, indent=2) + "\n").encode())
    sets = {name: kept[digest]["scores"] for name, digest in digests.items() if digest in kept}
    return Evaluated(job, options, checkpoint, sets, problem, job.otherwise() if options is job.options else [])


def _test(options: Options, parts: dict[str, DatasetOptions], checkpoint: Path) -> dict[str, Any]:
    key = "test" if options.datasets.test else "val"
    chosen = options.model_copy(update={"datasets": options.datasets.model_copy(update={key: parts})})
    with init_distributed(options.num_gpu, options.dist_params) as process:
        file = Tester(chosen, process).test([str(checkpoint)])
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))[str(checkpoint)]
    return results


def _digest(options: Options, part: DatasetOptions, checkpoint: Path) -> str:
    """Return what two evaluations have in common whose scores are the same."""
    file = checkpoint.stat()
    conditions = {
        "mcir": mcir.__version__,
        "weights": [str(checkpoint), file.st_size, file.st_mtime_ns],
        "model": thaw(options.model_section()),
        "metrics": thaw(options.val.metrics),
        "data": [part.name, thaw(part.section)],
    }
    return hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:16]


def _read(file: Path) -> _Kept:
    """Return what was evaluated before; a file that is not there or damaged knows nothing."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    wanted = {"checkpoint", "set", "scores"}
    entries = found.items() if isinstance(found, dict) else ()
    return {key: entry for key, entry in entries if isinstance(entry, dict) and wanted <= entry.keys()}


def column_of(scores: dict[str, Any], metric: str) -> Any:
    """Return the score of a column: ``psnr`` is the option file's ``psnr``, or its ``psnr_y``."""
    return next((score for key, score in scores.items() if key == metric or key.startswith(f"{metric}_")), None)
