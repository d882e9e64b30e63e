"""Optimizers: those of ``torch.optim`` that work with dense gradients and without a closure, by their own names.

``Muon`` is our own, because torch's accepts only matrices.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeAlias, cast

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.amp import GradScaler

from mcir.domains import Epsilon, Fraction, NonNegative, Pair, Positive, Probability, Rate
from mcir.models.muon import SMALLEST_SIDE, Muon
from mcir.registry import OPTIMIZERS, OptimizerSection

_UNSUPPORTED = {"LBFGS", "SparseAdam", "Muon"}  # they need a closure, sparse gradients, or matrices
_StepSizes: TypeAlias = Pair[Positive]

DOMAINS: dict[str, Any] = {
    "lr": Rate | Tensor,
    "betas": tuple[Probability, Probability],
    "eps": Epsilon,
    "weight_decay": NonNegative | Tensor,
    "momentum": Probability,
    "dampening": Fraction,
    "rho": Probability,
    "lr_decay": NonNegative,
    "initial_accumulator_value": NonNegative,
    "lambd": NonNegative,
    "t0": Annotated[float, Interval(ge=0, le=1e12)],
    "momentum_decay": Fraction,
    "d": Positive,
    "beta2_decay": Annotated[float, Interval(ge=-10, lt=0)],
    "etas": tuple[Annotated[float, Interval(gt=0, lt=1)], Annotated[float, Interval(gt=1, le=100)]],
    "step_sizes": _StepSizes,
}
"""Domains of the arguments of torch's optimizers, by name."""
OTHER_DOMAINS: dict[str, dict[str, Any]] = {
    "ASGD": {"alpha": NonNegative},
    "RMSprop": {"alpha": Probability},
    "Adafactor": {"eps": tuple[Epsilon | None, Epsilon]},
}
"""Domains of arguments that have different meanings, by optimizer."""

_SMALLEST_SCALE = 2.0**-16  # at a smaller loss scale, gradients that are not finite are not treated as an fp16 overflow

for _name, _class in vars(torch.optim).items():
    if (
        isinstance(_class, type)
        and issubclass(_class, torch.optim.Optimizer)
        and _class is not torch.optim.Optimizer
        and _name not in _UNSUPPORTED
    ):
        OPTIMIZERS.add(_class, domains=DOMAINS | OTHER_DOMAINS.get(_name, {}))
OPTIMIZERS.add(Muon)


def build_optimizer(section: OptimizerSection, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Build an optimizer from a section of the option file.

    On CUDA, the fused implementation is the default, if there is one.

    Raises:
        ValueError: the optimizer is unknown or does not accept the arguments.
    """
    parameters = list(parameters)
    known = OPTIMIZERS.parameters(section["type"])
    if "fused" in known and not {"fused", "foreach", "differentiable"} & section.keys():
        section = {**section, "fused": True if all(parameter.is_cuda for parameter in parameters) else None}
    return cast(torch.optim.Optimizer, OPTIMIZERS.build(section, parameters, key="optim_g"))


Moments: TypeAlias = dict[str, int | None]
"""The moments of a parameter by name: None for one that has the parameter's shape, or else its size in bytes."""


def moments_of(section: OptimizerSection, parameters: Sequence[Tensor]) -> list[Moments]:
    """Return the moments that an optimizer has for each parameter.

    They are those after a step with small parameters, whose longer sides are shortened. Sizes of moments that do not
    have the parameter's shape, such as those of Adafactor, are therefore only exact if they do not depend on it.
    """
    kinds = [tuple(min(side, SMALLEST_SIDE) for side in parameter.shape) for parameter in parameters]
    small = {kind: nn.Parameter(torch.zeros(kind, device="cpu")) for kind in kinds}
    for value in small.values():
        value.grad = torch.zeros_like(value)
    optimizer = build_optimizer(section, small.values())
    optimizer.step()
    moments: dict[tuple[int, ...], Moments] = {}
    for kind, value in small.items():
        moments[kind] = {}
        for name, moment in optimizer.state[value].items():
            has_shape = getattr(moment, "shape", None) == value.shape
            moments[kind][name] = None if has_shape else moment.nbytes if isinstance(moment, Tensor) else 0
    return [moments[kind] for kind in kinds]


def optimizer_step(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], max_norm: float | None, scaler: GradScaler
) -> Tensor:
    """Clip the gradient to ``max_norm``, if it is set, update the parameters, and return the norm before clipping.

    If ``scaler`` is enabled, the gradient is unscaled first. The norm is 0 if the update is skipped.
    """
    scale = scaler.scale(torch.ones((), device=parameters[0].device))
    scaler.unscale_(optimizer)
    if max_norm is None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    else:
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    scaler.step(optimizer)
    scaler.update()
    if not scaler.is_enabled():
        return norm
    return norm.masked_fill(~norm.isfinite() & (scale >= _SMALLEST_SCALE), 0)
