"""The training loop."""

from collections.abc import Callable, Iterable
from itertools import islice

from torch import Tensor

from mcir.models import Model
from mcir.models.batch import Batch
from mcir.seeding import seed_generators

Scalars = dict[str, Tensor]


def fit(
    model: Model,
    batches: Iterable[Batch],
    *,
    total: int,
    start: int = 0,
    validate_first: bool = False,
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
    on_failure: Callable[[int, Exception], None] | None = None,
) -> int:
    """Train a model and return the last iteration.

    Iterations are 1-based. Callbacks with an interval are also called after the last iteration; without an interval,
    they are never called.

    Args:
        model: model, on its device.
        batches: batches on the same device, starting with that of iteration ``start + 1``. They may end early if
            ``should_stop`` then returns a true value.
        total: number of iterations.
        start: number of iterations that are already done.
        validate_first: whether the validation of iteration ``start``, if it has one, is not done.
        seed: seed for all random numbers of a step; see :func:`~mcir.seeding.seed_generators`.
        rank: index of this process.
        log_every: interval of ``on_log``.
        validate_every: interval of ``on_validation``.
        save_every: interval of ``on_checkpoint``.
        on_step: function of iteration, batch and scalars (on the device), called after every step.
        on_log: function of iteration and scalars, which include the gradients of each loss at these iterations.
        on_validation: function of the iteration that returns whether the model is the best so far.
        on_checkpoint: function of the iteration and of whether the model is the best so far. If an iteration has a
            validation, it is called before and after it. It is also called when the model is the best so far, and when
            training stops early.
        should_stop: function that is called at the end of every iteration. If it returns a true value, training stops.
        on_failure: function of the last complete iteration and the error, called if loading, a callback or a step fails
            while the model is in the state after this iteration.
    """

    def is_due(interval: int | None, at: int) -> bool:
        return interval is not None and (at % interval == 0 or at == total)

    def finish_iteration() -> bool:
        """Validate and save if it is due, and return whether training stops."""
        is_best = False
        if on_validation and is_due(validate_every, iteration):
            if on_checkpoint and is_due(save_every, iteration):
                on_checkpoint(iteration, False)  # a process may be killed in a long validation
            is_best = bool(on_validation(iteration))
        stops = bool(should_stop and should_stop())
        if on_checkpoint and (is_best or stops or is_due(save_every, iteration)):
            on_checkpoint(iteration, is_best)
        return stops

    model.total_iter = total
    iteration = start
    try:
        if validate_first and finish_iteration():
            return start
        for batch in islice(batches, total - start):
            seed_generators((seed, rank, iteration + 1), model.device)
            model.watch_gradients = is_due(log_every, iteration + 1) or iteration == 0
            scalars = model.training_step(batch, iteration + 1)
            iteration += 1
            if on_step:
                on_step(iteration, batch, scalars)
            if on_log and is_due(log_every, iteration):
                on_log(iteration, scalars)
            if finish_iteration():
                return iteration
        if iteration < total:
            if not (should_stop and should_stop()):
                raise StopIteration(f"expected batches for {total} iterations, got {iteration}")
            if on_checkpoint:
                on_checkpoint(iteration, False)
    except Exception as error:
        if on_failure and model.is_between_steps:
            on_failure(iteration, error)
        raise
    return iteration
