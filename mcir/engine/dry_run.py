"""What a training step will cost, computed without data, weights or a device."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mcir.config import DatasetOptions, Options
from mcir.data import SampleSpec, sample_spec
from mcir.models import Model
from mcir.network_spec import spec_of
from mcir.registry import MODELS, ComponentError, Section, Where

_LOG = logging.getLogger("mcir")


@dataclass(frozen=True)
class StepCost:
    """The cost of one training step of one process.

    Attributes:
        parameters: of the network.
        flops: floating-point operations of convolutions, linear layers and attention, forward and backward; a
            multiplication and an addition are two.
        state_bytes: weights, averages, negatives, feature networks, gradients and the optimizer's moments.
        activation_bytes: what the forward pass keeps for the backward pass; bf16 and fp16 are taken as half of float32.
    """

    parameters: int
    flops: int
    state_bytes: int
    activation_bytes: int


def step_cost(
    section: Section, batch_size: int, lq_size: tuple[int, int], gt_size: tuple[int, int], stored: int = 0
) -> StepCost:
    """Make one step of a model on the meta device, where tensors have shapes but no values.

    Args:
        section: of the model.
        batch_size: B, images per process.
        lq_size: (H, W) of the degraded images.
        gt_size: (H, W) of the ground truths.
        stored: K, the stored negatives of an image that the data set brings.

    Raises:
        ValueError: the section does not fit, or the network cannot be run at this size.
    """
    parts = section.get("accumulation_steps", 1)
    model = _without_values(section)
    model.configure_optimizer()
    assert model.optimizer is not None
    batch = model.example_batch(batch_size // parts, lq_size, gt_size, stored)
    static = [*model.parts.parameters(), *model.parts.buffers()]
    lasting = {tensor.untyped_storage()._cdata for tensor in static}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in lasting:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        losses = model.compute_losses(batch)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
    model.optimizer.step()
    gradients = [parameter.grad for parameter in model.network.parameters() if parameter.grad is not None]
    moments = [value for state in model.optimizer.state.values() for value in state.values()]
    state_bytes = _bytes([*static, *gradients, *moments])
    activations = sum(kept.values())
    return StepCost(
        parameters=sum(parameter.numel() for parameter in model.network.parameters()),
        flops=counter.get_total_flops() * parts,
        state_bytes=state_bytes,
        activation_bytes=activations // 2 if section.get("precision") in ("bf16", "fp16") else activations,
    )


def dry_run(options: Options, processes: int = 1) -> None:
    """Make a step, up to its losses, of the smallest crops of a training on the meta device, before what is costly.

    Nothing is done where the size of the crops is not known (a data set that has none, or is not of mcir), nor is
    anything said where a network needs values or a device to run: the training itself will tell.

    Args:
        options: of the training.
        processes: that share a batch.

    Raises:
        ValueError: the section does not fit, or a step cannot be made; the message says which crops, and where in the
            option file.
    """
    training = options.datasets.train
    if training is None:
        return
    specs = _sample_specs(training)
    if not specs:
        return  # unknown, or the data set rejects it with a better message
    smallest = min(specs, key=lambda spec: spec.lq_size)
    section = options.model_section()
    try:
        model = _without_values(section, options.where_in_model)
        count = max(1, training.batch_size_per_gpu // section.get("accumulation_steps", 1)) * processes
        batch = model.example_batch(count, smallest.lq_size, smallest.gt_size, smallest.negatives)
        with torch.no_grad():
            model.compute_losses(batch)
    except ValueError as error:
        if isinstance(error, ComponentError) and error.location is not None:
            raise
        if not _is_said_by_mcir(error.__cause__ or error):
            return
        path = error.path if isinstance(error, ComponentError) else ()
        where = options.where_in_model(path) if path else options.where("datasets", "train")((smallest.size_argument,))
        raise ValueError(f"{where}: no step on crops of {smallest.crop_size[0]}: {error}") from error
    except Exception as error:  # networks of others may ask for what the meta device does not have
        _LOG.debug("A step could not be rehearsed: %r", error)


def estimate(options: Options) -> list[str]:
    """Return lines about the cost of a training step, for every stage of the training.

    Raises:
        ValueError: the options do not fit together.
    """
    training = options.datasets.train
    if options.train is None or training is None:
        return ["no training section: nothing to estimate"]
    specs = _sample_specs(training)
    if not specs:
        return [f"{training.section['type']}: the sizes of samples are unknown, so the cost of a step is not estimated"]
    with torch.device("meta"):
        check_consistency(options, MODELS.build(options.model_section(), where=options.where_in_model))
    stages = [(0, training.batch_size_per_gpu)]
    stages += [(stage.start, stage.batch_size_per_gpu) for stage in training.progressive]
    lines = []
    for spec, (start, batch_size) in zip(specs, stages, strict=True):
        cost = step_cost(options.model_section(), batch_size, spec.lq_size, spec.crop_size, spec.negatives)
        state, activations = cost.state_bytes / 2**20, cost.activation_bytes / 2**20
        parameters = f"parameters              {cost.parameters:,}"
        lines += [
            f"from iteration {start + 1:,} on, crops of {spec.crop_size[0]}:" if start else parameters,
            f"FLOPs of a step         {cost.flops / 1e9:,.1f} G (batch of {batch_size}, one process)",
            f"memory of a step, about {state + activations:,.0f} MiB: {state:,.0f} of weights, averages,",
            f"                        gradients and moments, {activations:,.0f} of activations",
        ]
    return lines


def _sample_specs(training: DatasetOptions) -> list[SampleSpec]:
    """Return the specification of the samples in each stage of the training; empty if one of them is unknown."""
    sections = [training.section, *({**training.section, "gt_size": stage.gt_size} for stage in training.progressive)]
    specs = [spec for spec in map(sample_spec, sections) if spec is not None]
    return specs if len(specs) == len(sections) else []


def check_consistency(options: Options, model: Model) -> None:
    """Check what the sections of an option file require of each other.

    Raises:
        ValueError: the network has another scale, or a batch cannot be divided into equal parts.
    """
    assert options.datasets.train is not None
    spec, training = spec_of(model.network), options.datasets.train
    if spec is not None and spec.scale != options.scale:
        raise ValueError(f"network_g enlarges ×{spec.scale}, but scale is {options.scale}: make them equal.")
    for size in (training.batch_size_per_gpu, *(stage.batch_size_per_gpu for stage in training.progressive)):
        if size % model.accumulation_steps:
            raise ValueError(
                "datasets.train.batch_size_per_gpu must be a multiple of train.accumulation_steps "
                f"({model.accumulation_steps}), got {size}."
            )


def _is_said_by_mcir(error: BaseException) -> bool:
    """Whether an error was raised in this package, and is no fault that Python or a library found in code."""
    *_, (frame, _) = walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).startswith("mcir.")


def _without_values(section: Section, where: Where | None = None) -> Model:
    """Return a model on the meta device."""
    with torch.device("meta"):
        section = {**section, "compile": False, "precision": "fp32", "accumulation_steps": 1}
        model: Model = MODELS.build(section, where=where)
    return model


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))
