"""The training loop, and training runs with data, checkpoints and logs."""

import logging
import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcir.config import Options
from mcir.engine.batches import TrainBatches
from mcir.engine.checkpoint import Checkpoints, NetworkFile, archive_run, load_into, state_to_resume
from mcir.engine.distributed import DistContext, StopRequest, state_checksum
from mcir.engine.dry_run import check_consistency, dry_run, warn_without_psnr
from mcir.engine.environment import record_start
from mcir.engine.evaluation import Evaluation, evaluation_sets
from mcir.engine.guard import FiniteGuard
from mcir.engine.loggers import RunLog, Speed, results_table
from mcir.engine.run_lock import lock_run_dir
from mcir.engine.seeding import seed_iteration
from mcir.errors import locate_errors
from mcir.models import Model
from mcir.models.batch import Batch
from mcir.registry import MODELS
from mcir.report.records import RESULTS, changed_lines
from mcir.report.run import PAGE, write_report

_LOG = logging.getLogger("mcir")
Scalars = dict[str, Tensor]


def fit(
    model: Model,
    batches: Iterable[Batch],
    *,
    total: int,
    start: int = 0,
    seed: int = 0,
    rank: int = 0,
    log_every: int | None = None,
    validate_every: int | None = None,
    save_every: int | None = None,
    on_step: Callable[[int, Batch, Scalars], None] | None = None,
    on_log: Callable[[int, Scalars], None] | None = None,
    on_validation: Callable[[int], bool | None] | None = None,
    on_checkpoint: Callable[[int, bool], None] | None = None,
    should_stop: Callable[[], object] | None = None,
) -> int:
    """Train a model and return the last iteration.

    Iterations are 1-based. Callbacks with an interval are also called after the last iteration; without an interval,
    they are never called.

    Args:
        model: model, on its device.
        batches: batches on the same device, starting with that of iteration ``start + 1``.
        total: number of iterations.
        start: number of iterations that are already done.
        seed: seed for all random numbers of a step; see :func:`~mcir.engine.seeding.seed_iteration`.
        rank: index of this process.
        log_every: interval of ``on_log``.
        validate_every: interval of ``on_validation``.
        save_every: interval of ``on_checkpoint``.
        on_step: function of iteration, batch and scalars (on the device), called after every step.
        on_log: function of iteration and scalars, which include the gradients of each loss at these iterations.
        on_validation: function of the iteration that returns whether the model is the best so far.
        on_checkpoint: function of the iteration and of whether the model is the best so far. It is also called when
            the model is the best so far, and when training stops early.
        should_stop: function that is called after every step. If it returns a true value, training stops.
    """

    def is_due(interval: int | None) -> bool:
        return interval is not None and (iteration % interval == 0 or iteration == total)

    model.total_iter = total
    batches = iter(batches)
    for iteration in range(start + 1, total + 1):
        batch = next(batches)
        seed_iteration(seed, rank, iteration, model.device)
        model.watch_gradients = is_due(log_every) or iteration == 1
        scalars = model.training_step(batch, iteration)
        if on_step:
            on_step(iteration, batch, scalars)
        if on_log and is_due(log_every):
            on_log(iteration, scalars)
        is_best = bool(on_validation and is_due(validate_every) and on_validation(iteration))
        stops = bool(should_stop and should_stop())
        if on_checkpoint and (is_best or stops or is_due(save_every)):
            on_checkpoint(iteration, is_best)
        if stops:
            return iteration
    return total


