"""SPN: self-prior negatives ("Learning from History: Task-agnostic Model Contrastive Learning", AAAI 2024).

The loss increases the distance, in a feature space φ, between the output of a network and its negatives, which are
outputs of earlier states of the same network for the same input.

    L = −λ · 1/N Σ_i Σ_l w_l d(φ_l(output), φ_l(negative_i))

λ is ``loss_weight``, w_l are ``layer_weights``, d is ``criterion``, and N is the number of negatives.

A literal implementation computes the features of the output again for each negative, and keeps all graphs until the
backward pass. This implementation computes the features of the output once. For each negative, it adds up the distance
and the gradient of the distance with respect to the output's features. Negatives therefore need no graph, and memory
does not grow with N.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from mcir.domains import LayerWeights, NonNegative
from mcir.errors import KeyPath
from mcir.losses.base import Comparison, in_float32
from mcir.losses.feature_loss import FeatureDistanceLoss
from mcir.losses.perceptual import frobenius
from mcir.losses.precomputed_grad import attach_grad, check_stack, sum_of_absolute_differences
from mcir.registry import LOSSES

COLLAPSED_LOSS_WEIGHT = 1e-3
"""Smallest λ with which trainings collapsed in the paper (Table 8: EDSR-light ×4, features of VGG16)."""


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class SPNLoss(FeatureDistanceLoss):
    """The contrastive term of SPN. It includes the minus sign, so add it to a reconstruction loss.

    Examples:
        >>> import torch
        >>> from mcir.losses import L1Loss, SPNLoss
        >>> pixel, spn = L1Loss(), SPNLoss({"relu1_2": 0.4, "relu2_2": 0.6}, weights="random", loss_weight=0.1)
        >>> output = torch.rand(2, 3, 32, 32, requires_grad=True)  # output of the network in training
        >>> negatives = torch.rand(4, 2, 3, 32, 32)  # outputs of four earlier states of the network
        >>> loss = pixel(output, torch.rand(2, 3, 32, 32)) + spn(output, negatives)
        >>> loss.backward()
        >>> output.grad.shape
        torch.Size([2, 3, 32, 32])
        >>> bool(spn(output, negatives) < spn(output, output[None]))  # a larger distance is a smaller loss
        True
    """

    compares: ClassVar[Comparison] = "negatives"
    uses_target: ClassVar[bool] = False
    sound_ratios: ClassVar[tuple[float, float] | None] = (0.058, 0.58)
    """Gradient ratios of the λ with which SPN improved the network in the paper (Table 8: 1e-5 and 1e-4), for the
    features of VGG16 in Caffe's scale."""

    layer_weights: LayerWeights = field(
        kw_only=False, default_factory=lambda: {"relu1_2": 0.2, "relu2_2": 0.3, "relu3_3": 0.5}
    )
    loss_weight: NonNegative = 1e-4
    """λ; 0 only computes the term, for comparisons."""

    def forward(self, output: Tensor, negatives: Tensor, positives: Tensor | Sequence[Tensor] | None = None) -> Tensor:
        """Return the loss as a scalar, in at least float32; only the output gets a gradient.

        Args:
            output: restored images, (B, C, H, W), in [0, 1].
            negatives: N ≥ 1 batches of negatives, (N, B, C, H, W).
            positives: batches of positives, each (B, C, H, W). They are not part of the loss. ``normalize: unit``
                calibrates its scale with the first batch, or with the output if there are no positives.

        Raises:
            ValueError: shapes differ, or the images are too small for the layers.
        """
        check_stack(self, "negatives", output, negatives)
        self.features.calibrate(output if positives is None else positives[0])
        anchors: dict[str, Tensor] = self.features(output)
        with torch.no_grad():
            grads = {name: self._zero_grad(anchor) for name, anchor in anchors.items() if anchor.requires_grad}
            scales = {
                name: -self.loss_weight * self.layer_weights[name] / len(negatives) * self._normalizer(anchor)
                for name, anchor in anchors.items()
            }
            value = in_float32(next(iter(anchors.values())).new_zeros(()))
            for negative in negatives:
                for name, feature in self.features.stream(negative):
                    value += scales[name] * self._compare(anchors[name], feature, grads.get(name))
                    del feature  # release it before the next layer is computed
        factor = 2.0 if self.criterion == "l2" else 1.0
        grad_scales = [factor * scales[name] for name in grads]
        return attach_grad(value, grad_scales, list(grads.values()), [anchors[name] for name in grads])

    def risky_arguments(self) -> dict[KeyPath, str]:
        """Return λ if trainings with such values collapsed in the paper.

        The paper's values apply to its distance between features of a trained VGG. Random weights, ``normalize: unit``
        and other distances have another scale.
        """
        is_as_in_paper = self.weights != "random" and self.normalize == "none" and self.criterion == "l1"
        if not is_as_in_paper or self.loss_weight < COLLAPSED_LOSS_WEIGHT:
            return {}
        reason = (
            f"expected a number below {COLLAPSED_LOSS_WEIGHT:g}, got {self.loss_weight:g}, because trainings with such "
            "values collapsed in the paper (Table 8). The default is 1e-4."
        )
        return {("loss_weight",): reason}

    def _compare(self, anchor: Tensor, negative: Tensor, grad: Tensor | None) -> Tensor:
        """Return the unscaled distance between two feature maps and add its gradient (for l2: half of it) to ``grad``.

        This overwrites ``negative``.
        """
        anchor = anchor.detach()
        if self.criterion == "l1":
            total = sum_of_absolute_differences(anchor, negative)
            if grad is not None:
                grad += torch.sub(anchor, negative, out=negative).sign_()
            return total
        difference = in_float32(anchor) - in_float32(negative)
        if self.criterion == "l2":
            if grad is not None:
                grad += difference
            return difference.square_().sum()
        norm = frobenius(difference)
        if grad is not None:
            grad += difference.div_(norm).masked_fill_(norm == 0, 0.0)  # the gradient at distance 0 is 0
        return norm

    def _zero_grad(self, anchor: Tensor) -> Tensor:
        """Return zeros to accumulate a gradient: sums of signs are exact in any dtype, other gradients need float32."""
        return torch.zeros_like(anchor if self.criterion == "l1" else in_float32(anchor))

    def _normalizer(self, anchor: Tensor) -> float:
        """Return the factor that converts the unscaled distance to a mean."""
        return 1.0 if self.criterion == "fro" else 1 / anchor.numel()
