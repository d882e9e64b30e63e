"""The losses of residual contrastive learning (RCL), arXiv:2106.10070 (IJCAI 2022).

The residuals of two patches of the same noisy image have the same distribution; the residuals of different images have
different distributions. A network learns from noisy images alone by discriminating images by their residuals (Eq. 3,
Algorithm 1). A consistency loss in a feature space preserves the image content in the output (Eq. 5).
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mcir.checks import check_choice
from mcir.communicator import DistributedModule
from mcir.domains import LayerWeights, NonNegative, Positive, Temperature
from mcir.features import VGGType
from mcir.losses.base import Comparison, Loss, Reduction, in_float32, require_same_shape
from mcir.losses.distances import Distance
from mcir.losses.feature_loss import FeatureLoss
from mcir.registry import DISTANCES, LOSSES, DistanceSection


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class ResidualContrastiveLoss(Loss, DistributedModule):
    """InfoNCE over residuals: ``λ Σ_j −ln(e^{−D_jj/τ} / Σ_i e^{−D_ji/τ})`` with ``D_ji = d(anchor_j, key_i)``.

    Anchor j and key j are the residuals of two patches of image j. The negatives of an anchor are the keys of all other
    images in all processes. If a batch contains an image twice, the copies are not negatives of each other. The loss of
    an anchor without negatives is 0. Both anchors and keys get gradients.
    """

    compares: ClassVar[Comparison] = "residuals"

    distance: DistanceSection = field(default_factory=lambda: {"type": "EarthMoversDistance"})
    """Distance d between two residuals."""
    temperature: Temperature = 0.5
    """τ. The default is for EMD in 8-bit units; the option files use 0.1 for the other distances."""
    residual_scale: Positive = 255.0
    """Factor of the residuals: 255 for 8-bit units, 1 for images in [0, 1]. It has no effect on distances that do not
    depend on the scale, or whose arguments are adapted to it (Bhattacharyya, MMD)."""
    reduction: Reduction = "sum"
    """Mean or sum over the anchors; Algorithm 1 uses the sum."""
    loss_weight: NonNegative = 1e-3

    def __post_init__(self) -> None:
        """Check the arguments and build the distance."""
        super().__post_init__()
        check_choice("reduction", self.reduction, ("mean", "sum"))
        self.residual_distance: Distance = DISTANCES.build(self.distance, key="distance")
        self.residual_distance.adapt_to_scale(self.residual_scale)

    @property
    def is_batch_mean(self) -> bool:
        """False, because the negatives are the other images of the batch."""
        return False

    def forward(self, anchors: Tensor, keys: Tensor, images: Tensor | None = None) -> Tensor:
        """Return the loss as a scalar, in at least float32.

        With several processes, the means of their losses and of their gradients equal the loss and the gradient of one
        process with the whole batch.

        Args:
            anchors: residuals of the first patches, (B, C, H, W).
            keys: residuals of the second patches, (B, C, H, W).
            images: identifiers of the images, int64, (B,). Equal identifiers mean the same image. Default: all images
                are different.

        Raises:
            ValueError: the shapes differ, or there is only one image in all processes.
        """
        require_same_shape(self, anchors, keys)
        if images is not None and images.shape != anchors.shape[:1]:
            raise ValueError(
                f"ResidualContrastiveLoss: expected images of shape ({len(anchors)},), got {tuple(images.shape)}."
            )
        count, processes = len(anchors), self.communicator.world_size
        if count * processes < 2:
            raise ValueError("ResidualContrastiveLoss: expected a batch of at least 2 images, got 1.")
        described_anchors, described_keys = (
            self.residual_distance.describe(self.residual_scale * in_float32(residuals))
            for residuals in (anchors, keys)
        )
        distances = self.residual_distance.between(described_anchors, self.communicator.all_gather(described_keys))
        positives = torch.arange(count, device=anchors.device) + self.communicator.rank * count
        logits = -distances / self.temperature
        if images is not None:
            same = images[:, None] == self.communicator.all_gather(images)
            logits = logits.masked_fill(same.scatter(1, positives[:, None], False), -math.inf)
        value = F.cross_entropy(logits, positives, reduction=self.reduction)
        factor = self.loss_weight * (processes if self.reduction == "sum" else 1)
        return (factor * value).to(in_float32(anchors).dtype)


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class ConsistencyLoss(FeatureLoss):
    """Squared distance between the output and the noisy input in the feature space of a classifier (Eq. 5).

    ``λ Σ_l w_l mean((φ_l(output) − φ_l(input))²)``. The paper uses ResNet50 but does not specify the layer. ``layer1``
    has as many channels and the same stride as the content layer of Johnson et al. (arXiv:1603.08155).
    """

    layer_weights: LayerWeights = field(kw_only=False, default_factory=lambda: {"layer1": 1.0})
    network: str = "resnet50"
    vgg_type: VGGType = field(init=False, default="vgg16")
    range_norm: bool = field(init=False, default=False)
    reduction: Reduction = "mean"
    """Mean over the features of an image, or sum as in Eq. 5. The loss is averaged over the images in both cases."""

    def __post_init__(self) -> None:
        """Check the reduction."""
        check_choice("reduction", self.reduction, ("mean", "sum"))
        super().__post_init__()

    def forward(self, output: Tensor, lq: Tensor) -> Tensor:
        """Return the loss as a scalar, in at least float32; only the output gets a gradient.

        Args:
            output: restored images, (B, C, H, W), in [0, 1].
            lq: noisy input, (B, C, H, W), in [0, 1].

        Raises:
            ValueError: the shapes differ, or the feature network does not accept the images.
        """
        require_same_shape(self, output, lq)
        self.features.calibrate(lq)
        total = in_float32(output).new_zeros(())
        for (name, anchor), (_, target) in zip(
            self.features(output).items(), self.features.target_features(lq), strict=True
        ):
            squares = (in_float32(anchor) - in_float32(target)).square()
            value = squares.mean() if self.reduction == "mean" else squares.sum() / len(output)
            total = total + self.loss_weight * self.layer_weights[name] * value
            del target  # release it before the next layer is computed
        return total
