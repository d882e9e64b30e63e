"""Muon (Keller Jordan, 2024), with AdamW for the parameters that are no hidden weight matrices."""

from collections.abc import Callable, Iterable
from math import sqrt
from typing import Annotated, Any, Literal, TypeAlias

import torch
from annotated_types import Interval
from torch import Tensor, nn

from mcir.domains import Epsilon, NonNegative, Probability, Rate
from mcir.errors import ArgumentError

_Positive: TypeAlias = Annotated[float, Interval(gt=0, le=100)]
_Negative: TypeAlias = Annotated[float, Interval(ge=-100, lt=0)]

SMALLEST_SIDE = 16
"""Smallest number of inputs and of outputs of a hidden weight."""


class Muon(torch.optim.Optimizer):
    """Muon for hidden weights, whose momentum is orthogonalized, and AdamW for all other parameters.

    Hidden weights are the weights of linear and convolutional layers with at least 16 inputs and 16 outputs. The
    kernels of a convolution are one matrix, with a row for each output. Layers that read or write images, depthwise
    convolutions, tables of position biases, scales and biases are trained by AdamW. For a matrix, the steps are those
    of ``torch.optim.Muon``.

    Args:
        params: parameters of the network.
        lr: learning rate of the hidden weights.
        weight_decay: weight decay of the hidden weights.
        momentum: momentum of the hidden weights.
        nesterov: whether to use Nesterov's momentum.
        ns_coefficients: coefficients of the Newton-Schulz iteration, which orthogonalizes the momentum.
        eps: smallest norm by which the momentum is divided.
        ns_steps: number of Newton-Schulz iterations.
        adjust_lr_fn: factor of the learning rate for an A×B matrix. "original" (default): √max(1, A/B);
            "match_rms_adamw": 0.2 √max(A, B), for learning rates that suit AdamW; "spectral_unclamped": √(A/B).
        adamw_lr: learning rate of AdamW. Default: ``lr``.
        adamw_betas: decay of AdamW's moments.
        adamw_eps: term in AdamW's denominator.
        adamw_weight_decay: weight decay of AdamW.

    Raises:
        ArgumentError: there is no hidden weight.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: Rate = 1e-3,
        weight_decay: NonNegative = 0.1,
        momentum: Probability = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[_Positive, _Negative, _Positive] = (3.4445, -4.775, 2.0315),
        eps: Epsilon = 1e-7,
        ns_steps: Annotated[int, Interval(ge=1, le=99)] = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw", "spectral_unclamped"] | None = None,
        adamw_lr: Rate | None = None,
        adamw_betas: tuple[Probability, Probability] = (0.9, 0.999),
        adamw_eps: Epsilon = 1e-8,
        adamw_weight_decay: NonNegative = 0.01,
    ) -> None:
        params = list(params)
        hidden = [parameter for parameter in params if is_hidden(parameter)]
        if not hidden:
            message = f"expected a network with layers of at least {SMALLEST_SIDE} inputs and outputs, got none."
            raise ArgumentError("type", f"{message} Use AdamW.")
        others = [parameter for parameter in params if not is_hidden(parameter)]
        rate = lr if adamw_lr is None else adamw_lr
        self._adamw = torch.optim.AdamW([{"params": others}], rate, adamw_betas, adamw_eps, adamw_weight_decay)
        own = {
            "params": hidden, "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov,
            "ns_coefficients": tuple(ns_coefficients), "eps": eps, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn,
        }  # fmt: skip
        defaults = {**self._adamw.defaults, **{key: value for key, value in own.items() if key != "params"}}
        super().__init__([own, self._adamw.param_groups[0]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        assert closure is None, "a closure is not supported"
        group, *others = self.param_groups
        for weight in group["params"]:
            if weight.grad is not None:
                self._update(weight, group)
        # load_state_dict replaces the groups and the state
        self._adamw.param_groups, self._adamw.state = others, self.state
        self._adamw.step()

    def _update(self, weight: nn.Parameter, group: dict[str, Any]) -> None:
        """Update a hidden weight."""
        assert weight.grad is not None
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        buffer, momentum = state["momentum_buffer"], group["momentum"]
        buffer.lerp_(weight.grad, 1 - momentum)
        update = weight.grad.lerp(buffer, momentum) if group["nesterov"] else buffer
        matrix = orthogonalize(update.flatten(1), group["ns_coefficients"], group["ns_steps"], group["eps"])
        factor = _lr_factor(group["adjust_lr_fn"], *matrix.shape)
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(matrix.view(weight.shape), alpha=-group["lr"] * factor)


def is_hidden(parameter: Tensor) -> bool:
    """Return whether a parameter is a weight matrix, or kernels of a convolution, between hidden features."""
    return parameter.dim() >= 2 and min(parameter.shape[:2]) >= SMALLEST_SIDE


def orthogonalize(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Return an approximation of U Vᵀ for a matrix U S Vᵀ, in bfloat16, by Newton-Schulz iterations."""
    a, b, c = coefficients
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.bfloat16()
    x = x.T if is_tall else x
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if is_tall else x).contiguous()


def _lr_factor(rule: str | None, rows: int, columns: int) -> float:
    if rule == "match_rms_adamw":
        return 0.2 * sqrt(max(rows, columns))
    return sqrt(rows / columns) if rule == "spectral_unclamped" else sqrt(max(1, rows / columns))
