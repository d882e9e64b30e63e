"""Evaluate the trained networks of a table, and cache the results."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mcir
from mcir.config import DatasetOptions, Options
from mcir.config.options import thaw
from mcir.engine.distributed import init_distributed
from mcir.engine.tester import Tester
from mcir.launch import Log
from mcir.tables.cache import RunCache
from mcir.tables.datasets import present_sets, sets_to_evaluate
from mcir.tables.runs import TableRun


@dataclass(frozen=True)
class RunResult:
    """The results of one training of a table.

    Attributes:
        run: training.
        options: options of the evaluation.
        checkpoint: weight file.
        scores: scores by data set and metric, for the data sets that exist on this machine.
        problem: reason why existing data sets have no scores; may be empty.
        differences: options that differ between the training and the row; None: unknown.
    """

    run: TableRun
    options: Options
    checkpoint: Path
    scores: dict[str, dict[str, Any]]
    problem: str
    differences: list[str] | None

    @property
    def is_own(self) -> bool:
        """Whether the weights are from our own training; otherwise they are published weights."""
        return self.options is self.run.options

    @property
    def is_complete(self) -> bool:
        """Whether all data sets have scores, from published weights or from a training with the options of the row."""
        return not self.differences and len(self.scores) == len(sets_to_evaluate(self.options))

    def mean(self, data_set: str, metric: str) -> float | None:
        """Return the mean of a metric over a data set; None if there is none."""
        score = select_metric(self.scores.get(data_set, {}), metric)
        return None if score is None else float(score["mean"])

    def is_below_input(self, data_set: str, metric: str) -> bool:
        """Return whether a training of ours has a lower mean of a metric than the degraded images, or NaN."""
        score = select_metric(self.scores.get(data_set, {}), metric)
        return self.is_own and score is not None and not float(score["mean"]) >= float(score["of_input"])


def evaluate_run(run: TableRun, again: bool, log: Log) -> RunResult | None:
    """Evaluate a training by the protocol of its option file, on the data sets that exist; None without weights.

    ``again`` ignores cached results.
    """
    found = run.to_evaluate()
    if found is None:
        return None
    options, checkpoint = found
    parts = present_sets(options)
    digests = {part.name: _digest(options, part, checkpoint) for part in parts.values()}
    cache, problem = RunCache(Path(options.path.results_root) / options.name / "evaluated.jsonl"), ""
    known = {name: cache.records.get(key, {}).get("scores") for name, key in digests.items()}
    missing = {key: part for key, part in parts.items() if again or not known[part.name]}
    if missing:
        log(f"{run.row.name}: evaluating {checkpoint} on {', '.join(part.name for part in missing.values())}")
        try:
            results = _test(options, missing, checkpoint)
        except (ValueError, OSError) as error:  # the other rows are still evaluated
            problem = f"cannot be evaluated: {error}"
        else:
            for name in (part.name for part in missing.values()):
                facts = {"fingerprint": digests[name], "checkpoint": str(checkpoint), "set": name}
                cache.add({**facts, "scores": results[name]})
                known[name] = results[name]
    scores = {name: cached for name, cached in known.items() if cached}
    return RunResult(run, options, checkpoint, scores, problem, run.differences() if options is run.options else [])


def _test(options: Options, parts: dict[str, DatasetOptions], checkpoint: Path) -> dict[str, Any]:
    key = "test" if options.datasets.test else "val"
    chosen = options.model_copy(update={"datasets": options.datasets.model_copy(update={key: parts})})
    with init_distributed(options.num_gpu, options.dist_params) as dist:
        tester = Tester(chosen, dist)
        tester.test([str(checkpoint)])
    results: dict[str, Any] = tester.results[str(checkpoint)]
    return results


def _digest(options: Options, part: DatasetOptions, checkpoint: Path) -> str:
    """Return a digest of everything that the scores of an evaluation depend on."""
    file = checkpoint.stat()
    facts = {
        "mcir": mcir.__version__,
        "weights": [str(checkpoint), file.st_size, file.st_mtime_ns],
        "model": thaw(options.model_section()),
        "metrics": thaw(options.val.metrics),
        "data": [part.name, thaw(part.section)],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def select_metric(scores: dict[str, Any], metric: str) -> Any:
    """Return the score of a metric or of a variant of it: ``psnr`` selects ``psnr`` or ``psnr_y``."""
    return next((score for key, score in scores.items() if key == metric or key.startswith(f"{metric}_")), None)
