"""The proxy evaluation: what pre-trained weights are worth, told by a new last layer trained on few labels.

"Residual Contrastive Learning for Image Reconstruction", IJCAI 2022, arXiv:2106.10070: all but the last layer of the
pre-trained network is frozen, a new one is trained by L1 on labelled images, and the result is measured on others.
``finetune`` trains all weights instead (Table 3). The same images, steps and seeds go to every row.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from mcir.atomic import write_atomically
from mcir.config import Options
from mcir.engine.checkpoint import load_into
from mcir.engine.distributed import init_distributed
from mcir.engine.evaluation import Evaluation, evaluation_sets
from mcir.engine.loggers import as_json
from mcir.engine.run_lock import lock_run_dir
from mcir.engine.trainer import Trainer
from mcir.registry import MODELS
from mcir.report.records import read_records
from mcir.tables.formatting import counted
from mcir.tables.pool import run_parallel, worker_count
from mcir.tables.proxy_plan import (
    PRETRAINED_HERE,
    TASKS,
    ProxySettings,
    Trial,
    check,
    planned,
    pretrainings,
    rows_without,
)
from mcir.tables.proxy_report import Result, summary, tell
from mcir.tables.records import end_last_line

Say = Callable[[str], None]


def proxy(settings: ProxySettings, say: Say = print) -> int:
    """Evaluate weights, write the results as JSON and as a table, and return 0.

    Raises:
        ValueError: as :func:`run_proxy` says, or no result can be had.
    """
    check(settings)
    if set(settings.labels) == {0} and len(rows_without(settings)) == len(settings.weights):
        raise ValueError("No row has weights for the task as they are: give such a file, or more than 0 labels.")
    results = run_proxy(settings, say)
    name = f"proxy_{settings.task}{'_finetuned' * settings.finetune}"
    own = {key: value for key, value in asdict(settings).items() if key not in ("data", "test", "results", "jobs")}
    data = {"settings": own, "rows": summary(results), "results": [asdict(result) for result in results]}
    target = settings.results / f"{name}.json"
    write_atomically(target, (as_json(data, indent=2) + "\n").encode())
    report = tell(results, settings)
    say(report.as_markdown())
    for path in [target, *report.write(settings.results, name)]:
        say(f"results: {path}")
    return 0


def run_proxy(settings: ProxySettings, say: Say = print) -> list[Result]:
    """Make all trainings that are not yet in ``runs.jsonl``, and return all results: row by row, trial by trial.

    Raises:
        ValueError: settings that make no sense, weights or data that cannot be read, or the folder is in use.
        SystemExit: a signal stopped a training; the same call goes on from there.
    """
    check(settings)
    jobs = worker_count(settings.jobs)
    with lock_run_dir(settings.results):
        trials = planned(settings, _pretrained(settings, say))
        settings.results.mkdir(parents=True, exist_ok=True)
        file = settings.results / "runs.jsonl"
        known = _known(file)
        by_print = {trial.fingerprint(): trial for trial in trials}
        waiting = [trial for key, trial in by_print.items() if key not in known]
        say(f"proxy {settings.task}: {counted(len(trials), 'training')}, {len(waiting)} of them to be made")
        begin = time.perf_counter()
        end_last_line(file)
        with file.open("a", encoding="utf-8") as lines:
            for count, result in enumerate(run_parallel(run_trial, waiting, jobs), start=1):
                known[result.fingerprint] = asdict(result)
                lines.write(as_json(known[result.fingerprint]) + "\n")
                lines.flush()
                left = (time.perf_counter() - begin) / count * (len(waiting) - count)
                say(
                    f"{count}/{len(waiting)}  {result.weights}, {_labels(result)}, trial {result.trial}: "
                    f"{result.psnr:.3f} dB in {result.seconds:.1f} s, about {left / 60:.0f} min left"
                )
        return [_result(known[trial.fingerprint()], trial.name) for trial in trials]


def known_results(settings: ProxySettings) -> list[Result]:
    """Return those results of :func:`run_proxy` that are in ``runs.jsonl``, and make none.

    Raises:
        ValueError: settings that make no sense, weights or data that cannot be read.
    """
    check(settings)
    made = {name: _weights_of(trial, settings) for name, trial in pretrainings(settings).items()}
    made = {name: file for name, file in made.items() if file.is_file()}
    rows = [row for row in settings.weights if row in made or row not in PRETRAINED_HERE]
    known = _known(settings.results / "runs.jsonl")
    trials = planned(replace(settings, weights=rows), made) if rows else []
    prints = [(trial.fingerprint(), trial.name) for trial in trials]
    return [_result(known[key], name) for key, name in prints if key in known]


def run_trial(trial: Trial) -> Result:
    """Make one training from its first weights to its evaluation, and leave nothing of it but the result.

    Raises:
        SystemExit: a signal stopped it.
    """
    begin, options = time.perf_counter(), trial.options()
    evaluation = evaluated(options) if trial.labels == 0 else trained(options)[1][0]
    shutil.rmtree(trial.folder, ignore_errors=True)
    psnr, ssim = evaluation.scores["psnr"], evaluation.scores["ssim"]
    return Result(
        fingerprint=trial.fingerprint(),
        weights=trial.name,
        task=trial.task,
        finetune=trial.finetune,
        labels=trial.labels,
        trial=trial.seed,
        psnr=psnr.mean,
        ssim=ssim.mean,
        psnr_of_input=psnr.of_input,
        ssim_of_input=ssim.of_input,
        images=psnr.images,
        seconds=time.perf_counter() - begin,
    )


def trained(options: Options) -> tuple[Path, list[Evaluation]]:
    """Train as options say, or go on with it, and return the weight file and the last evaluations.

    What the training tells goes into ``log.txt`` beside its folder.

    Raises:
        ValueError: the options do not fit together, data or weights cannot be read.
        SystemExit: a signal stopped it; its checkpoint is saved.
    """
    root = Path(options.path.experiments_root)
    root.mkdir(parents=True, exist_ok=True)
    with (
        (root / "log.txt").open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        init_distributed(options.num_gpu, options.dist_params) as process,
    ):
        trainer = Trainer(options, process, resume=True)
        if status := trainer.train():
            raise SystemExit(status)
        # one that a signal stopped after the last step has its weights, but no evaluation
        evaluations = trainer.last_evaluations or [part.evaluate(trainer.model.restore) for part in trainer.sets]
    return trainer.checkpoints.models / f"net_g_{trainer.total}.pth", evaluations


def evaluated(options: Options) -> Evaluation:
    """Evaluate the weights that options name, as they are.

    Raises:
        ValueError: weights or data cannot be read, or do not fit.
    """
    with init_distributed(options.num_gpu, options.dist_params) as process:
        (held_out,) = evaluation_sets(options, "val", process)
        model = MODELS.build({"type": "RestorationModel", "network_g": options.network_g}).to(process.device)
        load_into(model, Path(options.path.pretrain_network_g or ""), options.path.param_key_g)
        return held_out.evaluate(model.restore)


def _pretrained(settings: ProxySettings, say: Say) -> dict[str, Path]:
    """Return the weights of the supervised pre-trainings that rows need, after making those that are not there."""
    files = {}
    for name, trial in pretrainings(settings).items():
        files[name] = _weights_of(trial, settings)
        if not files[name].is_file():
            steps = counted(settings.pretrain_steps, "step")
            say(f"{name}: supervised pre-training, {TASKS[trial.task].title}, {steps}")
            trained(trial.options())
    return files


def _weights_of(pretraining: Trial, settings: ProxySettings) -> Path:
    """Return where a supervised pre-training leaves its weights."""
    return pretraining.folder / "pretrained/models" / f"net_g_{settings.pretrain_steps}.pth"


def _known(file: Path) -> dict[str, dict[str, Any]]:
    """Return the records of results in a file, by their fingerprints; what is no result is passed over."""
    names = {field.name for field in fields(Result)}
    return {record["fingerprint"]: record for record in read_records(file) if names <= record.keys()}


def _result(record: dict[str, object], row: str) -> Result:
    """Return the result that a record holds, of the row as it is called now."""
    values = {field.name: record[field.name] for field in fields(Result)} | {"weights": row}
    values |= {key: float(str(values[key])) for key in ("psnr", "psnr_of_input")}  # an infinite one is written "inf"
    return Result(**values)  # type: ignore[arg-type]


def _labels(result: Result) -> str:
    return "all labels" if result.labels is None else counted(result.labels, "label")
