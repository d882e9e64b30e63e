"""Choose network, batches, validation and schedule, by timing a few steps on this machine."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from mcir.atomic import write_atomically
from mcir.config import Options, load
from mcir.data import sample_spec
from mcir.device import best_device, memory_available
from mcir.engine.dry_run import StepCost, step_cost
from mcir.features.base import imagenet_file, imagenet_source
from mcir.new.plan import Contrastive, Data, Plan, name_lines, published, published_schedule
from mcir.new.schedule import START_S, Timing, fit_schedule, largest_part
from mcir.new.tasks import Task
from mcir.new.timing import measure
from mcir.weights import WeightsError

_LARGE_ITERATIONS = 20_000
_MAX_VAL_PIXELS = 2**24
_VALIDATION_FRACTION = 0.03
_DRAFT_IMAGES = 2
_TRIAL_S = 10.0
_MEMORY_FRACTION = 0.7


def choose(task: Task, data: Data, budget: float | None, contrastive: Contrastive) -> Plan:
    """Return the plan of a training.

    With a budget, it is that of the larger network of the task if the budget is long enough for 20,000 iterations of
    it, or else that of the smaller network.

    Args:
        task: task of the network.
        data: training and validation images.
        budget: time of the training in seconds; None: the published recipe.
        contrastive: contrastive method.

    Raises:
        ValueError: the budget is too short.
    """
    has_imagenet = _has_imagenet(may_download=contrastive == "spn")
    device = best_device().type
    if budget is None:
        large = published(task.large)
        return _published(Plan(task, data, large, device, None, contrastive, has_imagenet, published_schedule(large)))
    seconds = min(_TRIAL_S, budget / 40)
    small = _within_memory(Plan(task, data, task.small, device, budget, contrastive, has_imagenet))
    plan, timing = small, _trial(small, seconds)
    if larger := _larger(small, timing.step, budget, seconds):
        plan, timing = larger
    plan = _validated(plan, min(_MAX_VAL_PIXELS, _VALIDATION_FRACTION * budget / timing.pixel))
    schedule = fit_schedule(budget, timing, plan.validated_pixels)
    return replace(plan, timing=timing, memory=timing.memory, schedule=schedule)


def _has_imagenet(may_download: bool) -> bool:
    """Return whether the ImageNet weights of the VGG are on this machine, after a download if it is allowed."""
    if not may_download:
        return imagenet_source("vgg16")[0].is_file()
    try:
        imagenet_file("vgg16")
    except WeightsError:
        return False
    return True


def _larger(plan: Plan, step: float, budget: float, seconds: float) -> tuple[Plan, Timing] | None:
    """Return the plan with the larger network of the task and its times, or None if the budget is too short for it."""
    large = _within_memory(replace(plan, network=plan.task.large))
    if plan.device == "cpu" and budget / (step * _cost(large).flops / _cost(plan).flops) < _LARGE_ITERATIONS:
        return None  # on a CPU, the time of a step is about proportional to its operations
    timing = _trial(large, seconds)
    return (large, timing) if budget / timing.step >= _LARGE_ITERATIONS else None


def _published(plan: Plan) -> Plan:
    """Return a plan with the time of the published recipe, if a step fits into the memory."""
    cost = _cost(plan)
    plan = _validated(replace(plan, parameters=cost.parameters, memory=cost.memory_bytes), _MAX_VAL_PIXELS)
    parts = plan.network.batch if plan.device == "cpu" else 1  # a step of a large batch may take minutes
    trial = replace(plan, network=replace(plan.network, batch=plan.network.batch // parts))
    if _cost(trial).memory_bytes > _free_memory(plan.device):
        return plan
    timing = _trial(trial, seconds=2, side=128)
    timing = replace(timing, step=timing.step * parts)
    schedule = plan.schedule
    validations = -(-schedule.total_iter // schedule.val_freq)
    seconds = START_S + schedule.total_iter * timing.step + validations * timing.pixel * plan.validated_pixels
    return replace(plan, timing=timing, schedule=replace(schedule, seconds=seconds))


def _validated(plan: Plan, affordable: float) -> Plan:
    """Return a plan whose validation has at most a number of pixels."""
    sizes = [plan.data.sizes[name] for name in plan.data.val]
    count, side = largest_part(sizes, affordable, plan.data.scale)
    return replace(plan, data=replace(plan.data, val=plan.data.val[:count]), val_size=side)


def _within_memory(plan: Plan) -> Plan:
    """Return a plan whose batch is halved until a step fits into the memory, with its parameters and memory."""
    while True:
        cost = _cost(plan)
        if cost.memory_bytes <= _free_memory(plan.device) or plan.network.batch == 1:
            return replace(plan, parameters=cost.parameters, memory=cost.memory_bytes)
        plan = replace(plan, network=replace(plan.network, batch=plan.network.batch // 2))


def _free_memory(device: str) -> float:
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else memory_available()
    return float(_MEMORY_FRACTION * free)


def _cost(plan: Plan) -> StepCost:
    with _options(plan) as options:
        assert options.datasets.train is not None
        spec = sample_spec(options.datasets.train.section)
        assert spec is not None
        return step_cost(options.model_section(), plan.network.batch, spec.lq_size, spec.crop_size)


def _trial(plan: Plan, seconds: float, side: int = 256) -> Timing:
    """Time some steps and a validation of a plan, on a part of two validation images with about the given side."""
    draft = replace(plan, data=replace(plan.data, val=plan.data.val[:_DRAFT_IMAGES]))
    with _options(_validated(draft, len(draft.data.val) * side**2)) as options:
        return measure(options, seconds)


@contextmanager
def _options(plan: Plan) -> Iterator[Options]:
    """Yield the options of a plan, whose files exist until the block ends. Warnings are not shown."""
    logger = logging.getLogger("mcir")
    level = logger.level
    with tempfile.TemporaryDirectory(prefix="mcir-new-") as name:
        folder = Path(name)
        for kind, names in (("train", plan.data.train), ("val", plan.data.val)):
            write_atomically(folder / f"{kind}.txt", name_lines(names))
        paths = (None if path is None else str(Path(path).resolve()) for path in (plan.data.gt, plan.data.lq))
        gt, lq = paths
        assert gt is not None
        file = folder / "draft.yml"
        write_atomically(file, plan.text("draft.yml", "", gt, lq, "train.txt", "val.txt").encode())
        try:
            logger.setLevel(logging.ERROR)
            yield load(file)
        finally:
            logger.setLevel(level)
