"""Contrastive regularisation: the output is drawn to the ground truth relative to its distance from negatives.

CR: "Contrastive Learning for Compact Single Image Dehazing" (AECR-Net), CVPR 2021, arXiv:2104.09367. Its curricular
form C²R, here CCR: "Curricular Contrastive Regularization for Physics-aware Single Image Dehazing" (C2PNet), CVPR 2023,
arXiv:2303.14218.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mcir.features.vgg import VGGType
from mcir.losses.feature_loss import Normalize
from mcir.losses.pixel import in_float32
from mcir.losses.precomputed_grad import FeatureContrastLoss, sum_of_absolute_differences
from mcir.registry import LOSSES

_LAYERS = {"relu1_1": 1 / 32, "relu2_1": 1 / 16, "relu3_1": 1 / 8, "relu4_1": 1 / 4, "relu5_1": 1.0}


@LOSSES.register()
class ContrastiveRegularization(FeatureContrastLoss):
    """CR: ``λ · Σ_l w_l · |φ_l(output) − φ_l(positive)| / (|φ_l(output) − φ_l(negative)| + eps)``, |·| a mean.

    Of several negatives or positives the distances are averaged before they are divided. AECR-Net has one of each, the
    ground truth and the hazy input. Its released code leaves λ at 0; 0.1 is the paper's.

    The derivatives with respect to the output's features are known, so no graph is built of negatives or positives, and
    memory does not grow with their number. The value is a quotient of means over the batch, no mean over its images.

    Args:
        layer_weights: the layers and how much each counts.
        vgg_type: which VGG.
        weights: ``imagenet``, ``random`` or a path; see :class:`~mcir.features.vgg.VGGFeatures`.
        use_input_norm: normalise the images as ImageNet's; the released code does not.
        range_norm: the images are in [-1, 1] rather than [0, 1].
        loss_weight: λ.
        eps: added to the distance from the negatives, above 0.
        seed: of random weights.
        network: any classifier of torchvision by name, in place of ``vgg_type``; its layers are named by its nodes.
        normalize: ``unit`` divides each layer by its mean activation; the loss itself does not depend on it but for
            ``eps``.

    Raises:
        ValueError: an unknown layer or network, a weight that is not finite, an ``eps`` that is not finite and above 0,
            or weights that are not there.
    """

    is_batch_mean = False

    def __init__(
        self,
        layer_weights: Mapping[str, float] = _LAYERS,
        vgg_type: VGGType = "vgg19",
        weights: str = "imagenet",
        use_input_norm: bool = False,
        range_norm: bool = False,
        loss_weight: float = 0.1,
        eps: float = 1e-7,
        seed: int = 0,
        network: str | None = None,
        normalize: Normalize = "none",
    ) -> None:
        space = (vgg_type, network, weights, use_input_norm, range_norm, seed, normalize)
        super().__init__(layer_weights, {"loss_weight": loss_weight}, *space)
        if not 0 < eps < math.inf:
            raise ValueError(f"{type(self).__name__}: eps is a finite number above 0, not {eps!r}.")
        self.loss_weight = loss_weight
        self.eps = eps

    def shares(self, negatives: Tensor) -> Tensor:
        """Return how much each of the negatives (N, B, C, H, W) counts: (N,), of sum 1."""
        return in_float32(negatives.new_full((len(negatives),), 1 / len(negatives)))

    def compare(
        self, anchors: dict[str, Tensor], negatives: Tensor, positives: Sequence[Iterator[tuple[str, Tensor]]]
    ) -> tuple[Tensor, list[float], list[Tensor]]:
        """Return the value and its derivative with respect to the anchors."""
        shares = self.shares(negatives)
        attract = {name: _Distances(anchor) for name, anchor in anchors.items()}
        repel = {name: _Distances(anchor) for name, anchor in anchors.items()}
        for features in positives:
            _compare(features, 1 / len(positives), attract)
        for images, share in zip(negatives, shares, strict=True):
            _compare(self.features.stream(images), share, repel)
        value = in_float32(negatives.new_zeros(()))
        slopes = []
        for layer, near in attract.items():
            far = repel[layer]
            factor = self.loss_weight * self.layer_weights[layer]
            below = far.mean + self.eps
            value = value + factor * near.mean / below
            if near.slope is not None and far.slope is not None:
                slopes.append(near.slope.mul_(factor / below).sub_(far.slope.mul_(factor * near.mean / below**2)))
        return value, [1.0] * len(slopes), slopes


@LOSSES.register()
class CurricularContrastiveRegularization(ContrastiveRegularization):
    """CCR: CR against a consensus of negatives, each counting by whether the model has surpassed it.

    A negative counts ``1 + curriculum`` when the model's best PSNR exceeds its difficulty (the PSNR of the negatives of
    its kind), else ``1 − curriculum``; where there is one negative more than difficulties, the last is the degraded
    input, which counts ``input_weight``. The distances are averaged with these weights, divided by their sum.

    The best PSNR is what :meth:`observe` was told, and stands in the state dict. The released code measures it on the
    first test image only and asks SSIM to improve as well; here it is the PSNR of the validation set.

    Args:
        difficulties: the PSNR in dB of each kind of negatives, in the order in which they come. The default is C2PNet's
            on ITS: DCP, AOD-Net, GCANet, GridDehazeNet, FFA-Net and a better FFA-Net.
        curriculum: how far a negative's weight is from 1, a share in [0, 1].
        input_weight: of the degraded input.
        layer_weights: the layers and how much each counts.
        vgg_type: which VGG.
        weights: ``imagenet``, ``random`` or a path; see :class:`~mcir.features.vgg.VGGFeatures`.
        use_input_norm: normalise the images as ImageNet's; the released code does not.
        range_norm: the images are in [-1, 1] rather than [0, 1].
        loss_weight: λ.
        eps: added to the distance from the negatives, above 0.
        seed: of random weights.
        network: any classifier of torchvision by name, in place of ``vgg_type``; its layers are named by its nodes.
        normalize: ``unit`` divides each layer by its mean activation; the loss itself does not depend on it but for
            ``eps``.

    Raises:
        ValueError: no difficulties, a weight that is not in its range, or what CR refuses.
    """

    difficulties: Tensor
    best_psnr: Tensor

    def __init__(
        self,
        difficulties: Sequence[float] = (17.0, 19.0, 31.0, 32.0, 36.0, 40.0),
        curriculum: float = 0.25,
        input_weight: float = 6.0,
        layer_weights: Mapping[str, float] = _LAYERS,
        vgg_type: VGGType = "vgg19",
        weights: str = "imagenet",
        use_input_norm: bool = False,
        range_norm: bool = False,
        loss_weight: float = 0.2,
        eps: float = 1e-7,
        seed: int = 0,
        network: str | None = None,
        normalize: Normalize = "none",
    ) -> None:
        super().__init__(
            layer_weights, vgg_type, weights, use_input_norm, range_norm, loss_weight, eps, seed, network, normalize
        )
        name = type(self).__name__
        if not difficulties or not all(map(math.isfinite, difficulties)):
            raise ValueError(f"{name}: difficulties are finite numbers, the PSNR of at least one kind of negatives.")
        if not 0 <= curriculum <= 1:
            raise ValueError(f"{name}: curriculum is a share in [0, 1], not {curriculum!r}.")
        if not (input_weight > 0 and math.isfinite(input_weight)):
            raise ValueError(f"{name}: input_weight is a number above 0, not {input_weight!r}.")
        self.curriculum = curriculum
        self.input_weight = input_weight
        self.register_buffer("difficulties", torch.tensor(difficulties, dtype=torch.float64), persistent=False)
        self.register_buffer("best_psnr", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def observe(self, psnr: float) -> None:
        """Take note of how well the model restores by now, in dB; only the best counts."""
        if not math.isnan(psnr):
            self.best_psnr.clamp_(min=psnr)

    def shares(self, negatives: Tensor) -> Tensor:
        """Return how much each of the negatives (N, B, C, H, W) counts by now: (N,), of sum 1.

        Raises:
            ValueError: there are neither as many negatives as difficulties nor one more.
        """
        count = len(self.difficulties)
        if len(negatives) not in (count, count + 1):
            raise ValueError(
                f"{type(self).__name__}: {count} difficulties are for {count} negatives, or {count + 1} of which the "
                f"last is the degraded input, not {len(negatives)}."
            )
        surpassed = (self.best_psnr > self.difficulties).to(self.difficulties.dtype)
        weights = 1 + self.curriculum * (2 * surpassed - 1)
        if len(negatives) > count:
            weights = torch.cat([weights, weights.new_full((1,), self.input_weight)])
        return (weights / weights.sum()).to(in_float32(negatives.new_zeros(())).dtype)


def _compare(features: Iterator[tuple[str, Tensor]], share: Tensor | float, distances: dict[str, _Distances]) -> None:
    for name, feature in features:
        distances[name].add(feature, share)
        del feature  # its memory is free for the next layer


class _Distances:
    """A weighted mean of mean absolute distances from one layer's anchor, and its derivative."""

    def __init__(self, anchor: Tensor) -> None:
        self.anchor = anchor.detach()
        self.mean = in_float32(anchor.new_zeros(()))
        self.slope = torch.zeros_like(in_float32(self.anchor)) if anchor.requires_grad else None

    def add(self, feature: Tensor, share: Tensor | float) -> None:
        """Take in one image's features, whose memory is overwritten."""
        scale = share / self.anchor.numel()
        self.mean = self.mean + scale * sum_of_absolute_differences(self.anchor, feature)
        if self.slope is not None:
            signs = torch.sub(self.anchor, feature, out=feature).sign_()
            self.slope += signs * scale
