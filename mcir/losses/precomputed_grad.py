"""What contrastive losses share: features that are compared as they come, without a graph, and their known derivatives.

The features of the output are computed once, with a graph. Those of negatives and positives pass one after the other
without one, and of each only what it adds to the value and to the derivative with respect to the output's features is
kept: memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mcir.losses.feature_loss import FeatureLoss
from mcir.losses.pixel import in_float32

_CHUNK = 2**21  # elements that are compared at a time where an intermediate result is needed


def check_stack(loss: str, name: str, output: Tensor, stack: Tensor | Sequence[Tensor]) -> None:
    """Raise a ValueError unless ``stack`` holds at least one batch of the shape of ``output``, (N, B, C, H, W)."""
    shapes = [(*stack.shape[1:],)] * len(stack) if isinstance(stack, Tensor) else [(*one.shape,) for one in stack]
    if set(shapes) != {(*output.shape,)}:
        letter = name[0].upper()
        found = (*stack.shape,) if isinstance(stack, Tensor) else shapes
        raise ValueError(
            f"{loss}: for an output of {tuple(output.shape)} the {name} are "
            f"({letter}, {', '.join(map(str, output.shape))}) with {letter} ≥ 1, not {found}."
        )


class FeatureContrastLoss(FeatureLoss):
    """What losses share that draw the output to positives and push it from negatives, in a feature space."""

    def forward(self, output: Tensor, negatives: Tensor, positives: Tensor | Sequence[Tensor] | None = None) -> Tensor:
        """Return the loss as a scalar, in at least float32.

        Args:
            output: the restored images (B, 3, H, W) in [0, 1].
            negatives: (N, B, 3, H, W), N ≥ 1; no gradient goes to them.
            positives: P ≥ 1 images (B, 3, H, W), the ground truth first, such as ``[gt]``; no gradient goes to them
                either.

        Raises:
            ValueError: there are no positives, the shapes do not belong together, or the images are too small for the
                layers.
        """
        loss = type(self).__name__
        if positives is None:
            raise ValueError(f"{loss} needs positives, such as [gt], beside the negatives.")
        check_stack(loss, "negatives", output, negatives)
        check_stack(loss, "positives", output, positives)
        truth, *further = positives
        self.features.calibrate(truth)
        anchors = self.features(output)
        with torch.no_grad():
            streams = [self.features.target_features(truth), *map(self.features.stream, further)]
            value, steepness, slopes = self.compare(anchors, negatives, streams)
        return with_slopes(value, steepness, slopes, [anchor for anchor in anchors.values() if anchor.requires_grad])

    def compare(
        self, anchors: dict[str, Tensor], negatives: Tensor, positives: Sequence[Iterator[tuple[str, Tensor]]]
    ) -> tuple[Tensor, list[float], list[Tensor]]:
        """Return the value and its derivative, ``steepness · slope`` for each of the anchors that wants one.

        Args:
            anchors: the activations of the output by layer.
            negatives: (N, B, 3, H, W).
            positives: the activations of each positive, layer by layer, as they come.
        """
        raise NotImplementedError


def with_slopes(
    value: Tensor, steepness: Sequence[float], slopes: Sequence[Tensor], features: Sequence[Tensor]
) -> Tensor:
    """Return ``value`` with the derivative ``steepness · slope`` for each of the features, which get it when asked."""
    if not slopes:
        return value
    found: Tensor = _WithSlopes.apply(value, list(steepness), *slopes, *features)
    return found


def sum_of_absolute_differences(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum over everything, a part of the batch at a time, so that intermediate results stay small."""
    images = max(1, _CHUNK // a[0].numel())
    total = in_float32(a.new_zeros(()))
    for start in range(0, len(a), images):
        total += (in_float32(a[start : start + images]) - in_float32(b[start : start + images])).abs_().sum()
    return total


class _WithSlopes(torch.autograd.Function):
    """A value whose derivatives are known already: ``steepness · slope`` for each of the features."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, steepness: list[float], *slopes_and_features: Tensor) -> Tensor:
        ctx.steepness = steepness
        ctx.save_for_backward(*slopes_and_features[: len(steepness)])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        slopes = ctx.saved_tensors
        found = (slope * (gradient * factor) for slope, factor in zip(slopes, ctx.steepness, strict=True))
        return (None, None, *(None for _ in slopes), *found)
