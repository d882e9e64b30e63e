"""Contrastive losses that compute their gradient together with their value.

The features of the output are computed once, with a graph. The features of negatives and positives are computed one
batch at a time, without a graph. Each batch adds to the value and to the gradient with respect to the output's
features, and is then released. Therefore, memory does not grow with the number of negatives.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mcir.losses.base import Comparison, Loss, in_float32
from mcir.losses.feature_loss import FeatureLoss

_CHUNK = 2**21  # maximum number of elements in an intermediate result


@dataclass(kw_only=True, eq=False)
class FeatureContrastLoss(FeatureLoss):
    """Base class of losses that pull the output towards positives and away from negatives in a feature space."""

    compares: ClassVar[Comparison] = "negatives"

    def forward(self, output: Tensor, negatives: Tensor, positives: Tensor | Sequence[Tensor] | None = None) -> Tensor:
        """Return the loss as a scalar, in at least float32; only the output gets a gradient.

        Args:
            output: restored images, (B, C, H, W), in [0, 1].
            negatives: N ≥ 1 batches of negatives, (N, B, C, H, W).
            positives: P ≥ 1 batches of positives, each (B, C, H, W), the ground truth first, for example ``[gt]``.

        Raises:
            ValueError: positives are missing, shapes differ, or the images are too small for the layers.
        """
        if positives is None:
            raise ValueError(f"{type(self).__name__}: expected positives, for example [gt], got none.")
        check_stack(self, "negatives", output, negatives)
        check_stack(self, "positives", output, positives)
        target, *others = positives
        self.features.calibrate(target)
        anchors = self.features(output)
        with torch.no_grad():
            streams = [self.features.target_features(target), *map(self.features.stream, others)]
            value, grad_scales, grads = self.compare(anchors, negatives, streams)
        return attach_grad(value, grad_scales, grads, [anchor for anchor in anchors.values() if anchor.requires_grad])

    def compare(
        self, anchors: dict[str, Tensor], negatives: Tensor, positives: Sequence[Iterator[tuple[str, Tensor]]]
    ) -> tuple[Tensor, list[float], list[Tensor]]:
        """Return the value and the gradients of the anchors that require one, each as a factor and a tensor.

        Args:
            anchors: activations of the output by layer name.
            negatives: negatives, (N, B, C, H, W).
            positives: iterator over the layer names and activations of each batch of positives.

        Returns:
            The value, the factors, and the tensors. A gradient is the product of factor and tensor.
        """
        raise NotImplementedError


def check_stack(loss: Loss, name: str, output: Tensor, stack: Tensor | Sequence[Tensor]) -> None:
    """Raise a ValueError unless ``stack`` contains at least one batch, and all batches have the output's shape."""
    shapes = [(*stack.shape[1:],)] * len(stack) if isinstance(stack, Tensor) else [(*batch.shape,) for batch in stack]
    if set(shapes) != {(*output.shape,)}:
        letter, sizes = name[0].upper(), ", ".join(map(str, output.shape))
        actual = (*stack.shape,) if isinstance(stack, Tensor) else shapes
        raise ValueError(
            f"{type(loss).__name__}: expected {name} of shape ({letter}, {sizes}) with {letter} ≥ 1, got {actual}."
        )


def attach_grad(
    value: Tensor, grad_scales: Sequence[float], grads: Sequence[Tensor], features: Sequence[Tensor]
) -> Tensor:
    """Return a value whose gradient with respect to each feature tensor is ``grad_scale · grad``."""
    if not grads:
        return value
    result: Tensor = _AttachGrad.apply(value, list(grad_scales), *grads, *features)
    return result


class _AttachGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, grad_scales: list[float], *grads_and_features: Tensor) -> Tensor:
        ctx.grad_scales = grad_scales
        ctx.save_for_backward(*grads_and_features[: len(grad_scales)])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grads = ctx.saved_tensors
        scaled = (grad * (grad_output * scale) for grad, scale in zip(grads, ctx.grad_scales, strict=True))
        return (None, None, *(None for _ in grads), *scaled)


def sum_of_absolute_differences(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of |a − b| in at least float32, computed in parts to limit the size of intermediate results."""
    images = max(1, _CHUNK // a[0].numel())
    total = in_float32(a.new_zeros(()))
    for start in range(0, len(a), images):
        total += (in_float32(a[start : start + images]) - in_float32(b[start : start + images])).abs_().sum()
    return total
