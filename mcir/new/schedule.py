"""The arithmetic of a time budget: from measured times to iterations, validations and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcir.new.duration import format_duration

RESERVE = 0.1
"""Fraction of the budget that is not planned, because the speed of a machine varies."""
_MAX_WHOLE_SIDE = 1280
"""Longest side of an image that is validated as a whole."""
START_S = 12.0
"""Time in seconds for the start of Python, the imports, and the report at the end."""
_VALIDATIONS = 10
_VALIDATION_FRACTION = 0.15
_CHECKPOINT_S = 600.0
_MIN_ITERATIONS = 20


@dataclass(frozen=True)
class Timing:
    """Times in seconds, measured on this machine.

    Attributes:
        setup: reading the headers of the images, and building the model.
        step: one iteration, including the wait for data.
        pixel: validation of one pixel of a ground truth.
        waiting: fraction of an iteration in which the network waits for data.
        memory: memory in use, in bytes.
    """

    setup: float
    step: float
    pixel: float
    waiting: float = 0.0
    memory: int = 0


@dataclass(frozen=True)
class Schedule:
    """The length of a training and its intervals, in iterations.

    Attributes:
        seconds: expected time of the whole run.
    """

    total_iter: int
    val_freq: int
    save_checkpoint_freq: int
    print_freq: int
    seconds: float


UNKNOWN = Schedule(1000, 1000, 1000, 1000, 0.0)
"""Schedule of a training whose speed is not measured yet."""


def fit_schedule(budget: float, timing: Timing, pixels: int) -> Schedule:
    """Return the longest schedule that fits into a budget.

    Validations take at most 15 % of the time, except that there is always one at the end. Checkpoints are written at
    every validation, and at least every ten minutes.

    Args:
        budget: time of the whole run, in seconds.
        timing: measured times.
        pixels: number of ground-truth pixels of a validation.

    Raises:
        ValueError: the budget is too short for 20 iterations.
    """
    validation = pixels * timing.pixel
    available = budget * (1 - RESERVE) - START_S - timing.setup
    validations = max(1, min(_VALIDATIONS, int(available * _VALIDATION_FRACTION / max(validation, 1e-9))))
    total = int((available - validations * validation) / timing.step)
    if total < _MIN_ITERATIONS:
        validations, total = 1, int((available - validation) / timing.step)
    if total < _MIN_ITERATIONS:
        needed = (START_S + timing.setup + validation + _MIN_ITERATIONS * timing.step) / (1 - RESERVE)
        raise ValueError(
            f"The budget of {format_duration(budget)} is too short: an iteration takes {timing.step:.2g} s on this "
            f"machine, and a validation {validation:.2g} s. Expected a budget of at least "
            f"{format_duration(60 * (needed // 60 + 1))}."
        )
    val_freq = _rounded_down(max(1, total // validations))
    total = validations * val_freq
    return Schedule(
        total_iter=total,
        val_freq=val_freq,
        save_checkpoint_freq=max(1, min(val_freq, int(_CHECKPOINT_S / timing.step))),
        print_freq=max(1, min(val_freq // 2, int(10 / timing.step))),
        seconds=START_S + timing.setup + total * timing.step + validations * validation,
    )


def _rounded_down(number: int) -> int:
    """Return a number with all digits after the second replaced by zeros, so that it is easy to read."""
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return number // unit * unit


def largest_part(sizes: Sequence[tuple[int, int]], affordable: float, multiple: int) -> tuple[int, int | None]:
    """Return how many images a validation should use, and the side of the square that it uses of each.

    Args:
        sizes: (height, width) of each image.
        affordable: number of pixels for which a validation has time and memory.
        multiple: number that divides the side.

    Returns:
        The number of images, and the side; None: whole images.
    """
    if sum(height * width for height, width in sizes) <= affordable and max(map(max, sizes)) <= _MAX_WHOLE_SIDE:
        return len(sizes), None
    shortest = min(map(min, sizes))
    sides = [side for side in (1024, 768, 512, 384, 256, 128) if side <= shortest] or [shortest]
    sides = [max(multiple, side // multiple * multiple) for side in sides]
    for side in sides:
        if len(sizes) * side**2 <= affordable:
            return len(sizes), side
    return max(1, min(len(sizes), int(affordable / sides[-1] ** 2))), sides[-1]
