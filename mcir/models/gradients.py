"""Gradients of each loss at the output, and loss weights that keep a fixed gradient ratio."""

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mcir.errors import ArgumentError
from mcir.losses.base import Loss

_DECAY = 0.99
_TINY = 1e-30


class GradientRatioWeight(nn.Module):
    """The factor of a loss that keeps its gradient ratio: the norm of its gradient / that of the first loss.

    The gradients are those at the output. The logarithm of the ratio at factor 1 is measured in every step and
    averaged, first over all steps, later over about 100. The first step uses factor 1. Steps in which a gradient is
    zero or not finite are ignored.

    Args:
        ratio: target ratio, above 0.

    Raises:
        ArgumentError: the ratio is not a finite number above 0.
    """

    log_own_ratio: Tensor
    steps: Tensor

    def __init__(self, ratio: float) -> None:
        super().__init__()
        if not 0 < ratio < float("inf"):
            raise ArgumentError("balance", f"expected a finite ratio above 0, got {ratio}.")
        self.ratio = ratio
        self.register_buffer("log_own_ratio", torch.zeros(()))
        self.register_buffer("steps", torch.zeros(()))

    def factor(self) -> Tensor:
        """Return the factor for the current step, a scalar without gradient."""
        return torch.where(self.steps > 0, self.ratio * torch.exp(-self.log_own_ratio), 1.0)

    @torch.no_grad()
    def update(self, ratio: Tensor) -> None:
        """Update the average with a ratio that was measured with the current factor."""
        own = torch.log(ratio / self.factor())
        valid = own.isfinite()
        decay = (self.steps / (self.steps + 1)).clamp(max=_DECAY)
        self.log_own_ratio.copy_(torch.where(valid, own.lerp(self.log_own_ratio, decay), self.log_own_ratio))
        self.steps += valid


class LossGradients:
    """The gradients of all losses at the output in one step, with their norms, ratios and cosines.

    The graph is cut at the output: each loss is differentiated with respect to a detached leaf, and the caller
    continues the backward pass with the sum of these gradients. The only additional cost is that the backward pass
    through features that several losses share runs once for each of them.

    Args:
        criteria: the losses by name.
        weights: weights of the losses with a fixed gradient ratio, by name.
    """

    def __init__(self, criteria: nn.ModuleDict, weights: Mapping[str, GradientRatioWeight]) -> None:
        self._criteria = criteria
        self._weights = weights
        self._names: list[str] = []
        self._products: list[Tensor] = []  # one (L, L) matrix for each part of the batch

    def backward(
        self, losses: Mapping[str, Tensor], leaf: Tensor, scale: Callable[[Tensor], Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Differentiate each loss and return the weighted losses, detached, and the sum of the gradients at the leaf.

        Gradients of parameters that belong to a loss are accumulated as in any backward pass.

        Args:
            losses: the losses of (a part of) a batch by name.
            leaf: the network's output, detached, with ``requires_grad``.
            scale: maps a loss to the value that is differentiated.
        """
        values = dict(losses)
        for name in values.keys() & self._weights.keys():
            values[name] = values[name] * self._weights[name].factor()
        gradients = []
        for number, value in enumerate(values.values(), start=1):
            if value.requires_grad:  # losses may share features, so only the last backward pass frees the graph
                scale(value).backward(retain_graph=number < len(values))  # type: ignore[no-untyped-call]
            gradients.append(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
            leaf.grad = None
        self._names = list(values)
        floats = [gradient.float() for gradient in gradients]
        self._products.append(torch.stack([torch.stack([(a * b).sum() for b in floats]) for a in floats]))
        total = functools.reduce(torch.add, reversed(gradients))  # autograd's order, for the same rounding
        return {name: value.detach() for name, value in values.items()}, total

    @torch.no_grad()
    def finish(self, scale: Tensor | float, mean_over_processes: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Update the weights of the losses with a fixed ratio and return the scalars of the step.

        - ``grad_<loss>``: L2 norm of the gradient of a loss at the output of one process.
        - ``ratio_<loss>``, ``cosine_<loss>``: comparison with the gradient of the first loss, for all other losses.
        - ``factor_<loss>``, ``weight_<loss>``: for losses with a fixed gradient ratio, the factor in this step and the
          factor times ``loss_weight``.

        Args:
            scale: factor by which the losses were multiplied for the backward pass.
            mean_over_processes: maps a tensor to its mean over all processes.
        """
        products = mean_over_processes(torch.stack(self._products).sum(0))
        norms = products.diagonal().sqrt()
        scalars = {f"grad_{name}": norm / scale for name, norm in zip(self._names, norms, strict=True)}
        for number, name in enumerate(self._names[1:], start=1):
            scalars[f"ratio_{name}"] = norms[number] / norms[0].clamp(min=_TINY)
            scalars[f"cosine_{name}"] = products[0, number] / (norms[0] * norms[number]).clamp(min=_TINY)
            if name in self._weights:
                factor = self._weights[name].factor()
                scalars[f"factor_{name}"] = factor
                loss = self._criteria[name]
                scalars[f"weight_{name}"] = factor * (loss.loss_weight if isinstance(loss, Loss) else 1.0)
                self._weights[name].update(norms[number] / norms[0])
        return scalars


def describe_ratios(
    criteria: nn.ModuleDict, weights: Mapping[str, GradientRatioWeight], scalars: Mapping[str, Tensor]
) -> list[str]:
    """Return a line about each gradient ratio in the scalars of a step, with the ratios that are known to be sound.

    Args:
        criteria: the losses by name.
        weights: weights of the losses with a fixed gradient ratio, by name.
        scalars: scalars of the step, on any device.
    """
    lines = []
    first, *others = criteria
    for name in others:
        if (ratio := scalars.get(f"ratio_{name}")) is None:
            continue
        loss, line = criteria[name], f"{name}: its gradient at the output is {float(ratio):.3g} times that of {first}"
        if name in weights:
            line += f" ('balance' adapts it to {weights[name].ratio:g})"
        elif isinstance(loss, Loss) and loss.sound_ratios is not None:
            low, high = loss.sound_ratios
            line += f" (sound: {low:g} to {high:g})"
        lines.append(line)
    return lines
