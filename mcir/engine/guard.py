"""The guard that stops a run whose numbers are no longer numbers, before anything is saved."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class NotFiniteError(ArithmeticError):
    """A loss or the gradient became NaN or infinite."""


class FiniteGuard:
    """Watches the scalars of every iteration without making the host wait for the device.

    What is watched stays on the device until ``check``, which names the first bad iteration and its images.
    """

    def __init__(self) -> None:
        self._watched: list[tuple[int, list[str], Tensor, Sequence[str]]] = []

    def watch(self, iteration: int, scalars: Mapping[str, Tensor], paths: Sequence[str]) -> None:
        """Remember the scalars of an iteration and the paths of its images."""
        names = [name for name in scalars if name != "lr"]
        finite = torch.stack([torch.isfinite(scalars[name]) for name in names])
        self._watched.append((iteration, names, finite, paths))

    def check(self) -> None:
        """Look at what was watched since the last check.

        Raises:
            NotFiniteError: something was not finite.
        """
        watched, self._watched = self._watched, []
        for iteration, names, finite, paths in watched:
            if not bool(finite.all()):
                bad = ", ".join(name for name, good in zip(names, finite.tolist(), strict=True) if not good)
                images = "\n  ".join(paths)
                raise NotFiniteError(
                    f"Iteration {iteration}: {bad} is NaN or infinite. The last saved checkpoint is untouched. "
                    f"Usual causes: the learning rate is too high (try 'train.grad_clip'), or a damaged image. "
                    f"The batch was:\n  {images}"
                )
