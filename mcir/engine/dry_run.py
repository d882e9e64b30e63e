"""Checks and cost estimates of a training, before any data is read."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcir.checks import check_argument
from mcir.config import Options
from mcir.data import SampleSpec, sample_spec
from mcir.device import device_kind, process_memory
from mcir.engine.batches import TrainingStage, training_stages
from mcir.engine.evaluation import EvaluationSet
from mcir.engine.live_memory import LiveMemory
from mcir.errors import ComponentError, Where, is_raised_by_mcir, locate_errors
from mcir.models import Model
from mcir.models.optim import moments_of
from mcir.network_spec import spec_of
from mcir.registry import MODELS, OPTIMIZERS, Section

_LOG = logging.getLogger("mcir")


def dry_run(options: Options, processes: int = 1) -> None:
    """Compute the losses of a training on the meta device, before any data is read, and log warnings about its options.

    The crops have the smallest size of all stages. If this size is unknown, or if a network cannot run on the meta
    device, the losses are not computed, and the training itself reports errors.

    Args:
        options: options of the training.
        processes: number of processes.

    Raises:
        ValueError: the model cannot be built, the sections are inconsistent, or the losses cannot be computed.
    """
    training = options.datasets.train
    if options.train is None or training is None:
        return
    section = options.model_section()
    specs = _sample_specs(training_stages(training, options.where("datasets", "train")))
    try:
        model = _meta_model({**section, "accumulation_steps": 1}, options.where_in_model)
    except ComponentError:
        raise
    except Exception as error:  # a user's own network may need operations that the meta device lacks
        _LOG.debug("The dry run of this model is skipped: %r", error)
        return
    check_consistency(options, model.network)
    _check_iterations(options, model)
    for path, reason in model.risky_options().items():
        _LOG.warning("%s: %s", options.where_in_model(path), reason)
    if specs:
        images = max(1, training.batch_size_per_gpu // section.get("accumulation_steps", 1)) * processes
        _compute_losses(options, model, min(specs, key=lambda spec: spec.lq_size), images)


def _compute_losses(options: Options, model: Model, sample: SampleSpec, images: int) -> None:
    """Compute the losses of a batch of samples, and raise errors with their location in the option file."""
    try:
        batch = model.example_batch(images, sample.lq_size, sample.gt_size, sample.negatives)
        with torch.no_grad():
            model.compute_losses(batch)
    except ComponentError as error:
        if not is_raised_by_mcir(error.__cause__ or error):  # maybe a bug; the training shows the traceback
            return
        in_dataset = options.where("datasets", "train")
        where = options.where_in_model(error.path) if error.path else in_dataset((sample.size_argument,))
        message = f"a training step on crops of {sample.crop_size[0]} pixels is not possible: {error.message}"
        raise ValueError(f"{where}: {message}") from error
    except Exception as error:
        _LOG.debug("The dry run of this model is skipped: %r", error)


def check_consistency(options: Options, network: nn.Module) -> None:
    """Check that the sections of an option file are consistent with each other and with the network.

    Raises:
        ValueError: the network has another scale than the option file, or a batch cannot be divided into equal parts.
    """
    assert options.datasets.train is not None
    spec = spec_of(network)
    if spec is not None and spec.scale != options.scale:
        where = options.where("network_g")(())
        raise ValueError(f"{where}: network_g has scale {spec.scale}, but the option 'scale' is {options.scale}.")
    parts = options.model_section().get("accumulation_steps", 1)
    for stage in training_stages(options.datasets.train, options.where("datasets", "train")):
        with locate_errors(stage.where):
            expected = f"a multiple of train.accumulation_steps ({parts})"
            check_argument("batch_size_per_gpu", stage.batch_size, stage.batch_size % parts == 0, expected)


def _check_iterations(options: Options, model: Model) -> None:
    """Check that warm-up, stages and learning rates match the length of the training.

    Raises:
        ComponentError: they do not; the message contains the location in the option file.
    """
    assert options.train is not None and options.datasets.train is not None
    total, warmup = options.train.total_iter, model.warmup_iter
    with locate_errors(options.where_in_model):
        expected = f"at most total_iter, {total}, because the learning rate rises until then"
        check_argument("warmup_iter", warmup, warmup <= total, expected)
    for number, stage in enumerate(options.datasets.train.progressive):
        with locate_errors(options.where("datasets", "train", "progressive"), (number,)):
            check_argument("start", stage.start, stage.start < total, f"an iteration before total_iter, {total}")
    if model.optim_g is not None:
        lr = model.optim_g.get("lr", OPTIMIZERS.parameters(model.optim_g["type"])["lr"].default)
        with locate_errors(options.where_in_model, "scheduler"):
            model.schedule.check(lr, total, warmup)


def warn_without_psnr(model: Model, validation_sets: Sequence[EvaluationSet]) -> None:
    """Log a warning if a loss has a curriculum that depends on the PSNR, but no PSNR is measured."""
    metrics = validation_sets[0].metrics.values() if validation_sets else ()
    if model.criteria.observers and not any(metric.unit == "dB" for metric in metrics):
        _LOG.warning(
            "The curriculum of a loss depends on the PSNR of the first validation set, which is not measured. The "
            "weights of its negatives will not change. Set 'datasets.val' and val.metrics {psnr: {type: PSNR}}."
        )


@dataclass(frozen=True)
class StepCost:
    """The cost of one training step in one process.

    Attributes:
        parameters: number of parameters of the network.
        flops: floating-point operations of convolutions, linear layers and attention, forward and backward. A
            multiplication and an addition count as two.
        state_bytes: size of weights, averages, negatives, feature networks, gradients and optimizer state.
        activation_bytes: size of the tensors that the forward pass stores for the backward pass. With bf16 and fp16,
            it is half the size in float32.
        temporary_bytes: size of other tensors at the peak of the step: intermediate results and their gradients.
            Workspaces of convolutions, validation and data workers are not included.
    """

    parameters: int
    flops: int
    state_bytes: int
    activation_bytes: int
    temporary_bytes: int

    @property
    def memory_bytes(self) -> int:
        """Memory of the tensors at the peak of the step."""
        return self.state_bytes + self.activation_bytes + self.temporary_bytes


def step_cost(
    section: Section, batch_size: int, lq_size: tuple[int, int], gt_size: tuple[int, int], stored: int = 0
) -> StepCost:
    """Return the cost of one step of a model. The step runs on the meta device, where tensors have no values.

    Args:
        section: section of the model.
        batch_size: batch size of the process.
        lq_size: (H, W) of the degraded images.
        gt_size: (H, W) of the ground truths.
        stored: number of stored negatives per image.

    Raises:
        ValueError: the model cannot be built, or its network does not accept the image size.
    """
    from torch.utils.flop_counter import FlopCounterMode  # slow to import

    parts = section.get("accumulation_steps", 1)
    optimizer = section.get("optim_g")
    # the steps of some optimizers read values, which tensors on the meta device do not have
    plain = {"optim_g": {"type": "SGD"}} if optimizer is not None else {}
    model = _meta_model({**section, "accumulation_steps": 1, **plain})
    batch = model.example_batch(batch_size // parts, lq_size, gt_size, stored)
    static = [*model.parts.parameters(), *model.parts.buffers()]
    static_storages = {tensor.untyped_storage()._cdata for tensor in static}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in static_storages:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    saved = torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x)
    with FlopCounterMode(display=False) as counter, LiveMemory(static) as live, saved:
        model.training_step(batch, iteration=1)
    assert optimizer is not None
    gradients = [parameter.grad for parameter in model.network.parameters()]
    trained = [parameter for parameter in model.trained_part.parameters() if parameter.grad is not None]
    moments = zip(trained, moments_of(optimizer, trained), strict=True)
    divisor = 2 if section.get("precision") in ("bf16", "fp16") else 1
    activation_bytes = sum(kept.values())
    return StepCost(
        parameters=sum(parameter.numel() for parameter in model.network.parameters()),
        flops=counter.get_total_flops() * parts,
        state_bytes=_bytes([*static, *gradients])
        + sum(parameter.nbytes if size is None else size for parameter, kept in moments for size in kept.values()),
        activation_bytes=activation_bytes // divisor,
        temporary_bytes=max(0, live.peak - activation_bytes) // divisor,
    )


def estimate(options: Options) -> list[str]:
    """Describe the cost of a step in every stage of a training, one line of text per quantity."""
    training = options.datasets.train
    if options.train is None or training is None:
        return ["there is no section 'train', so the cost of a step is not estimated"]
    stages = training_stages(training)
    specs = _sample_specs(stages)
    if not specs:
        return [f"{training.section['type']}: the sizes of samples are unknown, so the cost of a step is not estimated"]
    lines = []
    for spec, stage in zip(specs, stages, strict=True):
        cost = step_cost(options.model_section(), stage.batch_size, spec.lq_size, spec.crop_size, spec.negatives)
        parameters = f"parameters              {cost.parameters:,}"
        lines += [
            f"from iteration {stage.start + 1:,} on, crops of {spec.crop_size[0]}:" if stage.start else parameters,
            f"FLOPs of a step         {cost.flops / 1e9:,.1f} G (batch size {stage.batch_size}, one process)",
            f"memory of a step        about {_mib(cost.memory_bytes)}, without validation and data workers",
            f"  state                 {_mib(cost.state_bytes)} (weights, averages, gradients, optimizer)",
            f"  activations           {_mib(cost.activation_bytes)}",
            f"  intermediate results  {_mib(cost.temporary_bytes)}",
        ]
        if device_kind(options.num_gpu) == "cpu":
            used = process_memory()
            lines.append(
                f"memory of the process   about {_mib(used + cost.memory_bytes)}, with {_mib(used)} for Python and "
                "libraries"
            )
    return lines


def _sample_specs(stages: Sequence[TrainingStage]) -> list[SampleSpec]:
    """Return the specification of the samples in each stage, or an empty list if one of them is unknown.

    Raises:
        ComponentError: a crop is not a multiple of the scale; the message contains its location in the option file.
    """
    specs = []
    for stage in stages:
        with locate_errors(stage.where):
            specs.append(sample_spec(stage.section))
    known = [spec for spec in specs if spec is not None]
    return known if len(known) == len(stages) else []


def _meta_model(section: Section, where: Where | None = None) -> Model:
    """Return a model on the meta device, without autocast and torch.compile, which this device does not support."""
    with torch.device("meta"):
        model: Model = MODELS.build({**section, "compile": False, "precision": "fp32"}, where=where)
    return model


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))
