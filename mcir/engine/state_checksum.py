"""A checksum of the state of a model, for comparing the processes of a run."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mcir.models import Model


def state_checksum(model: Model) -> float:
    """Return a number that depends on all tensors and numbers in the state of a model.

    The state of the optimizer is ignored, because a difference would also change the weights.
    """
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    stateful = {name: part for name, part in model.stateful().items() if name != "optimizer"}
    frozen = [list(part.parameters()) for part in stateful.values() if isinstance(part, nn.Module)]
    parts = [*frozen, *(part.state_dict() for part in stateful.values())]
    for tensor in _tensors(parts):
        flat = tensor.detach().flatten().double().to(total.device)
        total += torch.dot(flat, torch.linspace(1, 2, flat.numel(), dtype=flat.dtype, device=flat.device))
    return float(total)


def _tensors(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors and the numbers of a state."""
    if isinstance(tree, Tensor | int | float):
        yield torch.as_tensor(tree)
    elif isinstance(tree, Mapping | list | tuple):
        for part in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _tensors(part)
