"""Contrastive losses: SPN, self-prior negatives ("Learning from History", AAAI 2024).

The output is pushed away, in a feature space, from what earlier states of the network make of the same input:
``L = −λ · 1/N Σ_i Σ_l w_l d(φ_l(output), φ_l(negative_i))``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mcir.features.vgg import VGGType
from mcir.losses.feature_loss import FeatureLoss, Normalize
from mcir.losses.perceptual import Criterion, check_criterion, frobenius
from mcir.losses.pixel import in_float32
from mcir.losses.precomputed_grad import check_stack, sum_of_absolute_differences, with_slopes
from mcir.registry import LOSSES

_DEFAULT_LAYERS = {"relu1_2": 0.2, "relu2_2": 0.3, "relu3_3": 0.5}


@LOSSES.register()
class SPNLoss(FeatureLoss):
    """The negative term of SPN, ready to be added to a reconstruction loss (it carries its minus sign).

    The features of the output are computed once. The negatives pass one after the other without a graph, and of each
    only its contribution to the value and to the derivative with respect to the output's features is kept: memory does
    not grow with their number.

    Args:
        layer_weights: the layers and how much each counts.
        vgg_type: which VGG.
        weights: ``imagenet``, ``random`` or a path; see :class:`~mcir.features.vgg.VGGFeatures`.
        use_input_norm: normalise the images as ImageNet's.
        range_norm: the images are in [-1, 1] rather than [0, 1].
        criterion: the distance: ``l1``, ``l2`` (mean of squares) or ``fro`` (norm).
        loss_weight: λ.
        seed: of random weights.
        network: any classifier of torchvision by name, in place of ``vgg_type``; its layers are named by its nodes.
        normalize: ``unit`` divides each layer by its mean activation; see :mod:`mcir.losses.feature_loss`.

    Raises:
        ValueError: an unknown layer, network or criterion, a weight that is not finite, or weights that are not there.
    """

    compares_target = False

    def __init__(
        self,
        layer_weights: Mapping[str, float] = _DEFAULT_LAYERS,
        vgg_type: VGGType = "vgg16",
        weights: str = "imagenet",
        use_input_norm: bool = True,
        range_norm: bool = False,
        criterion: Criterion = "l1",
        loss_weight: float = 1e-4,
        seed: int = 0,
        network: str | None = None,
        normalize: Normalize = "none",
    ) -> None:
        check_criterion("SPNLoss", criterion)
        space = (vgg_type, network, weights, use_input_norm, range_norm, seed, normalize)
        super().__init__(layer_weights, {"loss_weight": loss_weight}, *space)
        self.criterion: Criterion = criterion
        self.is_batch_mean = criterion != "fro"
        self.loss_weight = loss_weight

    def forward(self, output: Tensor, negatives: Tensor, positives: Tensor | Sequence[Tensor] | None = None) -> Tensor:
        """Return the loss as a scalar, in at least float32.

        Args:
            output: the restored images (B, 3, H, W) in [0, 1].
            negatives: (N, B, 3, H, W), N ≥ 1; no gradient goes to them.
            positives: P images (B, 3, H, W); no part of the loss. ``normalize: unit`` measures the first of them rather
                than the output, if they are there.

        Raises:
            ValueError: the shapes do not belong together, or the images are too small for the layers.
        """
        check_stack("SPNLoss", "negatives", output, negatives)
        self.features.calibrate(output if positives is None else positives[0])
        anchors: dict[str, Tensor] = self.features(output)
        with torch.no_grad():
            slopes = {name: self._zero_slope(anchor) for name, anchor in anchors.items() if anchor.requires_grad}
            scales = {
                name: -self.loss_weight * self.layer_weights[name] / len(negatives) * self._normaliser(anchor)
                for name, anchor in anchors.items()
            }
            value = in_float32(next(iter(anchors.values())).new_zeros(()))
            for negative in negatives:
                for name, feature in self.features.stream(negative):
                    value += scales[name] * self._compare(anchors[name], feature, slopes.get(name))
                    del feature  # its memory is free for the next layer
        factor = 2.0 if self.criterion == "l2" else 1.0
        steepness = [factor * scales[name] for name in slopes]
        return with_slopes(value, steepness, list(slopes.values()), [anchors[name] for name in slopes])

    def _zero_slope(self, anchor: Tensor) -> Tensor:
        """Return where derivatives gather: sums of signs are exact in any type, others need float32."""
        return torch.zeros_like(anchor) if self.criterion == "l1" else torch.zeros_like(in_float32(anchor))

    def _normaliser(self, anchor: Tensor) -> float:
        return 1.0 if self.criterion == "fro" else 1 / anchor.numel()

    def _compare(self, anchor: Tensor, negative: Tensor, slope: Tensor | None) -> Tensor:
        """Return the sum behind the distance of two features, and add its derivative (l2: half of it) to ``slope``.

        The memory of ``negative`` is overwritten.
        """
        anchor = anchor.detach()
        if self.criterion == "l1":
            total = sum_of_absolute_differences(anchor, negative)
            if slope is not None:
                slope += torch.sub(anchor, negative, out=negative).sign_()
            return total
        difference = in_float32(anchor) - in_float32(negative)
        if self.criterion == "l2":
            if slope is not None:
                slope += difference
            return difference.square_().sum()
        norm = frobenius(difference)
        if slope is not None:
            slope += difference.div_(norm).masked_fill_(norm == 0, 0.0)  # at distance zero the derivative is zero
        return norm