class Trainer:
    """A training run.

    Args:
        options: options of the run.
        dist: this process.
        resume: whether to resume from the newest readable checkpoint of the run, if there is one.

    Raises:
        ValueError: the options are inconsistent, or data or weights cannot be read.
    """

    def __init__(self, options: Options, dist: DistContext, resume: bool = False) -> None:
        if options.train is None or options.datasets.train is None:
            raise ValueError("Training requires the sections 'train' and 'datasets.train' in the option file.")
        self.options = options
        self.dist = dist
        self.total = options.train.total_iter
        self.folder = Path(options.path.experiments_root) / options.name
        self._resources = ExitStack()
        with dist.rank_zero_first():
            if dist.is_rank_zero:
                dry_run(options, dist.world_size)
                self._resources.enter_context(lock_run_dir(self.folder))
        self.checkpoints = Checkpoints(self.folder, options.logger.keep_checkpoints)
        state = state_to_resume(self.checkpoints, options.path.resume_state, resume)

        seed_iteration(options.manual_seed, dist.rank, 0, dist.device)
        where = options.where("datasets", "train")
        self.batches = TrainBatches(options.datasets.train, options.manual_seed, dist, where)
        self.sets = evaluation_sets(options, "val", dist)
        with dist.rank_zero_first():  # rank 0 downloads the weights of feature networks
            self.model: Model = MODELS.build(options.model_section(), where=options.where_in_model)
        with locate_errors(options.where_in_model):
            self.model.require_trainable()
        check_consistency(options, self.model.network)
        self.iteration = 0
        self.best: float | None = None
        self.last_evaluations: list[Evaluation] = []
        self._initialize_model(state)
        if dist.is_rank_zero:
            warn_without_psnr(self.model, self.sets)
            if state is None:
                archive_run(self.folder)
            else:
                self.checkpoints.rewind_to(self.iteration)
        self.guard = FiniteGuard()
        self.speed = Speed(dist.world_size)
        log_folder = self.folder if dist.is_rank_zero else None
        self.log = RunLog(log_folder, self.total, options.logger.use_tb_logger, self.iteration)

    def _initialize_model(self, state: dict[str, Any] | None) -> None:
        """Load pretrained weights or a state, and move the model to its device."""
        path = self.options.path
        if state is None and path.pretrain_network_g:
            load_into(self.model, Path(path.pretrain_network_g), path.param_key_g, path.strict_load_g)
        self.model.to(self.dist.device)
        with locate_errors(self.options.where_in_model):
            self.model.configure_optimizer()
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.iteration, self.best = state["iteration"], state["best"]
            if changes := changed_lines(state["options"], self.options.dump()):
                _LOG.info("The options differ from those of the checkpoint:\n  %s", "\n  ".join(changes))
        self.model.parallelize(self.dist)

    def train(self) -> int:
        """Train and return the exit status: 0, or 128 plus the number of the signal that stopped the training."""
        logger = self.options.logger
        with self._resources, StopRequest(self.dist) as stop:
            self._resources.callback(self.log.close)
            self._log_start()
            self.log.start(self.iteration)
            self.iteration = fit(
                self.model,
                self.speed.timed(self.batches.iterate(self.iteration, self.model.channels_last)),
                total=self.total,
                start=self.iteration,
                seed=self.options.manual_seed,
                rank=self.dist.rank,
                log_every=logger.print_freq,
                validate_every=self.options.val.val_freq,
                save_every=logger.save_checkpoint_freq,
                on_step=self._on_step,
                on_log=self._log_scalars,
                on_validation=self._validate,
                on_checkpoint=self._save,
                should_stop=stop.agreed,
            )
            self.checkpoints.wait()
            if stop.number:
                stopped = f"Stopped by signal {stop.number} after iteration {self.iteration}."
                self.log.log_text(f"{stopped} The checkpoint is saved.")
                return 128 + stop.number
            self._log_end()
            return 0

    def _on_step(self, iteration: int, batch: Batch, scalars: Scalars) -> None:
        self.checkpoints.raise_failure()
        self.guard.record(iteration, scalars, batch["gt_path"])
        if iteration == 1:
            for line in self.model.describe_gradients(scalars):
                self.log.log_text(line)
        self.log.advance(iteration)

    def _log_scalars(self, iteration: int, scalars: Scalars) -> None:
        """Copy the scalars from the device, average them over the processes and log them."""
        self.guard.check()
        names = [name for name in scalars if name != "lr"]
        means = self.dist.mean(torch.stack([scalars[name].float() for name in names])).tolist()
        values = {**dict(zip(names, means, strict=True)), "lr": float(scalars["lr"])}
        self.log.log_scalars(iteration, {name: values[name] for name in scalars}, self.speed)
        self.speed.restart()

    def _validate(self, iteration: int) -> bool:
        """Evaluate the model on all validation sets, and return whether it is the best so far.

        The first metric of the first set decides. If the evaluation fails, the model is saved before the error.
        """
        self.guard.check()
        try:
            self.last_evaluations = self._evaluate(iteration)
        except Exception:
            if self.dist.world_size == 1:
                self._save(iteration, is_best=False)
                self.checkpoints.wait()
            raise
        for evaluation in self.last_evaluations:
            self.log.log_evaluation(iteration, evaluation)
        self.speed.restart()
        scores = list(self.last_evaluations[0].scores.values()) if self.last_evaluations else []
        if not scores:
            return False
        means = {name: score.mean for name, score in self.last_evaluations[0].scores.items()}
        for score in [score for score in scores if score.unit == "dB"][:1]:
            means["psnr"] = score.mean  # its name in the options is arbitrary
        self.model.after_evaluation(means)
        quality = scores[0].mean if scores[0].higher_is_better else -scores[0].mean
        if math.isnan(quality) or (self.best is not None and quality <= self.best):
            return False
        self.best = quality
        return True

    def _evaluate(self, iteration: int) -> list[Evaluation]:
        val = self.options.val
        return [
            part.evaluate(
                self.model.restore,
                pictures=val.pictures,
                images_to=self.folder / "visualization" / part.name if val.save_img else None,
                suffix=f"_{iteration}_{val.suffix}" if val.suffix else f"_{iteration}",
            )
            for part in self.sets
        ]

    def _save(self, iteration: int, is_best: bool) -> None:
        self.guard.check()
        self.dist.require_equal("weights and negatives", lambda: state_checksum(self.model))
        if self.dist.is_rank_zero:
            state = {"model": self.model.state_dict(), "best": self.best, "options": self.options.dump()}
            self.checkpoints.save(iteration, state, NetworkFile.of(self.model), is_best)

    def _log_start(self) -> None:
        """Log and record the model, the device and the number of images."""
        facts = {
            "iteration": self.iteration,
            "total_iter": self.total,
            "model": type(self.model).__name__,
            "network": type(self.model.network).__name__,
            "parameters": sum(parameter.numel() for parameter in self.model.network.parameters()),
            "images": self.batches.images,
            "processes": self.dist.world_size,
            "device": self.dist.device,
        }
        start = f"from iteration {self.iteration} " if self.iteration else ""
        processes = f"{self.dist.world_size} × " if self.dist.world_size > 1 else ""
        self.log.log_text(
            f"{self.options.name}: {facts['model']} trains {facts['network']} ({facts['parameters']:,} parameters) on "
            f"{processes}{self.dist.device} with {self.batches.images} images, {start}to iteration {self.total}"
        )
        if self.dist.is_rank_zero:
            record_start(self.folder, self.options.dump(), facts)

    def _log_end(self) -> None:
        """Save the side-by-side comparisons and the report, and log the results and the paths of all files."""
        if not self.dist.is_rank_zero:
            return
        files = {"checkpoint": self.checkpoints.models / f"net_g_{self.total}.pth", "results": self.folder / RESULTS}
        if self.options.logger.use_tb_logger:
            files["TensorBoard"] = self.folder / "tb_logger"
        for evaluation in self.last_evaluations:
            evaluation.save_comparisons(self.folder / "comparisons")
        if any(evaluation.comparisons for evaluation in self.last_evaluations):
            files["comparisons"] = self.folder / "comparisons"
        self.log.close()
        if any(evaluation.scores for evaluation in self.last_evaluations):
            network = type(self.model.network).__name__
            self.log.console.print(results_table("Validation images", self.last_evaluations, network))
        if self.options.logger.report:
            try:
                write_report([self.folder], self.folder / PAGE)
                files["report"] = self.folder / PAGE
            except Exception as error:  # a failed report must not fail the training
                _LOG.warning("The report could not be written (%s); the training is complete.", error, exc_info=True)
        for name, file in files.items():
            self.log.log_text(f"{name + ':':<12} {file}")
