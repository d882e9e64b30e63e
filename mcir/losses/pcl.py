"""PCL: "A Practical Contrastive Learning Framework for Single-Image Super-Resolution", arXiv:2111.13924."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mcir.features.vgg import VGGType
from mcir.losses.feature_loss import Normalize
from mcir.losses.pixel import in_float32
from mcir.losses.precomputed_grad import FeatureContrastLoss
from mcir.registry import LOSSES

_LAYERS = {"relu1_1": 1 / 3, "relu3_1": 1 / 3, "relu5_1": 1 / 3}
_LOWEST_TEMPERATURE = 0.05


@LOSSES.register()
class PCLLoss(FeatureContrastLoss):
    """InfoNCE over feature maps: ``λ · Σ_l w_l · mean_p −log(e^{s_p/τ} / (e^{s_p/τ} + Σ_n e^{s_n/τ}))``.

    The similarity ``s`` of two images is the cosine of their feature vectors at each place, averaged over the places; a
    vector of zeros is similar to nothing. The loss is the mean over the images of a batch. In PCL the positives are the
    ground truth and sharpened copies of it, the negatives the enlarged input and blurred ground truths.

    The gradient flows through the output's features, as the formula says. The released code computes them under
    ``no_grad`` when it updates the network (``src/loss/adversarial.py``, ``src/loss/cl.py``), so that as released the
    term does not train it. Its embedding is a patch discriminator on wavelets that learns beside the network; here, as
    in its own ``VGGInfoNCE``, a feature network is the embedding.

    Negatives and positives pass without a graph, and memory does not grow with their number.

    Args:
        layer_weights: the layers and how much each counts.
        vgg_type: which VGG.
        weights: ``imagenet``, ``random`` or a path; see :class:`~mcir.features.vgg.VGGFeatures`.
        use_input_norm: normalise the images as ImageNet's; the released code does not.
        range_norm: the images are in [-1, 1] rather than [0, 1].
        temperature: τ, at least 0.05; the released code has none, that is 1.
        loss_weight: λ.
        seed: of random weights.
        network: any classifier of torchvision by name, in place of ``vgg_type``; its layers are named by its nodes.
        normalize: ``unit`` divides each layer by its mean activation, on which a cosine does not depend.

    Raises:
        ValueError: an unknown layer or network, a weight that is not finite, a temperature that is not a finite number
            from 0.05 on, or weights that are not there.
    """

    def __init__(
        self,
        layer_weights: Mapping[str, float] = _LAYERS,
        vgg_type: VGGType = "vgg19",
        weights: str = "imagenet",
        use_input_norm: bool = False,
        range_norm: bool = False,
        temperature: float = 1.0,
        loss_weight: float = 1.0,
        seed: int = 0,
        network: str | None = None,
        normalize: Normalize = "none",
    ) -> None:
        space = (vgg_type, network, weights, use_input_norm, range_norm, seed, normalize)
        super().__init__(layer_weights, {"loss_weight": loss_weight}, *space)
        if not _LOWEST_TEMPERATURE <= temperature < math.inf:
            raise ValueError(
                f"PCLLoss: temperature is a finite number, at least {_LOWEST_TEMPERATURE}, not {temperature!r}."
            )
        self.temperature = temperature
        self.loss_weight = loss_weight

    def compare(
        self, anchors: dict[str, Tensor], negatives: Tensor, positives: Sequence[Iterator[tuple[str, Tensor]]]
    ) -> tuple[Tensor, list[float], list[Tensor]]:
        """Return the value and its derivative with respect to the anchors."""
        contrasts = {name: InfoNCE(anchor, self.temperature) for name, anchor in anchors.items()}
        for negative in negatives:
            for name, feature in self.features.stream(negative):
                contrasts[name].repel(feature)
                del feature  # its memory is free for the next layer
        for features in positives:
            for name, feature in features:
                contrasts[name].attract(feature, len(positives))
                del feature
        weights = {name: self.loss_weight * self.layer_weights[name] for name in contrasts}
        value = torch.stack([weights[name] * contrast.value for name, contrast in contrasts.items()]).sum()
        wanting = [name for name, anchor in anchors.items() if anchor.requires_grad]
        return value, [weights[name] for name in wanting], [contrasts[name].slope() for name in wanting]


class InfoNCE:
    """The InfoNCE of one layer, built up image by image without a graph: all negatives first, then the positives.

    All exponents are taken of (s − 1)/τ, which is never above 0.

    Args:
        anchor: the output's feature maps, (B, C, H, W).
        temperature: τ.
    """

    def __init__(self, anchor: Tensor, temperature: float) -> None:
        anchor = in_float32(anchor.detach())
        self.temperature = temperature
        self.length = torch.linalg.vector_norm(anchor, dim=1, keepdim=True)
        self.direction = _over(anchor, self.length)
        self.value = anchor.new_zeros(())
        self._repelling = anchor.new_zeros(len(anchor))  # Σ_n e^{s_n/τ}, (B,)
        self._pull = torch.zeros_like(anchor)  # Σ e^{s_n/τ} · direction_n, then with the positives
        self._along = torch.zeros_like(self.length)  # the same with cosines in place of directions
        self._negatives_are_in = False

    def repel(self, feature: Tensor) -> None:
        """Take in a negative."""
        assert not self._negatives_are_in
        direction, cosine, exponential = self._compare(feature)
        self._repelling += exponential
        self._add(exponential, direction, cosine)

    def attract(self, feature: Tensor, count: int) -> None:
        """Take in one of ``count`` positives."""
        direction, cosine, exponential = self._compare(feature)
        if not self._negatives_are_in:
            self._negatives_are_in = True
            self._share = torch.zeros_like(exponential)
            self._repulsion, self._pull = self._pull, torch.zeros_like(self._pull)
            self._repulsion_along, self._along = self._along, torch.zeros_like(self._along)
        together = exponential + self._repelling
        self.value = self.value + (together.log() - exponential.log()).mean() / count
        self._share += 1 / together / count
        self._add((exponential / together - 1) / count, direction, cosine)

    def slope(self) -> Tensor:
        """Return the derivative with respect to the anchor."""
        share = _per_image(self._share)
        pull = self._pull.addcmul_(self._repulsion, share)
        along = self._along.addcmul_(self._repulsion_along, share)
        places = self.length[0].numel() * len(self.length) * self.temperature
        return _over(pull.sub_(self.direction * along), self.length).div_(places)

    def _compare(self, feature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        feature = in_float32(feature)
        direction = _over(feature, torch.linalg.vector_norm(feature, dim=1, keepdim=True))
        cosine = (direction * self.direction).sum(1, keepdim=True)
        return direction, cosine, ((cosine.mean((1, 2, 3)) - 1) / self.temperature).exp()

    def _add(self, weight: Tensor, direction: Tensor, cosine: Tensor) -> None:
        self._pull.addcmul_(direction, _per_image(weight))
        self._along.addcmul_(cosine, _per_image(weight))


def _over(vectors: Tensor, lengths: Tensor) -> Tensor:
    """Return ``vectors / lengths``, zero where the length is zero; what is not finite stays so."""
    return torch.where(lengths == 0, 0.0, vectors / lengths)


def _per_image(weights: Tensor) -> Tensor:
    return weights.view(-1, 1, 1, 1)
