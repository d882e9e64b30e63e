"""A training step without data or values: does it run with these options, and what does it cost?"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn

from mcir.config import DatasetOptions, Options
from mcir.data import SampleSpec, sample_spec
from mcir.engine.evaluation import EvaluationSet
from mcir.errors import ComponentError, Where
from mcir.models import Model
from mcir.network_spec import spec_of
from mcir.registry import ARCHS, MODELS, Section

_LOG = logging.getLogger("mcir")


def dry_run(options: Options, processes: int = 1) -> None:
    """Compute the losses of a training on the meta device, before any data is read.

    The crops are the smallest of all stages. If their size is unknown, or a network cannot run without values, nothing
    is checked, and the training itself reports what is wrong.

    Args:
        options: the options of the training.
        processes: the number of processes that share a batch.

    Raises:
        ValueError: the losses cannot be computed; the message starts with the location in the option file.
    """
    training = options.datasets.train
    specs = _sample_specs(training) if training else []
    if not training or not specs:
        return
    smallest = min(specs, key=lambda spec: spec.lq_size)
    section = options.model_section()
    try:
        model = _meta_model({**section, "accumulation_steps": 1}, options.where_in_model)
        images = max(1, training.batch_size_per_gpu // section.get("accumulation_steps", 1)) * processes
        batch = model.example_batch(images, smallest.lq_size, smallest.gt_size, smallest.negatives)
        with torch.no_grad():
            model.compute_losses(batch)
    except ComponentError as error:
        if error.location is not None:
            raise
        if not _is_raised_by_mcir(error.__cause__ or error):  # maybe a bug: the training shows the traceback
            return
        in_dataset = options.where("datasets", "train")
        where = options.where_in_model(error.path) if error.path else in_dataset((smallest.size_argument,))
        raise ValueError(f"{where}: no step on crops of {smallest.crop_size[0]}: {error.message}") from error
    except Exception as error:  # a network of the user's own may need what the meta device does not have
        _LOG.debug("There is no dry run of this model: %r", error)


def _is_raised_by_mcir(error: BaseException) -> bool:
    *_, (frame, _) = walk_tb(error.__traceback__)
    return str(frame.f_globals["__name__"]).startswith("mcir.")


def check_consistency(options: Options, network: nn.Module) -> None:
    """Check what the sections of an option file require of each other.

    Raises:
        ValueError: the network has another scale, or a batch cannot be divided into equal parts.
    """
    assert options.datasets.train is not None
    spec, training = spec_of(network), options.datasets.train
    if spec is not None and spec.scale != options.scale:
        raise ValueError(f"network_g enlarges ×{spec.scale}, but scale is {options.scale}: make them equal.")
    parts = options.model_section().get("accumulation_steps", 1)
    for size in (training.batch_size_per_gpu, *(stage.batch_size_per_gpu for stage in training.progressive)):
        if size % parts:
            raise ValueError(
                "datasets.train.batch_size_per_gpu must be a multiple of train.accumulation_steps "
                f"({parts}), got {size}."
            )


def warn_without_psnr(model: Model, validation_sets: Sequence[EvaluationSet]) -> None:
    """Log a warning if a loss follows the PSNR of the validation, but no PSNR is measured."""
    metrics = validation_sets[0].metrics.values() if validation_sets else ()
    if model.criteria.observers and not any(metric.unit == "dB" for metric in metrics):
        _LOG.warning(
            "A loss has a curriculum that follows the PSNR of the first validation set, but no PSNR is measured: its "
            "negatives keep their initial weights. Set 'datasets.val' and val.metrics {psnr: {type: PSNR}}."
        )


@dataclass(frozen=True)
class StepCost:
    """The cost of one training step in one process.

    Attributes:
        parameters: the number of parameters of the network.
        flops: floating-point operations of convolutions, linear layers and attention, forward and backward; a
            multiplication and an addition count as two.
        state_bytes: the size of weights, averages, negatives, feature networks, gradients and the optimizer's state.
        activation_bytes: the size of what the forward pass keeps for the backward pass; bf16 and fp16 count as half of
            float32.
    """

    parameters: int
    flops: int
    state_bytes: int
    activation_bytes: int


def step_cost(
    section: Section, batch_size: int, lq_size: tuple[int, int], gt_size: tuple[int, int], stored: int = 0
) -> StepCost:
    """Measure one step of a model on the meta device, where tensors have shapes but no values.

    Args:
        section: the section of the model.
        batch_size: the number of images per process.
        lq_size: (H, W) of the degraded images.
        gt_size: (H, W) of the ground truths.
        stored: the number of stored negatives per image.

    Raises:
        ValueError: the model cannot be built, or its network does not accept this size.
    """
    from torch.utils.flop_counter import FlopCounterMode  # slow to import

    parts = section.get("accumulation_steps", 1)
    model = _meta_model({**section, "accumulation_steps": 1})
    batch = model.example_batch(batch_size // parts, lq_size, gt_size, stored)
    static = [*model.parts.parameters(), *model.parts.buffers()]
    static_storages = {tensor.untyped_storage()._cdata for tensor in static}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in static_storages:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model.training_step(batch, iteration=1)
    assert model.optimizer is not None
    gradients = [parameter.grad for parameter in model.network.parameters()]
    moments = [value for state in model.optimizer.state.values() for value in state.values()]
    activation_bytes = sum(kept.values())
    return StepCost(
        parameters=sum(parameter.numel() for parameter in model.network.parameters()),
        flops=counter.get_total_flops() * parts,
        state_bytes=_bytes([*static, *gradients, *moments]),
        activation_bytes=activation_bytes // 2 if section.get("precision") in ("bf16", "fp16") else activation_bytes,
    )


def estimate(options: Options) -> list[str]:
    """Return lines about the cost of a step in every stage of a training.

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
        check_consistency(options, ARCHS.build(options.network_g, where=options.where("network_g")))
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


def _meta_model(section: Section, where: Where | None = None) -> Model:
    """Return a model on the meta device, which has neither autocast nor torch.compile."""
    with torch.device("meta"):
        model: Model = MODELS.build({**section, "compile": False, "precision": "fp32"}, where=where)
    return model


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))
