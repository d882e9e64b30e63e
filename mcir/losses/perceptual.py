"""The perceptual loss (Johnson et al., ECCV 2016, arXiv:1603.08155) and what all losses in feature space share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from mcir.features.vgg import VGGType
from mcir.losses.feature_loss import FeatureLoss, Normalize
from mcir.losses.pixel import in_float32, same_shape
from mcir.registry import LOSSES, suggestion

Criterion: TypeAlias = Literal["l1", "l2", "fro"]


def distance(a: Tensor, b: Tensor, criterion: Criterion) -> Tensor:
    """Return the distance of two tensors as a scalar, computed in at least float32.

    ``l1`` is the mean absolute difference, ``l2`` the mean squared one, ``fro`` the Frobenius norm of the difference.
    """
    difference = in_float32(a) - in_float32(b)
    if criterion == "l1":
        return difference.abs().mean()
    if criterion == "l2":
        return difference.square().mean()
    return frobenius(difference)


def frobenius(x: Tensor) -> Tensor:
    """Return the Frobenius norm of a tensor; its derivative at zero is zero.

    Taken first along the last axis and then over those norms: torch sums the squares of millions of float32 numbers one
    after the other, which leaves an error of 1e-4.
    """
    norm: Tensor = torch.linalg.vector_norm(torch.linalg.vector_norm(x, dim=-1))
    return norm


def gram(features: Tensor) -> Tensor:
    """Return the Gram matrices (B, C, C) of feature maps (B, C, H, W), divided by C·H·W, in at least float32."""
    kind = "cpu" if features.is_meta else features.device.type  # autocast knows no meta device
    with torch.autocast(kind, enabled=False):
        flat = in_float32(features).flatten(2)
        return flat @ flat.transpose(1, 2) / flat[0].numel()


def check_criterion(loss: str, criterion: str) -> None:
    """Raise a ValueError unless ``criterion`` is one of ``l1``, ``l2`` and ``fro``."""
    known = ("l1", "l2", "fro")
    if criterion not in known:
        raise ValueError(
            f"{loss}: there is no criterion '{criterion}'.{suggestion(criterion, known)} Known are l1, l2, fro."
        )


@LOSSES.register()
class PerceptualLoss(FeatureLoss):
    """Distance of two images in the feature space of a network, and of their styles (Gatys et al., CVPR 2016).

    ``perceptual_weight · Σ_l w_l d(φ_l(output), φ_l(gt)) + style_weight · Σ_l w_l d(G_l(output), G_l(gt))`` with the
    Gram matrix ``G = φφᵀ / (C·H·W)``.

    Args:
        layer_weights: the layers and how much each counts, for example ``{conv5_4: 1.0}``.
        vgg_type: which VGG.
        weights: ``imagenet``, ``random`` or a path; see :class:`~mcir.features.vgg.VGGFeatures`.
        use_input_norm: normalise the images as ImageNet's.
        range_norm: the images are in [-1, 1] rather than [0, 1].
        perceptual_weight: factor of the distance of the features.
        style_weight: factor of the distance of the Gram matrices.
        criterion: the distance: ``l1``, ``l2`` (mean of squares) or ``fro`` (norm).
        seed: of random weights.
        network: any classifier of torchvision by name, in place of ``vgg_type``; its layers are named by its nodes.
        normalize: ``unit`` divides each layer by its mean activation; see :mod:`mcir.losses.feature_loss`.

    Raises:
        ValueError: an unknown layer, network or criterion, a weight that is not finite, both factors zero, or weights
            that are not there.
    """

    def __init__(
        self,
        layer_weights: Mapping[str, float],
        vgg_type: VGGType = "vgg19",
        weights: str = "imagenet",
        use_input_norm: bool = True,
        range_norm: bool = False,
        perceptual_weight: float = 1.0,
        style_weight: float = 0.0,
        criterion: Criterion = "l1",
        seed: int = 0,
        network: str | None = None,
        normalize: Normalize = "none",
    ) -> None:
        check_criterion("PerceptualLoss", criterion)
        factors = {"perceptual_weight": perceptual_weight, "style_weight": style_weight}
        space = (vgg_type, network, weights, use_input_norm, range_norm, seed, normalize)
        super().__init__(layer_weights, factors, *space)
        if not any(factors.values()):
            raise ValueError("PerceptualLoss: perceptual_weight and style_weight are both 0, so that nothing is left.")
        self.perceptual_weight = perceptual_weight
        self.style_weight = style_weight
        self.criterion: Criterion = criterion
        self.is_batch_mean = criterion != "fro"

    def forward(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the loss of (B, 3, H, W) images as a scalar; no gradient goes to ``gt``.

        Raises:
            ValueError: the shapes differ, or the images are too small for the layers.
        """
        same_shape("PerceptualLoss", output, gt)
        self.features.calibrate(gt)
        anchors = self.features(output)
        total = torch.zeros((), device=output.device)
        for name, theirs in self.features.target_features(gt):
            ours, weight = anchors[name], self.layer_weights[name]
            if self.perceptual_weight:
                total = total + self.perceptual_weight * weight * distance(ours, theirs, self.criterion)
            if self.style_weight:
                style = distance(gram(ours), gram(theirs), self.criterion)
                total = total + self.style_weight * weight * style
            del theirs  # its memory is free for the next layer
        return total
