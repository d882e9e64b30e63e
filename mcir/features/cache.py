"""A cache for activations that several losses need in the same training step."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcir.features.base import FeatureNetwork


@dataclass
class _Entry:
    images: weakref.ref[Tensor]
    state: tuple[Any, ...]
    activations: dict[str, Tensor]


class FeatureCache:
    """The latest activations of each feature network.

    Losses that share a feature network need the activations of the same two tensors in a training step: the output,
    with a graph, and the ground truth, without one. The cache has one entry for each of them per network. An entry is
    valid for the same tensor object as long as its values and the autocast state do not change.

    Call :meth:`clear` after all losses of a step are computed. Without this call, an entry is kept until new images
    replace it; the memory is bounded, and outdated activations are never returned.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[FeatureNetwork, bool], _Entry] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_entries": {}}  # tensors with a graph cannot be copied, so copies and pickles are empty

    def activations(
        self, network: FeatureNetwork, images: Tensor, layers: Sequence[str], with_graph: bool
    ) -> dict[str, Tensor]:
        """Return the activations of images by layer name, from the cache if possible. The caller must not modify them.

        Args:
            network: feature network.
            images: images, (B, C, H, W).
            layers: names of all layers that any of the losses needs.
            with_graph: whether the activations have a graph.
        """
        if images.is_inference():  # inference tensors have no version counter
            return dict(network.stream(images, layers))
        key = (network, with_graph)
        device = "cpu" if images.is_meta else images.device.type  # autocast rejects the meta device
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        state = (images._version, autocast, network.mean.dtype)
        entry = self._entries.get(key)
        if entry is None or entry.images() is not images or entry.state != state:
            self._entries.pop(key, None)  # release the old activations before computing new ones
            with torch.set_grad_enabled(with_graph):
                activations = dict(network.stream(images, layers))
            entry = self._entries[key] = _Entry(weakref.ref(images), state, activations)
        return entry.activations

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
