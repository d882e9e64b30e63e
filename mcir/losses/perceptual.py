"""The perceptual loss (Johnson et al., ECCV 2016, arXiv:1603.08155), and distances between feature maps."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mcir.checks import check_argument
from mcir.domains import NonNegative
from mcir.features import VGGType
from mcir.losses.base import in_float32, require_same_shape, without_autocast
from mcir.losses.feature_loss import Criterion, FeatureDistanceLoss
from mcir.registry import LOSSES


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class PerceptualLoss(FeatureDistanceLoss):
    """Distance between the features of two images, and distance between their styles (Gatys et al., CVPR 2016).

    ``perceptual_weight · Σ_l w_l d(φ_l(output), φ_l(gt)) + style_weight · Σ_l w_l d(G_l(output), G_l(gt))`` with the
    Gram matrices ``G = φφᵀ / (C·H·W)``.
    """

    loss_weight: float = field(init=False, default=1.0)
    vgg_type: VGGType = "vgg19"
    perceptual_weight: NonNegative = 1.0
    """Factor of the distance between the features."""
    style_weight: NonNegative = 0.0
    """Factor of the distance between the Gram matrices."""

    def __post_init__(self) -> None:
        """Check the factors."""
        super().__post_init__()
        has_term = self.perceptual_weight != 0 or self.style_weight != 0
        check_argument("perceptual_weight", 0.0, has_term, "a number other than 0 because style_weight is 0")

    def forward(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the loss as a scalar, in at least float32; only the output gets a gradient.

        Args:
            output: restored images, (B, C, H, W), in [0, 1].
            gt: ground truth, (B, C, H, W), in [0, 1].

        Raises:
            ValueError: the shapes differ, or the images are too small for the layers.
        """
        require_same_shape(self, output, gt)
        self.features.calibrate(gt)
        anchors = self.features(output)
        total = torch.zeros((), device=output.device)
        for name, target in self.features.target_features(gt):
            anchor, weight = anchors[name], self.layer_weights[name]
            if self.perceptual_weight:
                total = total + self.perceptual_weight * weight * distance(anchor, target, self.criterion)
            if self.style_weight:
                style = distance(gram(anchor), gram(target), self.criterion)
                total = total + self.style_weight * weight * style
            del target  # release it before the next layer is computed
        return total


def distance(a: Tensor, b: Tensor, criterion: Criterion) -> Tensor:
    """Return the distance between two tensors as a scalar, computed in at least float32."""
    difference = in_float32(a) - in_float32(b)
    if criterion == "l1":
        return difference.abs().mean()
    if criterion == "l2":
        return difference.square().mean()
    return frobenius(difference)


def frobenius(x: Tensor) -> Tensor:
    """Return the Frobenius norm of a tensor. The gradient at zero is zero.

    The norm is first taken along the last axis, because torch sums the squares sequentially: for millions of float32
    numbers, the relative error would be 1e-4.
    """
    norm: Tensor = torch.linalg.vector_norm(torch.linalg.vector_norm(x, dim=-1))
    return norm


def gram(features: Tensor) -> Tensor:
    """Return the Gram matrices (B, C, C) of feature maps (B, C, H, W), divided by C·H·W, in at least float32."""
    with without_autocast(features):
        flat = in_float32(features).flatten(2)
        return flat @ flat.transpose(1, 2) / flat[0].numel()
