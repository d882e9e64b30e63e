"""The training loop, and what a run needs around it."""

import logging
import math
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mcir.config import Options
from mcir.engine.batches import TrainBatches
from mcir.engine.checkpoint import CheckpointError, Checkpoints, NetworkFile, load_into, read_state
from mcir.engine.distributed import DistContext, StopRequest
from mcir.engine.dry_run import dry_run
from mcir.engine.environment import record_start
from mcir.engine.evaluation import Evaluation, evaluation_sets
from mcir.engine.guard import FiniteGuard
from mcir.engine.loggers import RunLog, Speed, results_table
from mcir.engine.run_lock import hold
from mcir.models import Model
from mcir.network_spec import spec_of
from mcir.registry import MODELS
from mcir.report.comparison import save_picture
from mcir.report.records import changed_lines
from mcir.report.run import PAGE, write_report

_LOG = logging.getLogger("mcir")


class Trainer:
    """One run: a model, its data and its checkpoints.

    Args:
        options: the checked option file.
        process: this process among those of the run.
        resume: continue from the newest good checkpoint of the run's folder, if there is one.

    Raises:
        ValueError: the options do not fit together, data or weights cannot be read.
    """

    def __init__(self, options: Options, process: DistContext, resume: bool = False) -> None:
        if options.train is None or options.datasets.train is None:
            raise ValueError("Training needs the sections 'train' and 'datasets.train' in the option file.")
        self.options = options
        self._resolved = options.dump()
        self.process = process
        self.total = options.train.total_iter
        self.folder = Path(options.path.experiments_root) / options.name
        with process.rank_zero_first():
            if process.is_rank_zero:
                dry_run(options, process.world_size)
            self.lock = hold(self.folder) if process.is_rank_zero else None
        self.checkpoints = Checkpoints(self.folder, options.logger.keep_checkpoints)
        state = self._state_to_resume(resume)

        _seed_everything(options.manual_seed + process.rank)
        self.batches = TrainBatches(
            options.datasets.train, options.manual_seed, process, where=options.where("datasets", "train")
        )
        self.sets = evaluation_sets(options, "val", process)
        with process.rank_zero_first():
            self.model: Model = MODELS.build(options.model_section(), where=options.where_in_model)
        self.model.total_iter = self.total
        self.model.require_trainable()
        require_fit(options, self.model)
        if self.model.follows_psnr and process.is_rank_zero:
            self._warn_without_psnr()
        self.iteration = 0
        self.best: float | None = None
        if state is None:
            self._start_from_pretrained()
        self.model.to(process.device)
        if state is not None:
            self._load_state(state)
            if process.is_rank_zero:
                self.checkpoints.go_back_to(self.iteration)
        self.model.parallelize(process)
        self.batches.begin(self.iteration, self.model.channels_last)
        self.guard = FiniteGuard()
        self.speed = Speed()
        self.last_evaluations: list[Evaluation] = []
        if state is None and process.is_rank_zero:
            _put_aside(self.folder)
        folder = self.folder if process.is_rank_zero else None
        self.log = RunLog(folder, self.total, options.logger.use_tb_logger, self.iteration)

    def _warn_without_psnr(self) -> None:
        """Tell when no validation moves the curriculum of a loss."""
        metrics = self.sets[0].metrics.values() if self.sets else ()
        if not any(getattr(metric, "unit", "") == "dB" for metric in metrics):
            _LOG.warning(
                "The curriculum of a loss follows the PSNR of the first validation set, which is not measured: all its "
                "negatives keep the weights of the beginning. Give 'datasets.val' and val.metrics {psnr: {type: PSNR}}."
            )

    # -- the loop -------------------------------------------------------------------------------------------------

    def train(self) -> int:
        """Train to the end and return 0, or to a SIGTERM or SIGINT and return 128 plus its number."""
        stop = StopRequest(self.process)
        self._log_start()
        try:
            self.log.start(self.iteration)
            self.speed.restart()
            stopped_by = 0
            while self.iteration < self.total and not stopped_by:
                begin = time.perf_counter()
                batch = next(self.batches)
                waited = time.perf_counter() - begin
                self.iteration += 1
                self.model.watch_gradients = self._due(self.options.logger.print_freq)
                scalars = self.model.training_step(batch, self.iteration)
                self.guard.watch(self.iteration, scalars, batch["gt_path"])
                self.speed.count(len(batch["lq"]) * self.process.world_size, waited)
                self.log.advance(self.iteration)
                if self._due(self.options.logger.print_freq):
                    self._tell(scalars)
                is_best = self._due(self.options.val.val_freq) and self._evaluate_safely()
                stopped_by = stop.agreed()
                if is_best or stopped_by or self._due(self.options.logger.save_checkpoint_freq):
                    self._save(is_best)
                self.checkpoints.raise_failure()
            self.checkpoints.wait()
            if stopped_by:
                self.log.say(
                    f"Stopped by signal {stopped_by} after iteration {self.iteration}; its checkpoint is saved."
                )
                return 128 + stopped_by
            self._log_end()
            return 0
        finally:
            self.log.close()
            stop.close()
            if self.lock is not None:
                self.lock.close()

    def _due(self, frequency: int) -> bool:
        return self.iteration % frequency == 0 or self.iteration == self.total

    def _tell(self, scalars: dict[str, torch.Tensor]) -> None:
        """Read the scalars from the device and tell them."""
        self.guard.check()
        names = [name for name in scalars if name != "lr"]
        means = self.process.mean(torch.stack([scalars[name].float() for name in names])).tolist()
        values = {**dict(zip(names, means, strict=True)), "lr": float(scalars["lr"])}
        self.log.scalars(self.iteration, {name: values[name] for name in scalars}, self.speed)
        self.speed.restart()

    def _evaluate_safely(self) -> bool:
        """Evaluate; if that fails, save what was trained before the failure ends the run."""
        try:
            return self._evaluate()
        except Exception:
            if self.process.world_size == 1:
                self._save(is_best=False)
                self.checkpoints.wait()
            raise

    def _evaluate(self) -> bool:
        """Evaluate on every validation set; return whether the first metric of the first set is the best so far."""
        self.guard.check()
        val = self.options.val
        suffix = f"_{self.iteration}_{val.suffix}" if val.suffix else f"_{self.iteration}"
        self.last_evaluations = [
            part.evaluate(
                self.model.restore,
                pictures=val.pictures,
                images_to=self.folder / "visualization" / part.name if val.save_img else None,
                suffix=suffix,
            )
            for part in self.sets
        ]
        for evaluation in self.last_evaluations:
            self.log.evaluation(self.iteration, evaluation)
        self.speed.restart()
        scores = [score for evaluation in self.last_evaluations[:1] for score in evaluation.scores.values()]
        if not scores:
            return False
        for score in [score for score in scores if score.unit == "dB"][:1]:
            self.model.after_evaluation(score.mean)
        better = scores[0].mean if scores[0].higher_is_better else -scores[0].mean
        if math.isnan(better) or (self.best is not None and better <= self.best):
            return False
        self.best = better
        return True

    # -- the state ------------------------------------------------------------------------------------------------

    def _save(self, is_best: bool) -> None:
        self.guard.check()
        self.process.require_equal("weights and negatives", self._fingerprint)
        generators = self.process.gather(_generators())
        if not self.process.is_rank_zero:
            return
        state = {
            "model": self.model.state_dict(),
            "generators": generators,
            "best": self.best,
            "options": self._resolved,
        }
        network = self.model.network
        arguments = getattr(network, "hyperparameters", {})
        name = getattr(network, "registered_as", type(network).__name__)
        file = NetworkFile(self.model.weights(), name, arguments)
        self.checkpoints.save(self.iteration, state, file, is_best)

    def _state_to_resume(self, resume: bool) -> dict[str, Any] | None:
        state = self.checkpoints.latest() if resume else None
        if state is None and self.options.path.resume_state:
            state = read_state(Path(self.options.path.resume_state))
        if resume and state is None:
            _LOG.info("There is no checkpoint to go on from in %s: the run begins at the beginning.", self.folder)
        return state

    def _load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.iteration = state["iteration"]
        self.best = state["best"]
        changes = changed_lines(state["options"], self._resolved)
        if changes:
            _LOG.info("The options differ from those of the checkpoint:\n  %s", "\n  ".join(changes))
        generators = state["generators"]
        if len(generators) == self.process.world_size:
            _set_generators(generators[self.process.rank])
        else:
            _LOG.warning(
                "The run had %d processes and now has %d: the random generators of the networks begin anew.",
                len(generators),
                self.process.world_size,
            )

    def _start_from_pretrained(self) -> None:
        path = self.options.path
        if path.pretrain_network_g:
            load_into(self.model, Path(path.pretrain_network_g), path.param_key_g, path.strict_load_g)

    def _fingerprint(self) -> float:
        """Return a number that differs when any part of the model's state does, of those that all processes share.

        The optimizer is left out: what it makes of equal gradients shows in the weights.
        """
        total = torch.zeros((), dtype=torch.float64, device=self.process.device)
        parts = [part.state_dict() for name, part in self.model.stateful().items() if name != "optimizer"]
        for tensor in _tensors(parts):
            flat = tensor.detach().flatten().double().to(total.device)
            total += torch.dot(flat, torch.linspace(1, 2, flat.numel(), dtype=flat.dtype, device=flat.device))
        return float(total)

    # -- what the person sees -------------------------------------------------------------------------------------

    def _log_start(self) -> None:
        """Say what is trained on what, and write it down for who asks later."""
        parameters = sum(parameter.numel() for parameter in self.model.network.parameters())
        processes = f"{self.process.world_size} × " if self.process.world_size > 1 else ""
        begin = f"from iteration {self.iteration} " if self.iteration else ""
        self.log.say(
            f"{self.options.name}: {type(self.model).__name__} trains {type(self.model.network).__name__} "
            f"({parameters:,} parameters) on {processes}{self.process.device} with {self.batches.images} images, "
            f"{begin}to iteration {self.total}"
        )
        if self.process.is_rank_zero:
            facts = {
                "iteration": self.iteration,
                "total_iter": self.total,
                "model": type(self.model).__name__,
                "network": type(self.model.network).__name__,
                "parameters": parameters,
                "images": self.batches.images,
                "processes": self.process.world_size,
                "device": self.process.device,
            }
            record_start(self.folder, self._resolved, facts)

    def _log_end(self) -> None:
        if not self.process.is_rank_zero:
            return
        for evaluation in self.last_evaluations:
            for name, drawn in evaluation.pictures.items():
                save_picture(drawn, self.folder / "comparisons" / evaluation.name, name)
        self.log.close()
        if any(evaluation.scores for evaluation in self.last_evaluations):
            self.log.console.print(
                results_table(
                    "Images that were not trained on", self.last_evaluations, type(self.model.network).__name__
                )
            )
        places = {
            "checkpoint": self.checkpoints.models / f"net_g_{self.total}.pth",
            "results": self.folder / "results.jsonl",
        }
        if self.options.logger.use_tb_logger:
            places["TensorBoard"] = self.folder / "tb_logger"
        if any(evaluation.pictures for evaluation in self.last_evaluations):
            places["pictures"] = self.folder / "comparisons"
        if self.options.logger.report and self._report():
            places["report"] = self.folder / PAGE
        for name, place in places.items():
            self.log.say(f"{name + ':':<12} {place}")

    def _report(self) -> bool:
        """Write the page of the run; return whether it is there. The training is complete, whatever becomes of it."""
        try:
            write_report([self.folder], self.folder / PAGE)
        except Exception as error:
            _LOG.warning("The report could not be written (%s); the training is complete.", error, exc_info=True)
            return False
        return True


