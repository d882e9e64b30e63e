"""A guard that stops a training whose losses are NaN or infinite, before anything is saved."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class NotFiniteError(ArithmeticError):
    """A loss or the gradient is NaN or infinite."""


class FiniteGuard:
    """A check of the scalars of every iteration that does not wait for the device in every iteration."""

    def __init__(self) -> None:
        self._recorded: list[tuple[int, list[str], Tensor, Sequence[str]]] = []

    def record(self, iteration: int, scalars: Mapping[str, Tensor], paths: Sequence[str]) -> None:
        """Record which scalars of an iteration are finite, on their device, and the paths of its images."""
        names = [name for name in scalars if name != "lr"]
        finite = torch.stack([torch.isfinite(scalars[name]) for name in names])
        self._recorded.append((iteration, names, finite, paths))

    def check(self) -> None:
        """Check everything recorded since the last check.

        Raises:
            NotFiniteError: a scalar is not finite; the message names the first such iteration and its images.
        """
        recorded, self._recorded = self._recorded, []
        for iteration, names, finite, paths in recorded:
            if not bool(finite.all()):
                bad = ", ".join(name for name, good in zip(names, finite.tolist(), strict=True) if not good)
                images = "\n  ".join(paths)
                raise NotFiniteError(
                    f"Iteration {iteration}: {bad} is NaN or infinite. The last saved checkpoint is not affected. "
                    f"Common causes: the learning rate is too high (try 'train.grad_clip'), or an image is damaged. "
                    f"The batch was:\n  {images}"
                )
