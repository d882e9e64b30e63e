"""The space in which losses compare images: chosen layers of a feature network, on a scale of one's choice.

What a loss weight means depends on the scale of the features, which differs by orders of magnitude between networks and
weights (`benchmarks/balance.py` measures it). ``normalize: unit`` brings every layer of every network to a mean of one.

Losses that share a network also share what it makes of the output and of the ground truth: in a step each is computed
once. What only one of them needs is not kept.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mcir.communicator import DistributedModule
from mcir.features.base import FeatureNetwork
from mcir.features.torchvision import feature_network
from mcir.features.vgg import VGGType
from mcir.losses.pixel import in_float32

Normalize: TypeAlias = Literal["none", "unit"]

MEASURED_BATCHES = 10
"""How many batches ``normalize: unit`` measures."""


class FeatureSpace(nn.Module):
    """The chosen layers of a feature network, which may be shared with other losses; see :func:`share_features`.

    Args:
        layer_names: the layers of a VGG, or the nodes of another classifier.
        vgg_type: which VGG.
        network: any classifier of torchvision by name, in place of ``vgg_type``.
        weights: of the network; see :class:`~mcir.features.vgg.VGGFeatures`.
        use_input_norm: normalise the images as ImageNet's.
        range_norm: the images are in [-1, 1] rather than [0, 1].
        seed: of random weights.
        normalize: ``none``, or ``unit``: each layer is divided by the mean of its absolute activation over the first
            batches that are measured.
        compares_truth: the loss asks once in a step for the activations of the ground truth. Where losses share a
            network, these are kept until all that ask have had them.

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
        compares_truth: bool = True,
    ) -> None:
        super().__init__()
        if normalize not in ("none", "unit"):
            raise ValueError(f"normalize is 'none' or 'unit', not {normalize!r}.")
        self.network: FeatureNetwork = feature_network(
            layer_names, network or vgg_type, weights, use_input_norm, range_norm, seed
        )
        self.layer_names = self.network.layer_names
        self.unit = _Unit(len(self.layer_names)) if normalize == "unit" else None
        self.compares_truth = compares_truth
        self._shared = _Shared([self])

    @property
    def measures(self) -> bool:
        """Whether the next batch is one of those that set the scale."""
        return self.unit is not None and self.training and self.unit.batches < MEASURED_BATCHES

    @torch.no_grad()
    def measure(self, images: Tensor) -> None:
        """Take the scale of ``images`` (B, 3, H, W) into account, if they are among the first batches of a training."""
        if self.measures:
            assert self.unit is not None
            activations = self._shared.activations(images, self)
            self.unit.take(torch.stack([in_float32(activation).abs().mean() for _, activation in activations]))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the activations of (B, 3, H, W) images by layer name, in network order; for the output of a network.

        Raises:
            ValueError: images that the network does not take.
        """
        return {name: self._scaled(name, found) for name, found in self._shared.activations(images, self)}

    def truth(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the activations of ground truths without a graph, one by one; the receiver may overwrite them.

        Raises:
            ValueError: images that the network does not take.
        """
        activations = self._shared.activations(images, self)
        while True:  # torch.no_grad as a decorator would hold on to what it gave until the next layer is there
            with torch.no_grad():
                found = next(activations, None)
                if found is None:
                    return
                found = found[0], self._scaled(*found)
            yield found
            del found

    def stream(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the activations one by one; without a graph the receiver may overwrite them. Nothing is shared.

        Raises:
            ValueError: images that the network does not take.
        """
        for name, activation in self.network.stream(images, self.layer_names):
            yield name, self._scaled(name, activation)
            del activation

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

    compares_truth: ClassVar[bool] = True
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
        self.features = FeatureSpace(list(layer_weights), *space, self.compares_truth)


@dataclass
class _Kept:
    """The activations of an image for those that will still ask for them."""

    image: weakref.ref[Tensor]
    state: tuple[Any, ...]
    source: Tensor | None  # what the image is called in their graph, where each loss has the image under its own name
    found: dict[str, Tensor]
    asks: int


class _Shared:
    """The spaces that have one feature network, and the activations that the first of them left for the others.

    In a step each space asks once for those of the output, with a graph; for those of the ground truth, without one, a
    space asks when it measures and when its loss compares. They are kept from the first time to the last, and never
    longer than the image lives or stays as it is.
    """

    def __init__(self, spaces: list[FeatureSpace]) -> None:
        self.spaces = spaces
        self._kept: dict[tuple[int, bool], _Kept] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"spaces": self.spaces, "_kept": {}}  # a copy begins empty

    def activations(self, images: Tensor, space: FeatureSpace) -> Iterator[tuple[str, Tensor]]:
        """Yield the activations of ``images`` at the layers of a space; without a graph they may be overwritten."""
        with_graph = torch.is_grad_enabled()
        kept = self._kept_for(images, space, with_graph)
        if kept is None:
            yield from space.network.stream(images, space.layer_names)
            return
        found = {name: kept.found[name] for name in space.layer_names}
        if kept.source is not None:
            found = dict(zip(found, _Through.apply(images, kept.source, list(found.values())), strict=True))
        may_go = not kept.asks
        del kept
        for name in space.layer_names:
            activation = found.pop(name)
            yield name, activation if with_graph or may_go else activation.clone()
            del activation

    def _kept_for(self, images: Tensor, space: FeatureSpace, with_graph: bool) -> _Kept | None:
        """Return what is kept of an image, or will be from now on; None if nobody else will ask for it."""
        image: Tensor = getattr(images, "alias_of", images)
        if image.is_inference():  # such a tensor does not say whether it was changed
            return None
        device = "cpu" if image.is_meta else image.device.type  # autocast knows no meta device
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        state = (image._version, autocast, space.network, space.network.mean.dtype)
        key, entries = (id(image), with_graph), self._kept
        kept = entries.get(key)
        if kept is None or kept.image() is not image or kept.state != state or space.layer_names - kept.found.keys():
            asking = self.spaces if with_graph else [one for one in self.spaces for _ in range(_times(one))]
            if len(asking) < 2:
                return None
            needed = dict.fromkeys(name for one in asking for name in one.layer_names)
            source = image.detach().requires_grad_() if with_graph and image is not images else None
            found = dict(space.network.stream(images if source is None else source, list(needed)))
            gone = weakref.ref(image, lambda _: entries.pop(key, None))
            kept = entries[key] = _Kept(gone, state, source, found, len(asking))
        kept.asks -= 1
        if not kept.asks:
            del entries[key]
        return kept


def _times(space: FeatureSpace) -> int:
    """Return how often a space asks for the ground truth in a step."""
    return space.compares_truth + space.measures


class _Through(torch.autograd.Function):
    """Activations that were computed of the same image under another name; their gradient goes to this one."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, source: Tensor, found: Sequence[Tensor]) -> tuple[Tensor, ...]:
        ctx.graph = found, source
        return tuple(activation.detach() for activation in found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (found, source), ctx.graph = ctx.graph, None  # with the last that has it, its memory goes
        return *torch.autograd.grad(found, source, gradients, retain_graph=True), None, None


class _Unit(DistributedModule):
    """The mean activation of each layer over the batches seen, equal in every process."""

    means: Tensor

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.batches = 0
        self.register_buffer("means", torch.ones(layers))

    def take(self, means: Tensor) -> None:
        """Take one more batch into the average; a layer that is silent keeps its scale."""
        means = self.communicator.mean(means)
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
    the activations of one output, or of one ground truth, are computed once for all of them.
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
        shared = _Shared(spaces)
        for space in spaces:
            space.network, space._shared = one, shared
