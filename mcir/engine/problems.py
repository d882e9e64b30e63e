"""What a training would reject at its start, and what it would do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mcir.config import DatasetOptions, Options
from mcir.device import resolve_device
from mcir.engine.batches import TrainBatches
from mcir.engine.checkpoint import load_into, read_state
from mcir.engine.distributed import DistContext
from mcir.engine.dry_run import dry_run, estimate
from mcir.engine.dry_validation import dry_validation
from mcir.engine.evaluation import build_metrics, evaluation_set
from mcir.engine.tester import restoring_model
from mcir.errors import ComponentError, is_user_error, locate_errors
from mcir.models import Model


class RunCheck(NamedTuple):
    """Result of :func:`check_run`.

    Attributes:
        problems: error messages, sorted by file and line.
        summary: lines that describe the run.
        concern_tests: number of problems that concern only the test sets, which a training does not read.
    """

    problems: list[str]
    summary: list[str]
    concern_tests: int


def check_run(options: Options) -> RunCheck:
    """Do everything that a training or a test does before it starts, on the CPU, and collect all errors.

    The model is built with values, but its losses only on the meta device, so no weights of feature networks are
    downloaded. Data sets check the headers of their images. The network restores the smallest image of each set.
    """
    run = _Run(options)
    cost = []
    with run.collect():
        dry_run(options)
        cost = estimate(options)
    with run.collect():
        if isinstance(options.num_gpu, str) and options.num_gpu != "auto":
            resolve_device(options.num_gpu, "num_gpu")
    images = [*run.training_images(), *run.evaluation_images("validation", options.datasets.val)]
    needed = run.messages()
    images += run.evaluation_images("test", options.datasets.test)
    summary = [f"{'model':<12}{options.model_type}, network {options.network_g['type']} ×{options.scale}"]
    if options.train is not None:
        summary.append(f"{'training':<12}{options.train.total_iter:,} iterations")
    summary += [f"{'data' if not number else '':<12}{line}" for number, line in enumerate(images)]
    metrics = ", ".join(options.val.metrics) or "none"
    interval = "" if options.train is None else f", every {options.val.val_freq:,} iterations"
    summary.append(f"{'metrics':<12}{metrics}{interval if options.datasets.val else ''}")
    problems = run.messages()
    concern_tests = len(problems) - len(needed) if options.train is not None else 0
    return RunCheck(problems, summary + cost, concern_tests)


class _Run:
    """The parts of a run, each of which is built once, and their errors."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._dist = DistContext(0, 1, torch.device("cpu"))
        self._errors: list[Exception] = []
        self._model: Model | None = None
        with self.collect():
            self._model = self._loaded_model()
        self._metrics: Mapping[str, Any] | None = None
        with self.collect():
            self._metrics = build_metrics(options)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Record an error that a user can correct instead of raising it."""
        try:
            yield
        except (ValueError, OSError) as error:
            if not is_user_error(error):
                raise
            self._errors.append(error)

    def messages(self) -> list[str]:
        """Return the messages of the errors, sorted by file and line, without repetitions."""

        def position(error: Exception) -> tuple[str, int]:
            location = error.location if isinstance(error, ComponentError) else None
            return ("", 0) if location is None else (location.source, location.line or 0)

        return list(dict.fromkeys(str(error) for error in sorted(self._errors, key=position)))

    def training_images(self) -> Iterator[str]:
        """Build the training set and yield its description."""
        if (training := self._options.datasets.train) is not None:
            where = self._options.where("datasets", "train")
            yield self._count(
                "training", lambda: TrainBatches(training, self._options.manual_seed, self._dist, where).images
            )

    def evaluation_images(self, kind: str, sets: Mapping[str, DatasetOptions]) -> Iterator[str]:
        """Build evaluation sets, restore the smallest image of each, and yield their descriptions."""
        for key, part in sets.items():
            yield self._count(f"{kind}, {part.name}", partial(self._evaluation_set, key, part))

    def _evaluation_set(self, key: str, part: DatasetOptions) -> int:
        built = evaluation_set(self._options, key, part, self._metrics or {}, self._dist)
        if self._model is not None and self._metrics is not None:
            with self.collect():
                dry_validation(built, self._model)
        return len(built.dataset)

    def _count(self, title: str, number_of_images: Callable[[], int]) -> str:
        number = None
        with self.collect():
            number = number_of_images()
        return f"{title}: {'not available' if number is None else f'{number:,} images'}"

    def _loaded_model(self) -> Model:
        """Build the network, and read the files from which the run starts."""
        path, where = self._options.path, self._options.where("path")
        model = restoring_model(self._options, self._dist.device)
        if path.pretrain_network_g:
            with self.collect(), locate_errors(where, "pretrain_network_g"):
                load_into(model, Path(path.pretrain_network_g), path.param_key_g, path.strict_load_g)
        if path.resume_state:
            with self.collect(), locate_errors(where, "resume_state"):
                read_state(Path(path.resume_state))
        return model
