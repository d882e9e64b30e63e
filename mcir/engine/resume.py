"""Resume from the newest training state that is intact."""

import logging
from collections.abc import Iterator
from pathlib import Path

from mcir.engine.checkpoint import CheckpointError, Checkpoints, TrainingState, read_state
from mcir.errors import Where, locate_errors
from mcir.models import Model
from mcir.models.state import digest

_LOG = logging.getLogger("mcir")


def states_to_resume(
    checkpoints: Checkpoints, resume_state: str | None, resume: bool, where: Where | None = None
) -> Iterator[TrainingState]:
    """Yield the intact states from which a run can resume, in order of preference. Log damaged ones.

    Args:
        checkpoints: checkpoints of the run.
        resume_state: path of a state. It is the only one if ``resume`` is false, or else the last one.
        resume: whether to resume from the newest checkpoint of the run.
        where: function that returns the location of a value of the section 'path'.

    Raises:
        ValueError: the file ``resume_state`` does not exist, is damaged, or is not a training state of mcir.
    """
    intact, iterations = 0, checkpoints.iterations() if resume else []
    for iteration in reversed(iterations):
        try:
            state = read_state(checkpoints.state_file(iteration))
        except CheckpointError as error:
            _LOG.warning("%s Trying the previous state.", error)
        else:
            intact += 1
            yield state
    if resume_state:
        with locate_errors(where, "resume_state"):
            state = read_state(Path(resume_state))
        yield state
    elif iterations and not intact:
        _LOG.error("No checkpoint in %s is intact. The training starts from the beginning.", checkpoints.folder)
    elif resume and not intact:
        _LOG.info("%s has no checkpoint. The training starts from the beginning.", checkpoints.folder)


def load_first(model: Model, states: Iterator[TrainingState]) -> TrainingState:
    """Load the first state that fits a model, and return it. Log what is used of it.

    Args:
        model: model after :meth:`~mcir.models.base.Model.configure_optimizer`.
        states: states in order of preference.

    Raises:
        CheckpointError: no state fits.
    """
    failure = CheckpointError("There is no training state.")
    for state in states:
        try:
            unused = _load(model, state)
        except CheckpointError as error:
            _LOG.warning("%s", error)
            failure = error
            continue
        _LOG.info(
            "%s: resuming after iteration %d with the saved weights, negatives and moments of the optimizer. All "
            "that the options specify is taken from them, such as hyperparameters, schedule and frozen negatives.",
            state.file,
            state.iteration,
        )
        if unused:
            names = " and ".join(unused)
            _LOG.warning("The options have changed: the saved state of %s is not used and starts anew.", names)
        return state
    raise failure


def _load(model: Model, state: TrainingState) -> list[str]:
    """Load a state and verify it: the model must save again what was saved.

    Raises:
        CheckpointError: the state does not fit the model, or is not finite.
    """
    try:
        unused = model.load_state_dict(state.model)
    except ValueError as error:
        raise CheckpointError(f"{state.file} does not fit the options of this run: {error}.") from error
    if state.digests is not None:
        loaded = {name: part for name, part in model.state_dict().items() if name not in unused}
        expected = {name: value for name, value in state.digests.items() if name}
        if {name: digest(part) for name, part in {**state.model, **loaded}.items()} != expected:
            raise CheckpointError(f"{state.file} is damaged: the digests of the loaded state do not match.")
    if names := model.not_finite():
        raise CheckpointError(f"{state.file} contains NaN or infinite values: {', '.join(names[:3])}.")
    return unused
