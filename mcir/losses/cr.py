"""CR: "Contrastive Learning for Compact Single Image Dehazing" (AECR-Net), CVPR 2021, arXiv:2104.09367.

The loss is the distance of the output to the ground truth, divided by its distance to negatives:

    L = λ Σ_l w_l · |φ_l(output) − φ_l(positive)| / (|φ_l(output) − φ_l(negative)| + eps),   |·| the mean
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mcir.domains import Epsilon, LayerWeights, NonNegative
from mcir.features import VGGType
from mcir.losses.base import in_float32
from mcir.losses.precomputed_grad import FeatureContrastLoss, sum_of_absolute_differences
from mcir.registry import LOSSES


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class ContrastiveRegularization(FeatureContrastLoss):
    """CR: distance to the positive divided by distance to the negative, in a feature space.

    The distances to several negatives or positives are averaged before the division. AECR-Net has one positive, the
    ground truth, and one negative, the hazy input. λ = 0.1 is the value of the paper; it is 0 in the released code. The
    released code does not normalize the images.
    """

    layer_weights: LayerWeights = field(
        kw_only=False,
        default_factory=lambda: {
            "relu1_1": 1 / 32,
            "relu2_1": 1 / 16,
            "relu3_1": 1 / 8,
            "relu4_1": 1 / 4,
            "relu5_1": 1.0,
        },
    )
    vgg_type: VGGType = "vgg19"
    use_input_norm: bool = False
    loss_weight: NonNegative = 0.1
    eps: Epsilon = 1e-7
    """Positive number that is added to the distance to the negatives."""

    @property
    def is_batch_mean(self) -> bool:
        """False, because the loss is a quotient of two means over the batch."""
        return False

    def negative_weights(self, negatives: Tensor) -> Tensor:
        """Return the weight (N,) of each of the negatives (N, B, C, H, W) in the mean distance; the sum is 1."""
        return in_float32(negatives.new_full((len(negatives),), 1 / len(negatives)))

    def compare(
        self, anchors: dict[str, Tensor], negatives: Tensor, positives: Sequence[Iterator[tuple[str, Tensor]]]
    ) -> tuple[Tensor, list[float], list[Tensor]]:
        """Return the value and the gradients of the anchors; see :class:`FeatureContrastLoss`."""
        to_positives = {name: _MeanDistance(anchor) for name, anchor in anchors.items()}
        to_negatives = {name: _MeanDistance(anchor) for name, anchor in anchors.items()}
        for features in positives:
            _add(features, 1 / len(positives), to_positives)
        for images, weight in zip(negatives, self.negative_weights(negatives), strict=True):
            _add(self.features.stream(images), weight, to_negatives)
        value = in_float32(negatives.new_zeros(()))
        grads = []
        for layer, positive in to_positives.items():
            negative = to_negatives[layer]
            factor = self.loss_weight * self.layer_weights[layer]
            divisor = negative.mean + self.eps
            value = value + factor * positive.mean / divisor
            if positive.grad is not None and negative.grad is not None:
                positive.grad.mul_(factor / divisor)
                grads.append(positive.grad.sub_(negative.grad.mul_(factor * positive.mean / divisor**2)))
        return value, [1.0] * len(grads), grads


class _MeanDistance:
    """The weighted mean of absolute differences to the features of the output, and its derivative."""

    def __init__(self, anchor: Tensor) -> None:
        self.anchor = anchor.detach()
        self.mean = in_float32(anchor.new_zeros(()))
        self.grad = torch.zeros_like(in_float32(self.anchor)) if anchor.requires_grad else None

    def add(self, feature: Tensor, weight: Tensor | float) -> None:
        """Add the features of one batch of images, and overwrite them."""
        scale = weight / self.anchor.numel()
        self.mean = self.mean + scale * sum_of_absolute_differences(self.anchor, feature)
        if self.grad is not None:
            signs = torch.sub(self.anchor, feature, out=feature).sign_()
            self.grad += signs * scale


def _add(features: Iterable[tuple[str, Tensor]], weight: Tensor | float, distances: dict[str, _MeanDistance]) -> None:
    """Add the features of one batch of images to the distance of each layer."""
    for name, feature in features:
        distances[name].add(feature, weight)
        del feature  # release it before the next layer is computed
