"""The base class of feature networks, and torchvision's ImageNet weights.

Losses compare images in the activations of a frozen network. Its weights are buffers outside the state dict: they get
no gradient, follow ``.to()`` and are in no checkpoint, so several losses can share one network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mcir.weights import WeightsError

_MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in [0, 1]
_STD = (0.229, 0.224, 0.225)


def imagenet_source(network: str, version: str = "IMAGENET1K_V1") -> tuple[Path, str]:
    """Return the file of torchvision's ImageNet weights, which need not be there yet, and the address it is from."""
    import torchvision  # a second of start-up that only these weights need

    url: str = torchvision.models.get_model_weights(network)[version].url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2], url


def imagenet_file(network: str, version: str = "IMAGENET1K_V1") -> Path:
    """Return the file of torchvision's ImageNet weights; when it is not on this disk yet, fetch it and check its hash.

    Raises:
        WeightsError: they are not there and cannot be fetched.
    """
    file, url = imagenet_source(network, version)
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            digest = file.stem.rpartition("-")[2]  # the name ends in the first digits of the file's SHA-256
            torch.hub.download_url_to_file(url, str(file), hash_prefix=digest)
        except (OSError, RuntimeError) as error:
            raise WeightsError(
                f"The ImageNet weights of {network} are not on this machine and cannot be fetched ({error}). Put "
                f"{file.name} from {url} into {file.parent}, or say 'weights: <path>' for a file of your own, or "
                "'weights: random' to do without (results then differ from the papers')."
            ) from error
    return file


class FeatureNetwork(nn.Module):
    """A frozen network whose activations losses compare.

    Attributes:
        layer_names: the layers that it reports.
        kind: what it was built from, but for the layers: two networks of one kind differ in nothing else.
    """

    layer_names: tuple[str, ...]
    kind: tuple[Any, ...]
    mean: Tensor
    std: Tensor

    def __init__(self, use_input_norm: bool, range_norm: bool) -> None:
        super().__init__()
        self.use_input_norm = use_input_norm
        self.range_norm = range_norm
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> FeatureNetwork:
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the chosen activations, in network order, of (B, 3, H, W) images in [0, 1] ([-1, 1]: ``range_norm``).

        Raises:
            ValueError: images without three channels, or smaller than the pools need.
        """
        return dict(self.stream(x))

    def stream(self, x: Tensor, wanted: Sequence[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield the activations one by one, only ``wanted`` ones, each when the network has no more use for it.

        Without a graph (``torch.no_grad``) the receiver may therefore overwrite what it gets, and what it drops is free
        before the next layer is computed.
        """
        raise NotImplementedError

    def with_layers(self, layer_names: Sequence[str]) -> FeatureNetwork:
        """Return a network of the same kind that reports other layers."""
        raise NotImplementedError

    def prepared(self, x: Tensor) -> Tensor:
        """Return images as the first layer takes them."""
        x = x.to(self.mean.dtype)
        if self.range_norm:
            x = (x + 1) / 2
        if self.use_input_norm:
            x = (x - self.mean) / self.std
        return x


def kind_of(network: str, weights: str, use_input_norm: bool, range_norm: bool, seed: int) -> tuple[Any, ...]:
    """Return what makes two feature networks the same but for their layers; the seed is only of random weights."""
    return network, weights, use_input_norm, range_norm, seed if weights == "random" else None
