"""The space in which losses compare images: chosen layers of a feature network, on a scale of one's choice.

What a loss weight means depends on the scale of the features, which differs by orders of magnitude between networks and
weights (`benchmarks/balance.py` measures it). ``normalize: unit`` brings every layer of every network to a mean of one.

Losses that share a network also share what it makes of the output and of the ground truth: in a step each is computed
once. What only one of them needs is not kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from mcir.communicator import DistributedModule
from mcir.features.base import FeatureNetwork
from mcir.features.cache import FeatureCache
from mcir.features.torchvision import feature_network
from mcir.features.vgg import VGGType
from mcir.losses.pixel import in_float32

Normalize: TypeAlias = Literal["none", "unit"]

CALIBRATION_BATCHES = 10
"""Training batches that set the scale of ``normalize: unit``."""


class FeatureSpace(nn.Module):
    """Chosen layers of a feature network, which may be shared with other losses; see :func:`share_features`.

    Args:
        layer_names: the layers of a VGG, or the nodes of another classifier.
        vgg_type: the VGG.
        network: name of any classifier in torchvision; replaces ``vgg_type``.
        weights: weights of the network; see :class:`~mcir.features.vgg.VGGFeatures`.
        use_input_norm: whether images are normalised with ImageNet's mean and standard deviation.
        range_norm: whether images are in [-1, 1] instead of [0, 1].
        seed: seed for random weights.
        normalize: ``none``, or ``unit``: each layer is divided by its mean absolute activation over the first
            ``CALIBRATION_BATCHES`` training batches.
        compares_target: whether the loss uses the activations of the ground truth.

    Raises:
        ValueError: unknown network, layer or normalisation, or weights that cannot be found.
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
        compares_target: bool = True,
    ) -> None:
        super().__init__()
        if normalize not in ("none", "unit"):
            raise ValueError(f"normalize is 'none' or 'unit', not {normalize!r}.")
        self.network: FeatureNetwork = feature_network(
            layer_names, network or vgg_type, weights, use_input_norm, range_norm, seed
        )
        self.layer_names = self.network.layer_names
        self.unit = _UnitScale(len(self.layer_names)) if normalize == "unit" else None
        self.compares_target = compares_target
        self._cache: FeatureCache | None = None
        self._target_layers: tuple[str, ...] = ()

    def share(self, network: FeatureNetwork, cache: FeatureCache | None, target_layers: Sequence[str]) -> None:
        """Use a network that other losses use too.

        Args:
            network: a network with at least the layers of this space.
            cache: cache for the activations of the output; None if no other loss needs them.
            target_layers: layers of the ground truth to compute and keep for several losses; empty if no other loss
                needs the ground truth, whose activations are then not kept.
        """
        self.network = network
        self._cache = cache
        self._target_layers = tuple(target_layers)

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Update the scale of ``normalize: unit`` with images (B, 3, H, W), during the first training batches."""
        if self.unit is not None and self.training and self.unit.batches < CALIBRATION_BATCHES:
            means = [in_float32(activation).abs().mean() for _, activation in self._target_activations(images)]
            self.unit.update(torch.stack(means))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the activations of a network's output (B, 3, H, W) by layer name, in network order.

        Raises:
            ValueError: images that the network does not accept.
        """
        if self._cache is None:
            found = dict(self.network.stream(images, self.layer_names))
        else:
            with_graph = torch.is_grad_enabled() and images.requires_grad
            found = self._cache.activations(self.network, images, self.network.layer_names, with_graph)
        return {name: self._scaled(name, found[name]) for name in self.layer_names}

    def target_features(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the activations of a ground truth without a graph, layer by layer. The caller may overwrite them.

        Raises:
            ValueError: images that the network does not accept.
        """
        for name, activation in self._target_activations(images):
            yield name, self._scaled(name, activation)
            del activation

    def stream(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the activations of negatives or further positives without a graph, layer by layer, never cached.

        The caller may overwrite them.

        Raises:
            ValueError: images that the network does not accept.
        """
        for name, activation in self.network.stream(images.detach(), self.layer_names):
            yield name, self._scaled(name, activation)
            del activation

    def _target_activations(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        if self._cache is None or not self._target_layers:
            yield from self.network.stream(images.detach(), self.layer_names)
            return
        found = self._cache.activations(self.network, images, self._target_layers, with_graph=False)
        for name in self.layer_names:
            yield name, found[name].clone()

    def _scaled(self, name: str, activation: Tensor) -> Tensor:
        if self.unit is None:
            return activation
        return activation / self.unit.means[self.layer_names.index(name)].to(activation.dtype)


class FeatureLoss(nn.Module):
    """What losses in a feature space have in common: weights of the layers, and the space.

    The arguments are those of :class:`FeatureSpace`, but for

    Args:
        layer_weights: the layers and how much each counts.
        factors: the other weights, by name.

    Raises:
        ValueError: no layer, a weight that is not finite, or what the space refuses.
    """

    compares_target: ClassVar[bool] = True
    """Whether the loss asks for the activations of the ground truth."""
    is_batch_mean: bool = True
    """Whether the loss of a batch is the mean of the losses of its equal parts."""

    def __init__(
        self,
        layer_weights: Mapping[str, float],
        factors: Mapping[str, float],
        vgg_type: VGGType,
        network: str | None,
        weights: str,
        use_input_norm: bool,
        range_norm: bool,
        seed: int,
        normalize: Normalize,
    ) -> None:
        super().__init__()
        loss = type(self).__name__
        if not layer_weights:
            raise ValueError(f"{loss}: layer_weights names no layer; give one at least, like {{relu3_3: 1.0}}.")
        for name, weight in {**layer_weights, **factors}.items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
                raise ValueError(f"{loss}: the weight of {name} is a finite number, not {weight!r}.")
        self.layer_weights = dict(layer_weights)
        space = (vgg_type, network, weights, use_input_norm, range_norm, seed, normalize)
        self.features = FeatureSpace(list(layer_weights), *space, self.compares_target)


class _UnitScale(DistributedModule):
    """The mean absolute activation of each layer over the calibration batches, equal in every process."""

    means: Tensor

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.batches = 0
        self.register_buffer("means", torch.ones(layers))

    def update(self, means: Tensor) -> None:
        """Add the means of one more batch to the average; a layer without activity keeps its scale."""
        means = self.communicator.mean(means)
        means = torch.where(means > 0, means, self.means)
        self.batches += 1
        self.means += (means - self.means) / self.batches

    def get_extra_state(self) -> int:
        """Return the number of batches."""
        return self.batches

    def set_extra_state(self, state: int) -> None:
        """Restore the number of batches."""
        self.batches = state


def share_features(criteria: nn.Module) -> FeatureCache:
    """Let all losses in a module that use the same feature network share one instance and its activations.

    Networks are the same if architecture, weights and preparation of the images are equal. The shared instance has the
    layers of all its losses. The activations of an output are then computed once per step, and so are those of a ground
    truth that more than one loss needs.

    Returns:
        The cache of the shared activations. Call its ``clear()`` when all losses of a step are computed.
    """
    cache = FeatureCache()
    groups: dict[tuple[object, ...], list[FeatureSpace]] = {}
    for module in criteria.modules():
        if isinstance(module, FeatureSpace):
            groups.setdefault(module.network.kind, []).append(module)
    for spaces in groups.values():
        needed = dict.fromkeys(name for space in spaces for name in space.layer_names)
        network = next((s.network for s in spaces if needed.keys() <= set(s.network.layer_names)), None)
        if network is None:
            like = spaces[0].network.mean
            network = spaces[0].network.with_layers(list(needed)).to(device=like.device, dtype=like.dtype)
        targets = [space for space in spaces if space.compares_target]
        target_layers = dict.fromkeys(name for space in targets for name in space.layer_names)
        for space in spaces:
            keeps_target = space.compares_target and len(targets) > 1
            space.share(network, cache if len(spaces) > 1 else None, list(target_layers) if keeps_target else [])
    return cache
