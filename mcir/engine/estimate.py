"""What a training step will cost, computed without data, weights or a device."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mcir.models import Model
from mcir.registry import MODELS, Section


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
    with torch.device("meta"):
        model: Model = MODELS.build({**section, "compile": False, "precision": "fp32", "accumulation_steps": 1})
    batch = model.example(batch_size // parts, lq_size, gt_size, stored)
    model.after_step = lambda *_: None  # type: ignore[method-assign]  # averages may look at values, which meta lacks
    static = [*model.parts.parameters(), *model.parts.buffers()]
    lasting = {tensor.untyped_storage()._cdata for tensor in static}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in lasting:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model.training_step(batch, iteration=1)
    gradients = [parameter.grad for parameter in model.network.parameters() if parameter.grad is not None]
    assert model.optimizer is not None
    moments = [value for state in model.optimizer.state.values() for value in state.values()]
    state_bytes = _bytes([*static, *gradients, *moments])
    activations = sum(kept.values())
    return StepCost(
        parameters=sum(parameter.numel() for parameter in model.network.parameters()),
        flops=counter.get_total_flops() * parts,
        state_bytes=state_bytes,
        activation_bytes=activations // 2 if section.get("precision") in ("bf16", "fp16") else activations,
    )


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))
