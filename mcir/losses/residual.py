"""The losses of residual contrastive learning (RCL): arXiv:2106.10070 (IJCAI 2022).

Two patches of one noisy image have residuals of one distribution, patches of other images have others. Telling images
apart by that trains a network on noisy images alone (Eq. 3, Algorithm 1); a consistency loss in a feature space keeps
the picture in its output (Eq. 5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mcir.communicator import DistributedModule
from mcir.losses.distances import Distance
from mcir.losses.feature_loss import FeatureLoss, Normalize
from mcir.losses.pixel import Reduction, in_float32, same_shape
from mcir.registry import DISTANCES, LOSSES, DistanceSection

_EARTH_MOVERS: Mapping[str, Any] = {"type": "EarthMoversDistance"}
_LAYERS = {"layer1": 1.0}


@LOSSES.register()
class ResidualContrastiveLoss(DistributedModule):
    """InfoNCE over residuals: ``λ Σ_j −ln(e^{−D_jj/τ} / Σ_i e^{−D_ji/τ})`` with ``D_ji = d(anchor_j, key_i)``.

    Anchor and key j are the residuals of two patches of image j; the negatives of an anchor are the keys of all other
    images, those of other processes included. An image that a batch holds twice is no negative of its own; an anchor
    that is left without negatives costs nothing. The gradient flows through both.

    Args:
        distance: d, a distance between residuals.
        temperature: τ.
        residual_scale: by which residuals are multiplied first; 255 makes 8-bit units of [0, 1].
        reduction: over the anchors; Algorithm 1 has the sum.
        loss_weight: λ, the paper's α.

    Raises:
        ValueError: an unknown distance or reduction, a temperature or scale that is not finite and above 0, a weight
            that is not finite, or a distance that does not reach as far as residuals of that scale.
    """

    is_batch_mean = False

    def __init__(
        self,
        distance: DistanceSection = _EARTH_MOVERS,
        temperature: float = 0.1,
        residual_scale: float = 1.0,
        reduction: Reduction = "sum",
        loss_weight: float = 1e-3,
    ) -> None:
        super().__init__()
        for name, number in (("temperature", temperature), ("residual_scale", residual_scale)):
            if not 0 < number < math.inf:
                raise ValueError(f"ResidualContrastiveLoss: {name} is a finite number above 0, not {number!r}.")
        if not math.isfinite(loss_weight):
            raise ValueError(f"ResidualContrastiveLoss: loss_weight is a finite number, not {loss_weight!r}.")
        _check_reduction("ResidualContrastiveLoss", reduction)
        self.distance: Distance = DISTANCES.build(distance, key="distance")
        if residual_scale > self.distance.largest:
            raise ValueError(
                f"ResidualContrastiveLoss: with a residual_scale of {residual_scale:g} residuals of [0, 1] reach "
                f"±{residual_scale:g}, and {type(self.distance).__name__} cuts them at ±{self.distance.largest:g}: "
                f"multiply its bandwidths and its largest by {residual_scale:g}, too, or leave residual_scale at 1."
            )
        self.temperature = temperature
        self.residual_scale = residual_scale
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(self, anchors: Tensor, keys: Tensor, images: Tensor | None = None) -> Tensor:
        """Return the loss of residuals (B, C, H, W) and (B, C, H, W) as a scalar, in at least float32.

        With several processes the mean of what they return, and of their gradients, is that of one process with the
        whole batch.

        Args:
            anchors: the residuals of the first patches.
            keys: those of the second patches.
            images: the number of each image, int64 (B,): equal numbers are one image. Without, all images differ.

        Raises:
            ValueError: the shapes differ, or there is only one image in all processes, which has no negatives.
        """
        same_shape("ResidualContrastiveLoss", anchors, keys)
        if images is not None and images.shape != anchors.shape[:1]:
            raise ValueError(
                f"ResidualContrastiveLoss: images are {len(anchors)} numbers, one an anchor, not {tuple(images.shape)}."
            )
        count, processes = len(anchors), self.communicator.world_size
        if count * processes < 2:
            raise ValueError("ResidualContrastiveLoss: one image has no negatives; make batches of 2 or more.")
        described, others = (self.distance.describe(self.residual_scale * in_float32(each)) for each in (anchors, keys))
        distances = self.distance.between(described, self.communicator.concatenated(others))
        own = torch.arange(count, device=anchors.device) + self.communicator.rank * count
        logits = -distances / self.temperature
        if images is not None:
            again = images[:, None] == self.communicator.concatenated(images)
            logits = logits.masked_fill(again.scatter(1, own[:, None], False), -math.inf)
        value = F.cross_entropy(logits, own, reduction=self.reduction)
        factor = self.loss_weight * (processes if self.reduction == "sum" else 1)
        return (factor * value).to(in_float32(anchors).dtype)


@LOSSES.register()
class ConsistencyLoss(FeatureLoss):
    """Squared distance of the network's output to its noisy input, in the feature space of a classifier (Eq. 5).

    ``λ Σ_l w_l mean((φ_l(output) − φ_l(input))²)``. The paper names ResNet50 but no layer; ``layer1`` has channels and
    stride of the layer that Johnson et al. (arXiv:1603.08155) took for content.

    Args:
        layer_weights: the layers and how much each counts: ``layer1`` to ``layer4``, ``avgpool``, or any other node.
        network: any classifier of torchvision by name.
        weights: ``imagenet``, ``random`` or a path; see :class:`~mcir.features.torchvision.ClassifierFeatures`.
        use_input_norm: normalise the images as ImageNet's.
        reduction: of the squares within an image: their ``mean``, or their ``sum``, the squared norm as Eq. 5 reads.
            Over the images it is always the mean.
        loss_weight: λ.
        seed: of random weights.
        normalize: ``unit`` divides each layer by its mean activation; see :mod:`mcir.losses.feature_loss`.

    Raises:
        ValueError: an unknown layer, network or reduction, a weight that is not finite, or weights that are not there.
    """

    def __init__(
        self,
        layer_weights: Mapping[str, float] = _LAYERS,
        network: str = "resnet50",
        weights: str = "imagenet",
        use_input_norm: bool = True,
        reduction: Reduction = "mean",
        loss_weight: float = 1.0,
        seed: int = 0,
        normalize: Normalize = "none",
    ) -> None:
        _check_reduction("ConsistencyLoss", reduction)
        factors = {"loss_weight": loss_weight}
        super().__init__(
            layer_weights,
            factors,
            vgg_type="vgg16",  # network goes before it
            network=network,
            weights=weights,
            use_input_norm=use_input_norm,
            range_norm=False,
            seed=seed,
            normalize=normalize,
        )
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(self, output: Tensor, lq: Tensor) -> Tensor:
        """Return the loss of (M, 3, H, W) images as a scalar, in at least float32; no gradient goes to ``lq``.

        Raises:
            ValueError: the shapes differ, or the network does not take them.
        """
        same_shape("ConsistencyLoss", output, lq)
        self.features.calibrate(lq)
        total = in_float32(output).new_zeros(())
        for (name, ours), (_, theirs) in zip(
            self.features(output).items(), self.features.target_features(lq), strict=True
        ):
            squares = (in_float32(ours) - in_float32(theirs)).square()
            value = squares.mean() if self.reduction == "mean" else squares.sum() / len(output)
            total = total + self.loss_weight * self.layer_weights[name] * value
            del theirs  # its memory is free for the next layer
        return total


def _check_reduction(loss: str, reduction: str) -> None:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"{loss}: reduction is 'mean' or 'sum', not {reduction!r}.")
