"""A check that stops a training if a loss or a weight is NaN or infinite, before a checkpoint is saved."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class NotFiniteError(ArithmeticError):
    """A loss, the gradient or a weight is NaN or infinite.

    Attributes:
        iteration: first such iteration.
        scalars: names of the values that are not finite.
    """

    def __init__(self, iteration: int, scalars: Sequence[str], paths: Sequence[str] = ()) -> None:
        names = ", ".join(scalars[:5]) + (f" and {len(scalars) - 5} more" if len(scalars) > 5 else "")
        images = "\n  ".join(["Images of the batch:", *paths]) if paths else ""
        super().__init__(
            f"Iteration {iteration}: NaN or infinite values of {names}. No checkpoint is written; with --auto_resume, "
            "the run resumes from its last checkpoint. Common causes are a learning rate that is too high (try "
            f"'train.grad_clip') and damaged images. {images}".rstrip()
        )
        self.iteration = iteration
        self.scalars = list(scalars)


class FiniteGuard:
    """Detect NaN and infinite scalars of a training without a device sync in every iteration."""

    def __init__(self) -> None:
        self._recorded: list[tuple[int, list[str], Tensor, Sequence[str]]] = []

    def record(self, iteration: int, scalars: Mapping[str, Tensor], paths: Sequence[str]) -> None:
        """Record which scalars of an iteration are finite, without a device sync, and the paths of its images."""
        names = [name for name in scalars if name != "lr"]
        finite = torch.stack([torch.isfinite(scalars[name]) for name in names])
        self._recorded.append((iteration, names, finite, paths))

    def check(self) -> None:
        """Check all iterations since the last check.

        Raises:
            NotFiniteError: a scalar is not finite. The message contains the first such iteration and its images.
        """
        recorded, self._recorded = self._recorded, []
        for iteration, names, finite, paths in recorded:
            if not bool(finite.all()):
                bad = [name for name, good in zip(names, finite.tolist(), strict=True) if not good]
                raise NotFiniteError(iteration, bad, paths)
