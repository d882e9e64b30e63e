"""Activations that several losses need within one training step."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcir.features.base import FeatureNetwork


@dataclass
class _Entry:
    image: weakref.ref[Tensor]
    state: tuple[Any, ...]
    activations: dict[str, Tensor]


class FeatureCache:
    """The activations of the latest images in each feature network.

    Within a step, losses that share a feature network need the activations of the same tensors: those of the output
    with a graph, and those of the ground truth without one. The cache has one entry of each kind per network. An entry
    is valid for the same tensor object, while neither its values nor the autocast state change.

    Call :meth:`clear` when all losses of a step are computed. Without that call, an entry stays until the next images
    replace it, so memory is bounded and activations are never stale.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[FeatureNetwork, bool], _Entry] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_entries": {}}  # copies and pickles are empty: tensors with a graph cannot be copied

    def activations(
        self, network: FeatureNetwork, images: Tensor, layers: Sequence[str], with_graph: bool
    ) -> dict[str, Tensor]:
        """Return the activations of images by layer, from the cache if possible; they must not be changed.

        Args:
            network: feature network.
            images: images, (B, 3, H, W).
            layers: layers that the losses need together.
            with_graph: whether the activations have a graph.
        """
        if images.is_inference():  # these tensors have no version counter
            return dict(network.stream(images, layers))
        key = (network, with_graph)
        device = "cpu" if images.is_meta else images.device.type  # autocast does not know the meta device
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        state = (images._version, autocast, network.mean.dtype)
        entry = self._entries.get(key)
        if entry is None or entry.image() is not images or entry.state != state:
            self._entries.pop(key, None)  # release the old activations before computing new ones
            with torch.set_grad_enabled(with_graph):
                activations = dict(network.stream(images, layers))
            entry = self._entries[key] = _Entry(weakref.ref(images), state, activations)
        return entry.activations

    def clear(self) -> None:
        """Release all activations."""
        self._entries.clear()
