"""Base class of feature networks, and loading of their weights.

Losses compare the activations of images in a frozen network. The weights of that network are non-persistent buffers:
they get no gradient, they move with ``.to()``, and they are not saved in checkpoints. Several losses can therefore
share one network.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mcir.checks import check_argument
from mcir.weights import WeightsError, describe_non_finite, first_names, non_finite_keys, read_weights

logger = logging.getLogger(__name__)

_MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB in [0, 1]
_STD = (0.229, 0.224, 0.225)
_COUNTER = "num_batches_tracked"  # batch norms do not use this buffer in evaluation mode


class FeatureNetwork(nn.Module, ABC):
    """A frozen network whose activations losses compare.

    A network that is built under ``with torch.device("meta")`` reads no weight file.

    Args:
        network: name of the architecture.
        weights: ``"random"``, or other names and files as described by the subclass.
        use_input_norm: whether to normalize images with ImageNet's mean and standard deviation.
        range_norm: whether images are in [-1, 1]; they are then mapped to [0, 1] first.
        seed: seed for random weights.
        channels: indices of the channels of an image that become red, green and blue. Default: 0, 1 and 2 for images
            with three channels, and three times 0 for grey images.

    Attributes:
        layer_names: names of the layers whose activations are returned.
        settings: all arguments except the layers. Networks with equal settings differ only in their layers.

    Raises:
        ArgumentError: the network or a layer is unknown, there are no layers, or ``channels`` are not three indices.
        WeightsError: the weights are not available or do not match.
    """

    layer_names: tuple[str, ...]
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: Any,
        weights: str,
        use_input_norm: bool,
        range_norm: bool,
        seed: int,
        channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        is_valid = channels is None or (len(channels) == 3 and min(channels) >= 0)
        check_argument("channels", channels, is_valid, "three indices of channels, for example [0, 1, 2]")
        self.channels = None if channels is None else tuple(channels)
        self._arguments = (network, weights, use_input_norm, range_norm, seed, channels)
        used_seed = seed if weights == "random" else None
        self.settings = (network, weights, use_input_norm, range_norm, used_seed, self.channels)
        self.use_input_norm = use_input_norm
        self.range_norm = range_norm
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> FeatureNetwork:
        """Do nothing: the network is always in evaluation mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the activations of images (B, C, H, W) by layer name.

        Raises:
            ValueError: the images have an unsupported number of channels or are too small.
        """
        return dict(self.stream(x))

    @abstractmethod
    def stream(self, x: Tensor, layers: Sequence[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and the activation of each layer in order, once the network no longer needs the activation.

        Without a graph, the caller may therefore overwrite activations. If the caller deletes its reference to an
        activation, the memory is free before the next layer is computed.

        Args:
            x: images, (B, C, H, W), in [0, 1] or, with ``range_norm``, in [-1, 1]. C is 3, or 1 for grey images, or
                any number with ``channels``.
            layers: names of the layers to return. Default: all.

        Raises:
            ValueError: the images have an unsupported number of channels or are too small.
        """

    def with_layers(self, layer_names: Sequence[str]) -> FeatureNetwork:
        """Return the same network with other layers."""
        build = cast(Callable[..., FeatureNetwork], type(self))
        return build(layer_names, *self._arguments)

    def prepare(self, x: Tensor) -> Tensor:
        """Return images (B, C, H, W) as RGB with the normalization that the first layer expects.

        Raises:
            ValueError: the images have another number of dimensions, or an unsupported number of channels.
        """
        if x.dim() != 4 or (x.shape[1] not in (1, 3) if self.channels is None else x.shape[1] <= max(self.channels)):
            expected = "1 or 3" if self.channels is None else f"at least {max(self.channels) + 1}"
            raise ValueError(
                f"{self._arguments[0]}: expected images (B, C, H, W) with {expected} channels, got {tuple(x.shape)}. "
                "'channels' selects the channels of other images that become red, green and blue, like [0, 1, 2]."
            )
        if self.channels is not None:
            x = torch.stack([x[:, channel] for channel in self.channels], dim=1)
        elif x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        x = x.to(self.mean.dtype)
        if self.range_norm:
            x = (x + 1) / 2
        if self.use_input_norm:
            x = (x - self.mean) / self.std
        return x

    def _load_and_freeze(
        self,
        net: nn.Module,
        versions: Sequence[str],
        file_keys: Callable[[str], Sequence[str]] = lambda key: [key],
        init_random: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda expected: {},
    ) -> None:
        """Load the weights of ``net`` and turn them into non-persistent buffers.

        Args:
            net: network on the meta device, or on the CPU if its weights are random already.
            versions: names of torchvision's weights.
            file_keys: function that returns the keys under which a file may store an entry of the state dict.
            init_random: function that returns random weights for a state dict.
        """
        network, weights, *_ = self._arguments
        expected = {key: value.detach() for key, value in net.state_dict().items() if not key.endswith(_COUNTER)}
        values: Mapping[str, Tensor] = {}
        if weights != "random":
            values = _pretrained_tensors(network, weights, versions, expected, file_keys)
        elif not on_meta_device():
            logger.warning(
                "%s has random weights. The results will differ from those of the papers, which use ImageNet weights.",
                network,
            )
            values = init_random(expected)
        for path, module in net.named_modules():
            for name, value in (*module._parameters.items(), *module._buffers.items()):
                if value is not None:
                    delattr(module, name)
                    value = None if name == _COUNTER else values.get(f"{path}.{name}".lstrip("."), value.detach())
                    module.register_buffer(name, value, persistent=False)
        self.eval()


