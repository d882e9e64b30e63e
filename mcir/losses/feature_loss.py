"""Losses that compare the activations of images in a feature network.

The right loss weight depends on the scale of the features, which differs by orders of magnitude between networks and
weights (``benchmarks/balance.py`` measures it). ``normalize: unit`` scales each layer to a mean absolute activation of
1.

Losses with the same feature network share the network and the activations of the output; see :func:`share_features`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, TypeAlias

import torch
from annotated_types import Interval, Len
from torch import Tensor, nn

from mcir.checks import check_argument, check_choice
from mcir.communicator import DistributedModule
from mcir.domains import LayerWeights, Seed
from mcir.errors import ArgumentError
from mcir.features import FeatureCache, FeatureNetwork, VGGType, feature_network
from mcir.losses.base import Loss, in_float32
from mcir.paths import WeightsPath
from mcir.weights import WeightsError

Normalize: TypeAlias = Literal["none", "unit"]
Criterion: TypeAlias = Literal["l1", "l2", "fro"]
Channel: TypeAlias = Annotated[int, Interval(ge=0, lt=1024)]
"""Index of an image channel."""

CALIBRATION_BATCHES = 10
"""Number of training batches from which ``normalize: unit`` computes its scale."""


@dataclass(kw_only=True, eq=False)
class FeatureLoss(Loss):
    """Base class of losses that compare activations in selected layers of a feature network."""

    uses_target: ClassVar[bool] = True
    """Whether the loss uses the activations of the ground truth."""

    layer_weights: LayerWeights = field(kw_only=False)
    """Weights of the compared layers by layer name. It is the only argument that can be positional."""
    vgg_type: VGGType = "vgg16"
    """VGG whose activations are compared. Its layers are ``conv1_1``, ``relu1_1``, …, ``pool5``."""
    network: str | None = None
    """Another torchvision classifier to use instead of a VGG, such as ``resnet50``. Its layers are node names."""
    weights: WeightsPath = "imagenet"
    """``imagenet``, the name of another version of torchvision's weights, ``random``, or the path of a state dict."""
    use_input_norm: bool = True
    """Whether to normalize images with ImageNet's mean and standard deviation."""
    range_norm: bool = False
    """Whether images are in [-1, 1] instead of [0, 1]."""
    seed: Seed = 0
    """Seed for random weights."""
    channels: Annotated[Sequence[Channel], Len(3, 3)] | None = None
    """Indices of the three channels of an image that become red, green and blue. Default: the channels of RGB images;
    the channel of grey images is used three times."""
    normalize: Normalize = "none"
    """``unit``: divide each layer by its mean absolute activation over the first training batches."""

    def __post_init__(self) -> None:
        """Check the arguments and build the feature network."""
        super().__post_init__()
        self.layer_weights = dict(self.layer_weights)
        has_layer = any(self.layer_weights.values())
        expected = "at least one layer with a weight above 0, like {relu3_3: 1.0}"
        check_argument("layer_weights", self.layer_weights, has_layer, expected)
        check_choice("normalize", self.normalize, ("none", "unit"))
        self.features = FeatureSpace(self._build_network(), self.normalize, self.uses_target)

    def _build_network(self) -> FeatureNetwork:
        name = "vgg_type" if self.network is None else "network"
        others = (self.weights, self.use_input_norm, self.range_norm, self.seed, self.channels)
        try:
            return feature_network(list(self.layer_weights), self.network or self.vgg_type, *others)
        except ArgumentError as error:
            argument = {"layer_names": "layer_weights", "network": name}.get(error.name, error.name)
            raise ArgumentError(argument, error.message) from None
        except WeightsError as error:
            raise ArgumentError("weights", str(error)) from error


@dataclass(kw_only=True, eq=False)
class FeatureDistanceLoss(FeatureLoss):
    """Base class of feature losses with a choice of distances between activations."""

    criterion: Criterion = "l1"
    """Distance between two feature maps: ``l1`` (mean absolute difference), ``l2`` (mean squared difference) or ``fro``
    (Frobenius norm of the difference)."""

    def __post_init__(self) -> None:
        """Check the criterion."""
        check_choice("criterion", self.criterion, ("l1", "l2", "fro"))
        super().__post_init__()

    @property
    def is_batch_mean(self) -> bool:
        """Whether the distance is a mean. The Frobenius norm is not."""
        return self.criterion != "fro"


