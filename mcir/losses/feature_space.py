"""The space in which losses compare images: chosen layers of a feature network, on a scale of one's choice.

What a loss weight means depends on the scale of the features: the activations of the original VGG16 (Caffe) are of
order 100, those of torchvision's or of random weights of order 1. ``normalize: unit`` brings every layer of every
network to a mean of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from mcir.archs.classifiers import feature_network
from mcir.archs.features import FeatureNetwork, VGGType
from mcir.losses.pixel import in_float32
from mcir.losses.ranks import OverRanks

Normalize: TypeAlias = Literal["none", "unit"]

MEASURED_BATCHES = 10
"""How many batches ``normalize: unit`` measures."""


class FeatureSpace(nn.Module):
    """The chosen layers of a feature network, which may be shared with other losses; see :func:`share_features`.

    Args:
        layer_names: the layers of a VGG, or the nodes of another classifier.
        vgg_type: which VGG.
        network: any classifier of torchvision by name, in place of ``vgg_type``.
        weights: of the network; see :class:`~mcir.archs.features.VGGFeatures`.
        use_input_norm: normalise the images as ImageNet's.
        range_norm: the images are in [-1, 1] rather than [0, 1].
        seed: of random weights.
        normalize: ``none``, or ``unit``: each layer is divided by the mean of its absolute activation over the first
            batches that are measured.

    Raises:
        ValueError: an unknown network, layer or way to normalise, or weights that are not there.
    """

    def __init__(
        self,
        layer_names: Sequence[str],
        vgg_type: VGGType = "vgg16",
        network: str | None = None,
        weights: str = "imagenet",
        use_input_norm: bool = True,
        range_norm: bool = False,
        seed: int = 0,
        normalize: Normalize = "none",
    ) -> None:
        super().__init__()
        if normalize not in ("none", "unit"):
            raise ValueError(f"normalize is 'none' or 'unit', not {normalize!r}.")
        self.network: FeatureNetwork = feature_network(
            layer_names, network or vgg_type, weights, use_input_norm, range_norm, seed
        )
        self.layer_names = self.network.layer_names
        self.unit = _Unit(len(self.layer_names)) if normalize == "unit" else None

    def measure(self, images: Tensor) -> None:
        """Take the scale of ``images`` (B, 3, H, W) into account, if they are among the first batches of a training."""
        if self.unit is None or not self.training or self.unit.batches >= MEASURED_BATCHES:
            return
        with torch.no_grad():
            activations = self.network.stream(images.detach(), self.layer_names)
            self.unit.take(torch.stack([in_float32(activation).abs().mean() for _, activation in activations]))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the activations of (B, 3, H, W) images by layer name, in network order.

        Raises:
            ValueError: images that the network does not take.
        """
        if not self.network.shared:
            return dict(self.stream(images))
        found = self.network(images)
        return {name: self._scaled(name, found[name]) for name in self.layer_names}

    def stream(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the same activations one by one; without a graph the receiver may overwrite them.

        Raises:
            ValueError: images that the network does not take.
        """
        for name, activation in self.network.stream(images, self.layer_names):
            yield name, self._scaled(name, activation)

    def _scaled(self, name: str, activation: Tensor) -> Tensor:
        if self.unit is None:
            return activation
        return activation / self.unit.means[self.layer_names.index(name)].to(activation.dtype)


class _Unit(OverRanks):
    """The mean activation of each layer over the batches seen, equal in every process."""

    means: Tensor

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.batches = 0
        self.register_buffer("means", torch.ones(layers))

    def take(self, means: Tensor) -> None:
        """Take one more batch into the average; a layer that is silent keeps its scale."""
        means = self.ranks.mean(means)
        means = torch.where(means > 0, means, self.means)
        self.batches += 1
        self.means += (means - self.means) / self.batches

    def get_extra_state(self) -> int:
        """Return the number of batches."""
        return self.batches

    def set_extra_state(self, state: int) -> None:
        """Take it back."""
        self.batches = state


def share_features(losses: nn.Module) -> None:
    """Let all losses within a module that compare images by the same feature network have one instance of it.

    The same is: network, weights and preparation of the images; the one that is shared has the layers of all. In a step
    in which two of them ask for the activations of one tensor, these are computed once.
    """
    kinds: dict[tuple[object, ...], list[FeatureSpace]] = {}
    for module in losses.modules():
        if isinstance(module, FeatureSpace):
            kinds.setdefault(module.network.kind, []).append(module)
    for spaces in kinds.values():
        needed = dict.fromkeys(name for space in spaces for name in space.layer_names)
        one = next((space.network for space in spaces if needed.keys() <= set(space.network.layer_names)), None)
        if one is None:
            like = spaces[0].network.mean
            one = spaces[0].network.with_layers(list(needed)).to(device=like.device, dtype=like.dtype)
        one.shared = len(spaces) > 1
        for space in spaces:
            space.network = one
