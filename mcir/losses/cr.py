"""CR: "Contrastive Learning for Compact Single Image Dehazing" (AECR-Net), CVPR 2021, arXiv:2104.09367.

The output is pulled towards the ground truth, relative to its distance from negatives:

    L = λ Σ_l w_l · |φ_l(output) − φ_l(positive)| / (|φ_l(output) − φ_l(negative)| + eps),   |·| the mean
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mcir.features import VGGType
from mcir.losses.base import in_float32, require_positive
from mcir.losses.precomputed_grad import FeatureContrastLoss, sum_of_absolute_differences
from mcir.registry import LOSSES


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class ContrastiveRegularization(FeatureContrastLoss):
    """CR: distance from the positive divided by distance from the negative, in a feature space.

    The distances of several negatives or positives are averaged before the division. AECR-Net has one of each: the
    ground truth and the hazy input. λ = 0.1 is the paper's value; the released code has 0. The released code does not
    normalise the images.
    """

    layer_weights: Mapping[str, float] = field(
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
    loss_weight: float = 0.1
    eps: float = 1e-7
    """Positive number that is added to the distance from the negatives."""

    def __post_init__(self) -> None:
        """Check ``eps``."""
        super().__post_init__()
        require_positive(eps=self.eps)

    @property
    def is_batch_mean(self) -> bool:
        """False: the loss is a quotient of two means over the batch."""
        return False

    def shares(self, negatives: Tensor) -> Tensor:
        """Return the weight of each negative (N, B, 3, H, W) in the average of distances: (N,), with sum 1."""
        return in_float32(negatives.new_full((len(negatives),), 1 / len(negatives)))

    def compare(
        self, anchors: dict[str, Tensor], negatives: Tensor, positives: Sequence[Iterator[tuple[str, Tensor]]]
    ) -> tuple[Tensor, list[float], list[Tensor]]:
        """Return the value and the gradients of the anchors; see :class:`FeatureContrastLoss`."""
        near = {name: _MeanDistance(anchor) for name, anchor in anchors.items()}
        far = {name: _MeanDistance(anchor) for name, anchor in anchors.items()}
        for features in positives:
            _add(features, 1 / len(positives), near)
        for images, share in zip(negatives, self.shares(negatives), strict=True):
            _add(self.features.stream(images), share, far)
        value = in_float32(negatives.new_zeros(()))
        grads = []
        for layer, attraction in near.items():
            repulsion = far[layer]
            factor = self.loss_weight * self.layer_weights[layer]
            divisor = repulsion.mean + self.eps
            value = value + factor * attraction.mean / divisor
            if attraction.grad is not None and repulsion.grad is not None:
                attraction.grad.mul_(factor / divisor)
                grads.append(attraction.grad.sub_(repulsion.grad.mul_(factor * attraction.mean / divisor**2)))
        return value, [1.0] * len(grads), grads


class _MeanDistance:
    """A weighted mean of mean absolute differences from the features of the output, and its derivative."""

    def __init__(self, anchor: Tensor) -> None:
        self.anchor = anchor.detach()
        self.mean = in_float32(anchor.new_zeros(()))
        self.grad = torch.zeros_like(in_float32(self.anchor)) if anchor.requires_grad else None

    def add(self, feature: Tensor, share: Tensor | float) -> None:
        """Add the features of one image, which are overwritten."""
        scale = share / self.anchor.numel()
        self.mean = self.mean + scale * sum_of_absolute_differences(self.anchor, feature)
        if self.grad is not None:
            signs = torch.sub(self.anchor, feature, out=feature).sign_()
            self.grad += signs * scale


def _add(features: Iterable[tuple[str, Tensor]], share: Tensor | float, distances: dict[str, _MeanDistance]) -> None:
    for name, feature in features:
        distances[name].add(feature, share)
        del feature  # release it before the next layer is computed
