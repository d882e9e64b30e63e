"""The end of a training: comparisons, report, results, and the paths of all files."""

import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mcir.config import Options
from mcir.engine.evaluation import Evaluation
from mcir.engine.loggers import RunLog, results_table
from mcir.engine.text_log import TEXT_LOG
from mcir.engine.worse_than_input import worse_than_input
from mcir.report.records import RESULTS
from mcir.report.run import PAGE, write_report

_LOG = logging.getLogger("mcir")


def conclude(log: RunLog, options: Options, checkpoint: Path, evaluations: Sequence[Evaluation]) -> int:
    """Save the side-by-side comparisons and the report, log the results and all files; return the exit status.

    Args:
        log: log of the training.
        options: options of the training.
        checkpoint: weight file of the last iteration.
        evaluations: results of the last validation.
    """
    assert log.folder is not None
    for evaluation in evaluations:
        log.report.write(partial(evaluation.save_comparisons, log.folder / "comparisons"))
    log.close()
    if any(evaluation.scores for evaluation in evaluations):
        log.print(results_table("Validation images", list(evaluations), options.network_g["type"]))
    folder, report = log.folder, log.folder / PAGE
    if options.logger.report:
        try:
            log.report.write(lambda: write_report([folder], report))
        except Exception as error:  # a failed report must not fail the training
            _LOG.warning("The report could not be written (%s); the training is complete.", error, exc_info=True)
    _log_files(log, options, checkpoint, evaluations)
    if nan := not_numbers(evaluations):
        _LOG.error("The results are not numbers (NaN): %s. Do not use this network.", ", ".join(nan))
    if problem := worse_than_input(options, evaluations, trained=True):
        _LOG.warning("%s", problem)
    return int(bool(nan))


def _log_files(log: RunLog, options: Options, checkpoint: Path, evaluations: Sequence[Evaluation]) -> None:
    """Log the paths of the files of this training, the most interesting ones first."""
    assert log.folder is not None
    files = {"checkpoint": checkpoint}
    if options.logger.report:
        files["report"] = log.folder / PAGE
    if any(evaluation.comparisons for evaluation in evaluations):
        files["comparisons"] = log.folder / "comparisons"
    files |= {"results": log.folder / RESULTS, "log": log.folder / TEXT_LOG}
    if options.logger.use_tb_logger:
        files["TensorBoard"] = log.folder / "tb_logger"
    for name, file in files.items():
        if file.exists():
            log.log_text(f"{name + ':':<12} {file}")


def not_numbers(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return descriptions of the mean values that are not numbers."""
    scores = [(part.name, name, score) for part in evaluations for name, score in part.scores.items()]
    return [f"{name} of {data_set}" for data_set, name, score in scores if math.isnan(score.mean)]