def require_fit(options: Options, model: Model) -> None:
    """Check what the sections of an option file say of each other.

    Raises:
        ValueError: the network enlarges by another scale, or a batch cannot be divided as asked.
    """
    assert options.datasets.train is not None
    spec, training = spec_of(model.network), options.datasets.train
    if spec is not None and spec.scale != options.scale:
        raise ValueError(f"network_g enlarges ×{spec.scale}, but scale is {options.scale}: make them equal.")
    sizes = [training.batch_size_per_gpu, *(stage.batch_size_per_gpu for stage in training.progressive)]
    for size in sizes:
        if size % model.accumulation_steps:
            raise ValueError(
                f"datasets.train.batch_size_per_gpu is {size}: it cannot be divided into train.accumulation_steps = "
                f"{model.accumulation_steps} equal parts."
            )


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors and the numbers in a state."""
    if isinstance(tree, torch.Tensor | int | float):
        yield torch.as_tensor(tree)
    elif isinstance(tree, Mapping | list | tuple):
        for part in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _tensors(part)


def _put_aside(folder: Path) -> None:
    """Rename the folder of an earlier run of the same name, so that nothing of it is lost or mixed up."""
    if folder.exists() and any(folder.iterdir()):
        stamp = time.strftime("%Y%m%d_%H%M%S", time.localtime(folder.stat().st_mtime))
        target = folder.with_name(f"{folder.name}_archived_{stamp}")
        if target.exists():
            raise CheckpointError(f"{folder} exists, and so does {target}: move one of them away.")
        folder.rename(target)
        _LOG.info("The folder of an earlier run of this name is now %s.", target)


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (code of others may draw from it)
    torch.manual_seed(seed)


def _generators() -> dict[str, Any]:
    """Return the states of all global random generators as plain values and tensors."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    state = {
        "python": random.getstate(),
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_generators(state: dict[str, Any]) -> None:
    version, values, gauss = state["python"]
    random.setstate((version, tuple(values), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
