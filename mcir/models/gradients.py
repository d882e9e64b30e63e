"""What each loss asks of the network's output, seen on its way through the backward pass; losses held in balance."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_KEEP = 0.99
_TINY = 1e-30


class Balance(nn.Module):
    """The factor that holds the gradient of one loss at a ratio to that of the first loss, both at the output.

    The ratio that the loss has by itself is measured in every step and averaged on a logarithmic scale, over all steps
    at first and over about a hundred later. The first step is made with factor 1. A step in which one of the gradients
    is zero or not finite tells nothing.

    Args:
        ratio: the ratio to be held, above 0.

    Raises:
        ValueError: the ratio is not a finite number above 0.
    """

    log_own_ratio: Tensor
    steps: Tensor

    def __init__(self, ratio: float) -> None:
        super().__init__()
        if not 0 < ratio < float("inf"):
            raise ValueError(f"balance is a ratio above 0, not {ratio}.")
        self.ratio = ratio
        self.register_buffer("log_own_ratio", torch.zeros(()))
        self.register_buffer("steps", torch.zeros(()))

    def factor(self) -> Tensor:
        """Return the factor of the loss for the present step, a scalar without gradient."""
        return torch.where(self.steps > 0, self.ratio * torch.exp(-self.log_own_ratio), 1.0)

    @torch.no_grad()
    def update(self, ratio: Tensor) -> None:
        """Take in the ratio that was measured with the present factor."""
        own = torch.log(ratio / self.factor())
        tells = own.isfinite()
        keep = (self.steps / (self.steps + 1)).clamp(max=_KEEP)
        self.log_own_ratio.copy_(torch.where(tells, own.lerp(self.log_own_ratio, keep), self.log_own_ratio))
        self.steps += tells


class LossGradients:
    """Sees the gradient of each loss at the network's output in the backward pass that runs anyway.

    Each loss that is attached gets the output under another name (``alias_of`` the output), at which autograd gathers
    what comes from this loss alone. Nothing is computed twice but, where losses share features of the output, the
    backward pass from these features to the output.

    Attributes:
        names: of the losses, in the order in which they were attached.
        balances: of the losses that are held in balance, by their names.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.balances: dict[str, Balance] = {}
        self._weights: dict[str, float] = {}
        self._open = False
        self._gradients: dict[str, Tensor] = {}
        self._products: Tensor | None = None

    def attach(self, name: str, loss: nn.Module, balance: Balance | None = None) -> None:
        """Watch a loss whose first argument is the output; with ``balance`` its value is multiplied by that factor."""
        self.names.append(name)
        loss.register_forward_pre_hook(_Gate(self, name))
        if balance is not None:
            self.balances[name] = balance
            self._weights[name] = getattr(loss, "loss_weight", 1.0)
            loss.register_forward_hook(_Weigh(balance))

    def begin(self, asked: bool) -> None:
        """Begin a step: watch it if that is asked or a balance needs it, and there is more than one loss."""
        self._open = len(self.names) > 1 and (asked or bool(self.balances))
        self._gradients.clear()
        self._products = None

    def see(self, name: str, output: Tensor) -> Tensor:
        """Return the output as the loss ``name`` shall get it."""
        if not (self._open and output.requires_grad):
            return output
        alias = output.view_as(output)
        alias.alias_of = output  # type: ignore[attr-defined]

        def keep(gradient: Tensor) -> None:
            self._gradients[name] = gradient

        alias.register_hook(keep)  # type: ignore[no-untyped-call]
        return alias

    @torch.no_grad()
    def collect(self) -> None:
        """Take in the gradients after the backward pass of one part of the batch."""
        if self._gradients:
            like = next(iter(self._gradients.values()))
            seen = [self._gradients.get(name, torch.zeros_like(like)).float() for name in self.names]
            products = torch.stack([torch.stack([(a * b).sum() for b in seen]) for a in seen])
            self._products = products if self._products is None else self._products + products
            self._gradients.clear()

    @torch.no_grad()
    def tell(self, scale: Tensor | float, mean_over_ranks: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """End the step: set the balances, and return what was seen as scalars.

        These are the L2 norm ``grad_<loss>`` of the gradient of each loss at the output of one process, and for all
        but the first loss ``ratio_<loss>`` and ``cosine_<loss>`` to the first; with a balance ``factor_<loss>``, the
        one that the step was made with, and ``weight_<loss>``, the weight that the loss has by it: factor·loss_weight.

        Args:
            scale: by which the losses were multiplied before the backward pass.
            mean_over_ranks: maps a tensor to its mean over the processes.
        """
        self._open = False
        if self._products is None:
            return {}
        products = mean_over_ranks(self._products)
        norms = products.diagonal().sqrt()
        told = {f"grad_{name}": norm / scale for name, norm in zip(self.names, norms, strict=True)}
        for number, name in enumerate(self.names[1:], start=1):
            told[f"ratio_{name}"] = norms[number] / norms[0].clamp(min=_TINY)
            told[f"cosine_{name}"] = products[0, number] / (norms[0] * norms[number]).clamp(min=_TINY)
            if name in self.balances:
                told[f"factor_{name}"] = factor = self.balances[name].factor()
                told[f"weight_{name}"] = factor * self._weights[name]
                self.balances[name].update(norms[number] / norms[0])
        return told


class _Gate:
    """Lets the watch see the first argument of a loss."""

    def __init__(self, watch: LossGradients, name: str) -> None:
        self.watch = watch
        self.name = name

    def __call__(self, loss: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.watch.see(self.name, arguments[0]), *arguments[1:])


class _Weigh:
    """Multiplies the value of a loss."""

    def __init__(self, balance: Balance) -> None:
        self.balance = balance

    def __call__(self, loss: nn.Module, arguments: tuple[Any, ...], value: Tensor) -> Tensor:
        return value * self.balance.factor()
