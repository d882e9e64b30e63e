"""Training runs with data, checkpoints and logs."""

import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import torch
from rich.text import Text

from mcir.atomic import check_writable
from mcir.config import Options
from mcir.engine.batches import TrainBatches, loaded_ahead
from mcir.engine.checkpoint import CheckpointError, Checkpoints, NetworkFile, TrainingState, archive_run, load_into
from mcir.engine.conclusion import conclude, not_numbers
from mcir.engine.distributed import DistContext
from mcir.engine.dry_run import check_consistency, dry_run, warn_without_psnr
from mcir.engine.dry_validation import dry_validation
from mcir.engine.environment import record_collapse
from mcir.engine.evaluation import Evaluation, EvaluationInterrupted, evaluation_sets
from mcir.engine.fit import Scalars, fit
from mcir.engine.guard import FiniteGuard, NotFiniteError
from mcir.engine.loggers import RunLog
from mcir.engine.resume import load_first, states_to_resume
from mcir.engine.run_lock import lock_run_dir
from mcir.engine.speed import Speed
from mcir.engine.state_checksum import state_checksum
from mcir.engine.stop import StopRequest
from mcir.engine.text_log import TextLog
from mcir.errors import locate_errors
from mcir.models import Model
from mcir.models.batch import Batch
from mcir.paths import path_inside
from mcir.registry import MODELS
from mcir.report.option_changes import OptionChange, changed_options
from mcir.seeding import seed_generators

_LOG = logging.getLogger("mcir")