class FeatureSpace(nn.Module):
    """The activations that a loss compares, scaled according to ``normalize``.

    Args:
        network: feature network. :func:`share_features` may replace it by one with more layers.
        normalize: ``none`` or ``unit``.
        uses_target: whether the loss uses the activations of the ground truth.
    """

    def __init__(self, network: FeatureNetwork, normalize: Normalize = "none", uses_target: bool = True) -> None:
        super().__init__()
        self.network = network
        self.layer_names = network.layer_names
        self.unit = _UnitScale(len(self.layer_names)) if normalize == "unit" else None
        self.uses_target = uses_target
        self._cache: FeatureCache | None = None
        self._target_layers: tuple[str, ...] = ()

    def share(self, network: FeatureNetwork, cache: FeatureCache | None, target_layers: Sequence[str]) -> None:
        """Share a network with other losses.

        Args:
            network: network that returns at least the layers of this feature space.
            cache: cache for the activations of the output; None if no other loss needs them.
            target_layers: layers of the ground truth that the cache keeps for several losses; empty if no other loss
                needs the ground truth. Its activations are then released one by one.
        """
        self.network = network
        self._cache = cache
        self._target_layers = tuple(target_layers)

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Update the scale of ``normalize: unit`` with images (B, C, H, W), if this is a calibration batch."""
        if self.unit is not None and self.training and self.unit.batches < CALIBRATION_BATCHES:
            means = [in_float32(activation).abs().mean() for _, activation in self._target_activations(images)]
            self.unit.update(torch.stack(means))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the activations of a network's output (B, C, H, W) by layer name, in network order.

        Raises:
            ValueError: the feature network does not accept the images.
        """
        if self._cache is None:
            activations = dict(self.network.stream(images, self.layer_names))
        else:
            with_graph = torch.is_grad_enabled() and images.requires_grad
            activations = self._cache.activations(self.network, images, self.network.layer_names, with_graph)
        return {name: self._scale(name, activations[name]) for name in self.layer_names}

    def target_features(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the activations of a ground truth (B, C, H, W) by layer name, without a graph.

        The caller may overwrite the activations.

        Raises:
            ValueError: the feature network does not accept the images.
        """
        for name, activation in self._target_activations(images):
            yield name, self._scale(name, activation)
            del activation  # release it before the next layer is computed

    def stream(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the activations of images (B, C, H, W) by layer name, without a graph and without the cache.

        The caller may overwrite the activations.

        Raises:
            ValueError: the feature network does not accept the images.
        """
        for name, activation in self.network.stream(images.detach(), self.layer_names):
            yield name, self._scale(name, activation)
            del activation

    def _target_activations(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        if self._cache is None or not self._target_layers:
            yield from self.network.stream(images.detach(), self.layer_names)
            return
        activations = self._cache.activations(self.network, images, self._target_layers, with_graph=False)
        for name in self.layer_names:
            yield name, activations[name].clone()

    def _scale(self, name: str, activation: Tensor) -> Tensor:
        if self.unit is None:
            return activation
        return activation / self.unit.means[self.layer_names.index(name)].to(activation.dtype)


class _UnitScale(DistributedModule):
    """The mean absolute activation of each layer over the calibration batches of all processes."""

    means: Tensor

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.batches = 0
        self.register_buffer("means", torch.ones(layers))

    def update(self, means: Tensor) -> None:
        """Add the means of one batch to the average. A layer whose activations are all zero keeps its scale."""
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
    """Let all losses in a module that use the same feature network share one instance of it.

    Two networks are the same if their architecture, weights and image normalization are equal. The shared instance has
    the layers of all losses. In each training step, the activations of the output are computed once, and so are those
    of the ground truth if several losses use it. Compute all losses of a step before the backward pass, which frees the
    graph.

    Args:
        criteria: module that contains the losses, for example an ``nn.ModuleDict``.

    Returns:
        The cache of the activations. Call ``clear()`` when all losses of a step are computed.
    """
    cache = FeatureCache()
    groups: dict[tuple[object, ...], list[FeatureSpace]] = {}
    for module in criteria.modules():
        if isinstance(module, FeatureSpace):
            groups.setdefault(module.network.settings, []).append(module)
    for spaces in groups.values():
        layers = _all_layers(spaces)
        network = next((s.network for s in spaces if set(layers) <= set(s.network.layer_names)), None)
        if network is None:
            mean = spaces[0].network.mean
            network = spaces[0].network.with_layers(layers).to(device=mean.device, dtype=mean.dtype)
        target_users = [space for space in spaces if space.uses_target]
        for space in spaces:
            shares_target = space.uses_target and len(target_users) > 1
            target_layers = _all_layers(target_users) if shares_target else []
            space.share(network, cache if len(spaces) > 1 else None, target_layers)
    return cache


def _all_layers(spaces: Sequence[FeatureSpace]) -> list[str]:
    return list(dict.fromkeys(name for space in spaces for name in space.layer_names))
