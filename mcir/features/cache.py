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
    """The activations of the latest image per feature network, once with and once without a graph.

    Losses that share a feature network ask for the activations of the same tensor within a step. An entry answers for
    that tensor object only, as long as neither its values nor the arithmetic have changed. Call :meth:`clear` as soon
    as all losses of a step are computed. Without that call, an entry lives until the next image replaces it.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[FeatureNetwork, bool], _Entry] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_entries": {}}  # copies and pickles are empty: tensors with a graph cannot be copied

    def activations(
        self, network: FeatureNetwork, images: Tensor, layers: Sequence[str], with_graph: bool
    ) -> dict[str, Tensor]:
        """Return the activations of an image, computed or from the cache. Do not change them.

        Args:
            network: the feature network.
            images: images as the network expects them, (B, 3, H, W).
            layers: names of the layers that all users of the network need together.
            with_graph: whether the activations are differentiable.
        """
        if images.is_inference():  # such tensors do not count their changes
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
