"""PCL: "A Practical Contrastive Learning Framework for Single-Image Super-Resolution", arXiv:2111.13924.

    L = λ Σ_l w_l · mean_p −log(e^{s_p/τ} / (e^{s_p/τ} + Σ_n e^{s_n/τ}))

The similarity s of two images is the cosine similarity of their feature vectors, averaged over all positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from mcir.domains import LayerWeights, NonNegative
from mcir.features import VGGType
from mcir.losses.base import in_float32
from mcir.losses.precomputed_grad import FeatureContrastLoss
from mcir.registry import LOSSES


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class PCLLoss(FeatureContrastLoss):
    """PCL: InfoNCE over feature maps, averaged over the images of the batch.

    In the paper, the positives are the ground truth and sharpened copies of it, and the negatives are the upscaled
    input and blurred ground truths. A zero feature vector has similarity 0 to every other vector.

    The gradient flows through the features of the output, as in the formula. The released code computes these features
    under ``no_grad`` when it updates the network (``src/loss/adversarial.py``, ``src/loss/cl.py``), so the loss does
    not train the network. The embedding of the released code is a patch discriminator on wavelets, which is trained
    together with the network. Here it is a feature network, as in the ``VGGInfoNCE`` of the released code. The released
    code does not normalize the images and has no temperature.
    """

    layer_weights: LayerWeights = field(
        kw_only=False, default_factory=lambda: {"relu1_1": 1 / 3, "relu3_1": 1 / 3, "relu5_1": 1 / 3}
    )
    vgg_type: VGGType = "vgg19"
    use_input_norm: bool = False
    loss_weight: NonNegative = 1.0
    temperature: Annotated[float, Interval(ge=0.05, le=1000)] = 1.0
    """τ, at least 0.05."""

    def compare(
        self, anchors: dict[str, Tensor], negatives: Tensor, positives: Sequence[Iterator[tuple[str, Tensor]]]
    ) -> tuple[Tensor, list[float], list[Tensor]]:
        """Return the value and the gradients of the anchors; see :class:`FeatureContrastLoss`."""
        losses = {name: InfoNCE(anchor, self.temperature) for name, anchor in anchors.items()}
        for negative in negatives:
            for name, feature in self.features.stream(negative):
                losses[name].add_negative(feature)
                del feature  # release it before the next layer is computed
        for features in positives:
            for name, feature in features:
                losses[name].add_positive(feature, len(positives))
                del feature
        weights = {name: self.loss_weight * self.layer_weights[name] for name in losses}
        value = torch.stack([weights[name] * loss.value for name, loss in losses.items()]).sum()
        with_grad = [name for name, anchor in anchors.items() if anchor.requires_grad]
        return value, [weights[name] for name in with_grad], [losses[name].grad() for name in with_grad]


class InfoNCE:
    """The InfoNCE of one layer and its gradient, accumulated batch by batch without a graph.

    Add all negatives before the first positive. Exponentials are computed of (s − 1)/τ ≤ 0, so they cannot overflow.

    Args:
        anchor: feature maps of the output, (B, C, H, W).
        temperature: τ.
    """

    def __init__(self, anchor: Tensor, temperature: float) -> None:
        anchor = in_float32(anchor.detach())
        self.temperature = temperature
        self.length = torch.linalg.vector_norm(anchor, dim=1, keepdim=True)
        self.direction = _divide(anchor, self.length)
        self.value = anchor.new_zeros(())
        self._negative_sum = anchor.new_zeros(len(anchor))  # Σ_n e^{s_n/τ}, (B,)
        self._directions = torch.zeros_like(anchor)  # Σ e^{s_n/τ} · direction_n; later the same for positives
        self._cosines = torch.zeros_like(self.length)  # Σ e^{s_n/τ} · cosine_n; later the same for positives
        self._has_positives = False

    def add_negative(self, feature: Tensor) -> None:
        """Add the feature maps of one batch of negatives."""
        assert not self._has_positives
        direction, cosine, exponential = self._similarity(feature)
        self._negative_sum += exponential
        self._accumulate(exponential, direction, cosine)

    def add_positive(self, feature: Tensor, count: int) -> None:
        """Add the feature maps of one of ``count`` batches of positives."""
        direction, cosine, exponential = self._similarity(feature)
        if not self._has_positives:
            self._has_positives = True
            self._negative_weight = torch.zeros_like(exponential)
            self._negative_directions, self._directions = self._directions, torch.zeros_like(self._directions)
            self._negative_cosines, self._cosines = self._cosines, torch.zeros_like(self._cosines)
        total = exponential + self._negative_sum
        self.value = self.value + (total.log() - exponential.log()).mean() / count
        self._negative_weight += 1 / total / count
        self._accumulate((exponential / total - 1) / count, direction, cosine)

    def grad(self) -> Tensor:
        """Return the gradient of the value with respect to the anchor."""
        weight = _per_image(self._negative_weight)
        directions = self._directions.addcmul_(self._negative_directions, weight)
        cosines = self._cosines.addcmul_(self._negative_cosines, weight)
        positions = self.length[0].numel() * len(self.length) * self.temperature
        return _divide(directions.sub_(self.direction * cosines), self.length).div_(positions)

    def _similarity(self, feature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        feature = in_float32(feature)
        direction = _divide(feature, torch.linalg.vector_norm(feature, dim=1, keepdim=True))
        cosine = (direction * self.direction).sum(1, keepdim=True)
        return direction, cosine, ((cosine.mean((1, 2, 3)) - 1) / self.temperature).exp()

    def _accumulate(self, weight: Tensor, direction: Tensor, cosine: Tensor) -> None:
        self._directions.addcmul_(direction, _per_image(weight))
        self._cosines.addcmul_(cosine, _per_image(weight))


def _divide(vectors: Tensor, lengths: Tensor) -> Tensor:
    """Return ``vectors / lengths``, or zeros where the length is zero. NaN and infinity are kept."""
    return torch.where(lengths == 0, 0.0, vectors / lengths)


def _per_image(weights: Tensor) -> Tensor:
    return weights.view(-1, 1, 1, 1)
