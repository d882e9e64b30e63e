"""Time a few real training steps and a real validation on this machine."""

from __future__ import annotations

import time

from torch import Tensor

from mcir.config import Options
from mcir.device import memory_used
from mcir.engine.batches import TrainBatches
from mcir.engine.distributed import init_distributed
from mcir.engine.dry_run import dry_run
from mcir.engine.evaluation import evaluation_sets
from mcir.engine.fit import Scalars, fit
from mcir.engine.speed import Speed
from mcir.models import Model
from mcir.models.batch import Batch
from mcir.new.schedule import Timing
from mcir.registry import MODELS
from mcir.seeding import seed_generators

_WARM_UP = 2
_MIN_STEPS = 4


def measure(options: Options, seconds: float) -> Timing:
    """Train for a few seconds, validate once, and return the times.

    The steps are those of a training: they read, crop and degrade the images in the data workers, and keep negatives if
    there are any. Nothing is written.

    Args:
        options: options of the training.
        seconds: time for the steps, after two that are not counted; more for less than four steps, but at most four
            times as much and one step.

    Raises:
        ValueError: the options are not consistent, or images cannot be read.
    """
    assert options.train is not None and options.datasets.train is not None
    ends: list[float] = []
    with init_distributed(options.num_gpu, options.dist_params) as dist:
        begin = time.perf_counter()
        dry_run(options)
        seed_generators((options.manual_seed, 0, 0), dist.device)
        batches = TrainBatches(options.datasets.train, options.manual_seed, dist)
        sets = evaluation_sets(options, "val", dist)
        model: Model = MODELS.build(options.model_section(), where=options.where_in_model)
        model.to(dist.device)
        model.configure_optimizer()
        speed = Speed()

        def on_step(iteration: int, batch: Batch, scalars: Scalars) -> None:
            next(iter(scalars.values())).item()  # waits for a GPU
            ends.append(time.perf_counter())
            if iteration == _WARM_UP:
                speed.restart()

        def is_enough() -> bool:
            done = len(ends) - _WARM_UP
            spent = ends[-1] - ends[_WARM_UP - 1] if done > 0 else 0.0
            return done > 0 and spent >= seconds and (done >= _MIN_STEPS or spent >= 4 * seconds)

        setup = time.perf_counter() - begin
        loaded = batches.iterate(channels_last=model.channels_last)
        fit(model, speed.timed(loaded), total=2**31, seed=options.manual_seed, on_step=on_step, should_stop=is_enough)
        step, waiting = (ends[-1] - ends[_WARM_UP - 1]) / (len(ends) - _WARM_UP), speed.data_fraction
        loaded.close()  # type: ignore[attr-defined]  # ends the data workers
        pixels = 0

        def restore(lq: Tensor) -> Tensor:
            nonlocal pixels
            output = model.restore(lq)
            pixels += output.shape[-2] * output.shape[-1]
            return output

        begin = time.perf_counter()
        for part in sets:
            part.evaluate(restore, pictures=options.val.pictures)
        pixel = (time.perf_counter() - begin) / pixels
    return Timing(setup, step, pixel, waiting, memory_used())