def on_meta_device() -> bool:
    """Return whether new tensors are on the meta device and therefore have no values."""
    return torch.get_default_device().type == "meta"


def _pretrained_tensors(
    network: str,
    weights: str,
    versions: Sequence[str],
    expected: Mapping[str, Tensor],
    file_keys: Callable[[str], Sequence[str]],
) -> dict[str, Tensor]:
    """Return pretrained values for the expected tensors, or an empty dict on the meta device.

    Raises:
        WeightsError: the weights are not available or do not match.
    """
    version = "IMAGENET1K_V1" if weights == "imagenet" else weights
    if version not in versions and not Path(weights).is_file():
        known = ", ".join(("'imagenet'", *versions, "'random'"))
        raise WeightsError(
            f"There is no weight file '{weights}'. For {network}, expected {known} or the path of a state dict."
        )
    if on_meta_device():
        return {}
    file = imagenet_file(network, version) if version in versions else Path(weights)
    state = read_weights(file).tensors
    values: dict[str, Tensor] = {}
    mismatches: list[str] = []
    for key, tensor in expected.items():
        names = file_keys(key)
        stored = next((state[name] for name in names if name in state), None)
        if stored is None:
            mismatches.append(f"{names[0]} is missing")
        elif stored.shape != tensor.shape:
            mismatches.append(f"{names[0]} has shape {tuple(stored.shape)} instead of {tuple(tensor.shape)}")
        else:
            values[key] = stored.to(tensor.dtype)
    if mismatches:
        more = f"; and {len(mismatches) - 10} more" if len(mismatches) > 10 else ""
        raise WeightsError(
            f"{file} does not match {network}: {'; '.join(mismatches[:10])}{more}. The first keys of the file are "
            f"{first_names(state, 4)}."
        )
    if infinite := non_finite_keys(values):
        raise WeightsError(f"{file}: {describe_non_finite(infinite, len(values))}.")
    return values


def imagenet_source(network: str, version: str = "IMAGENET1K_V1") -> tuple[Path, str]:
    """Return the path to which torchvision's ImageNet weights are downloaded, and their URL."""
    import torchvision  # takes a second to import

    url: str = torchvision.models.get_model_weights(network)[version].url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2], url


def imagenet_file(network: str, version: str = "IMAGENET1K_V1") -> Path:
    """Return the file of torchvision's ImageNet weights; if it does not exist, download it and verify its hash.

    Raises:
        WeightsError: the download failed.
    """
    file, url = imagenet_source(network, version)
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            digest = file.stem.rpartition("-")[2]  # the name ends with the first digits of the file's SHA-256
            torch.hub.download_url_to_file(url, str(file), hash_prefix=digest)
        except (OSError, RuntimeError) as error:
            raise WeightsError(
                f"The ImageNet weights of {network} are not on this machine and cannot be downloaded ({error}). "
                f"Download {url} to {file}, or set 'weights: <path>' to a local file, or set 'weights: random' "
                "(the results then differ from the papers)."
            ) from error
    return file
