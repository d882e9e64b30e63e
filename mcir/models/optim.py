"""Optimizers: every one of ``torch.optim`` that works with dense gradients and without a closure, by its own name."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeAlias, cast

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.amp import GradScaler

from mcir.domains import Epsilon, Fraction, NonNegative, Pair, Positive, Probability, Rate
from mcir.registry import OPTIMIZERS, OptimizerSection

_UNSUPPORTED = {"LBFGS", "SparseAdam"}  # they need a closure or sparse gradients
_Positive: TypeAlias = Annotated[float, Interval(gt=0, le=100)]
_Negative: TypeAlias = Annotated[float, Interval(ge=-100, lt=0)]
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
    "ns_coefficients": tuple[_Positive, _Negative, _Positive],
    "ns_steps": Annotated[int, Interval(ge=1, le=99)],
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