class Trainer:
    """A training run.

    Args:
        options: options of the run.
        dist: this process.
        resume: whether to resume from the newest readable checkpoint of the run, if there is one.
        resume_command: command that continues this training, for messages.

    Raises:
        ValueError: the options are inconsistent, or data or weights cannot be read.
    """

    def __init__(
        self, options: Options, dist: DistContext, resume: bool = False, resume_command: str | None = None
    ) -> None:
        if options.train is None or options.datasets.train is None:
            raise ValueError("Training requires the sections 'train' and 'datasets.train' in the option file.")
        self.options = options
        self.dist = dist
        self._resume_command = resume_command
        self.total = options.train.total_iter
        self.folder = Path(options.path.experiments_root) / options.name
        self._resources = ExitStack()
        text_log = self._resources.enter_context(TextLog()) if dist.is_rank_zero else None
        with dist.rank_zero_first():
            if dist.is_rank_zero:
                dry_run(options, dist.world_size)
                check_writable(self.folder)
                self._resources.enter_context(lock_run_dir(self.folder))
        self.checkpoints = Checkpoints(self.folder, options.logger.keep_checkpoints)

        seed_generators((options.manual_seed, dist.rank, 0), dist.device)
        where = options.where("datasets", "train")
        self.batches = TrainBatches(options.datasets.train, options.manual_seed, dist, where)
        self.sets = evaluation_sets(options, "val", dist)
        with dist.rank_zero_first():  # rank 0 downloads the weights of feature networks
            self.model: Model = MODELS.build(options.model_section(), where=options.where_in_model)
        with locate_errors(options.where_in_model):
            self.model.require_trainable()
        check_consistency(options, self.model.network)
        self.iteration = 0
        self.validated = 0  # iteration of the last complete validation
        self.best_by = options.val.best_by or tuple(options.val.metrics)[:1]
        self.best: dict[str, float] = {}  # qualities of the best model
        self.last_evaluations: list[Evaluation] = []
        self._saved: tuple[int, int] | None = None
        self._changes: list[OptionChange] = []  # since the state from which the run resumes
        self.resumed_from = self._initialize_model(
            states_to_resume(self.checkpoints, options.path.resume_state, resume, options.where("path"))
        )
        dist.require_equal("iterations of the training states", lambda: self.iteration)
        with dist.rank_zero_first():
            for part in self.sets if dist.is_rank_zero else ():
                dry_validation(part, self.model)
        if dist.is_rank_zero:
            warn_without_psnr(self.model, self.sets)
            if self.resumed_from is None:
                archive_run(self.folder)
            else:
                self.checkpoints.rewind_to(self.iteration)
        self.stop = StopRequest(dist)
        self.guard = FiniteGuard()
        self.speed = Speed(dist.world_size)
        log_folder = self.folder if dist.is_rank_zero else None
        tensorboard = options.logger.use_tb_logger
        self.log = RunLog(log_folder, self.total, tensorboard, self.iteration, self.validated, text_log)

    def _initialize_model(self, states: Iterator[TrainingState]) -> Path | None:
        """Load the first state that fits, and return its file, or pretrained weights. Move the model to its device."""
        path, first = self.options.path, next(states, None)
        if first is None and path.pretrain_network_g:
            with locate_errors(self.options.where("path"), "pretrain_network_g"):
                load_into(self.model, Path(path.pretrain_network_g), path.param_key_g, path.strict_load_g)
        self.model.to(self.dist.device)
        with locate_errors(self.options.where_in_model):
            self.model.configure_optimizer()
        if first is not None:
            state = load_first(self.model, chain([first], states))
            self._changes = changed_options(state.options, self.options.dump())
            self.iteration = state.iteration
            self.validated = state.iteration if state.validated is None else state.validated
            self.best = state.best_metrics(self.best_by)
        self.model.parallelize(self.dist)
        return None if first is None else state.file

    def train(self) -> int:
        """Train and return the exit status.

        It is 0, or 128 plus the number of the signal that stopped the training, or 1 if the final metrics are NaN.
        """
        with self._resources, record_collapse(self.folder, self.options.dump()):
            self._resources.callback(self.log.close)
            if self.iteration > self.total:
                self.log.log_text(
                    f"Nothing is left to do: {self.resumed_from} is the state of iteration {self.iteration}, and "
                    f"train.total_iter is {self.total}."
                )
                return 0
            with self.stop:
                self._log_start()
                self.log.start(self.iteration)
                is_done = self.iteration == self.total == self.validated
                self.iteration = self._fit()
                with self.stop.watchdog.paused():
                    self.checkpoints.wait()
                    if self.stop.failed and self.iteration < self.total:
                        self.dist.barrier()  # rank 0 has saved
                        self.stop.raise_failure()
                if is_done:
                    self._evaluate_again()
            has_results = bool(self.last_evaluations) == bool(self.sets)
            if self.stop.number and not (self.validated == self.iteration == self.total and has_results):
                self._log_saved(f"Stopped by signal {self.stop.number} after iteration {self.iteration}.")
                return 128 + self.stop.number
            if not self.dist.is_rank_zero:
                return int(bool(not_numbers(self.last_evaluations)))
            checkpoint = self.checkpoints.models / f"net_g_{self.total}.pth"
            return conclude(self.log, self.options, checkpoint, self.last_evaluations)

    def _evaluate_again(self) -> None:
        """Evaluate the final model, because the process that trained it may have been killed before it ended."""
        try:
            self.last_evaluations = self._evaluate(self.total)
        except EvaluationInterrupted:
            for _ in range(2):  # the second call returns the signal in all processes
                self.stop.agreed()

    def _fit(self) -> int:
        logger = self.options.logger
        batches = self.stop.interruptible(self.batches.iterate(self.iteration, self.model.channels_last))
        if self.dist.world_size > 1:
            batches = loaded_ahead(batches, self.stop.latency, self.stop.fail)
        return fit(
            self.model,
            self.speed.timed(batches),
            total=self.total,
            start=self.iteration,
            validate_first=self.validated < self.iteration,
            seed=self.options.manual_seed,
            rank=self.dist.rank,
            log_every=logger.print_freq,
            validate_every=self.options.val.val_freq,
            save_every=logger.save_checkpoint_freq,
            on_step=self._on_step,
            on_log=self._log_scalars,
            on_validation=self._validate,
            on_checkpoint=self._save,
            should_stop=self.stop.agreed,
            on_failure=self._save_before_error,
        )

    def _on_step(self, iteration: int, batch: Batch, scalars: Scalars) -> None:
        self.checkpoints.raise_failure()
        self.guard.record(iteration, scalars, batch["gt_path"])
        if iteration == 1:
            for line in self.model.describe_gradients(scalars):
                self.log.log_text(line)
        self.log.advance(iteration, scalars, self.speed)

    def _log_scalars(self, iteration: int, scalars: Scalars) -> None:
        """Copy the scalars from the device, average them over the processes and log them."""
        self.guard.check()
        names = [name for name in scalars if name != "lr"]
        means = self.dist.mean(torch.stack([scalars[name].float() for name in names])).tolist()
        values = {**dict(zip(names, means, strict=True)), "lr": float(scalars["lr"])}
        self.log.log_scalars(iteration, {name: values[name] for name in scalars}, self.speed)
        self.speed.restart()

    def _validate(self, iteration: int) -> bool:
        """Evaluate the model on all validation sets, and return whether it is the best so far."""
        self._require_finite(iteration)
        try:
            self.last_evaluations = self._evaluate(iteration)
        except EvaluationInterrupted:
            self.log.log_text(f"iteration {iteration}: the validation was stopped, and runs again on resume")
            self.stop.agreed()  # fit calls it again, which returns the signal in all processes
            return False
        self.validated = iteration
        for evaluation in self.last_evaluations:
            self.log.log_evaluation(iteration, evaluation)
        self.speed.restart()
        scores = self.last_evaluations[0].scores if self.last_evaluations else {}
        if not scores:
            return False
        means = {name: score.mean for name, score in scores.items()}
        for score in [score for score in scores.values() if score.unit == "dB"][:1]:
            means["psnr"] = score.mean  # its name in the options is arbitrary
        self.model.after_evaluation(means)
        qualities = {name: scores[name].quality for name in self.best_by}
        if not all(quality > self.best.get(name, -math.inf) for name, quality in qualities.items()):
            return False
        self.best = qualities
        return True

    def _evaluate(self, iteration: int) -> list[Evaluation]:
        val = self.options.val
        return [
            part.evaluate(
                self.model.restore,
                pictures=val.pictures,
                images_to=path_inside(self.folder, f"visualization/{part.name}") if val.save_img else None,
                suffix=f"_{iteration}_{val.suffix}" if val.suffix else f"_{iteration}",
                should_stop=self.stop.is_requested,
                write=self.log.images.write,
            )
            for part in self.sets
        ]

    def _save(self, iteration: int, is_best: bool) -> None:
        if self._saved == (iteration, self.validated):
            return  # the validation was stopped
        with self.stop.watchdog.paused():
            self._require_finite(iteration)
            self.dist.require_equal("weights and negatives", lambda: state_checksum(self.model))
            self._save_here(iteration, is_best)
        self._saved = (iteration, self.validated)

    def _save_before_error(self, iteration: int, error: Exception) -> None:
        """Save what was trained before an error ends the training. Other processes may have ended, or may hang."""
        if isinstance(error, CheckpointError | NotFiniteError) or iteration == 0:
            return
        with self.stop.watchdog.paused():
            if self._saved != (iteration, self.validated):
                self._require_finite(iteration)
                self._save_here(iteration, is_best=False)
            self.checkpoints.wait()
            self._log_saved(f"The training fails after iteration {iteration}.")

    def _log_saved(self, ended: str) -> None:
        """Log how the training ended, and how it can be continued."""
        self.log.log_text(f"{ended} The checkpoint is saved.")
        if self._resume_command:
            self.log.print(Text(f"Continue with: {self._resume_command}"))

    def _save_here(self, iteration: int, is_best: bool) -> None:
        """Save on rank 0."""
        if self.dist.is_rank_zero:
            best = next(iter(self.best.values()), None)
            progress = {"validated": self.validated, "best": best, "best_by": self.best}
            state = {"model": self.model.state_dict(), **progress, "options": self.options.dump()}
            self.checkpoints.save(iteration, state, NetworkFile.of(self.model), is_best)

    def _require_finite(self, iteration: int) -> None:
        """Check the losses since the last check, and the weights: a checkpoint is never written of NaN.

        Raises:
            NotFiniteError: a loss or a weight is not finite.
        """
        self.guard.check()
        if names := self.model.not_finite():
            raise NotFiniteError(iteration, names)

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
        processes = f"{self.dist.world_size} × " if self.dist.world_size > 1 else ""
        start = f"from iteration {self.iteration} " if self.iteration else ""
        steps = "all iterations are done" if self.iteration == self.total else f"{start}to iteration {self.total}"
        self.log.log_text(
            f"{self.options.name}: {facts['model']} trains {facts['network']} ({facts['parameters']:,} parameters) on "
            f"{processes}{self.dist.device} with {self.batches.images} images, {steps}"
        )
        if processes:
            minutes = self.options.dist_params.timeout_minutes
            self.log.log_text(
                f"A process fails if it waits {minutes:g} minutes for another one (dist_params.timeout_minutes)."
            )
        self.log.log_changes(self._changes)
        self.log.record_start(self.options.dump(), facts)
