"""The base class of feature networks, and the loading of their weights.

Losses compare images in the activations of a frozen network. Its weights are buffers outside the state dict: they get
no gradient, follow ``.to()`` and are not part of checkpoints. Several losses can therefore share one network.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mcir.weights import WeightsError, read_weights

logger = logging.getLogger(__name__)

_MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB in [0, 1]
_STD = (0.229, 0.224, 0.225)
_COUNTER = "num_batches_tracked"  # of a batch norm, unused in evaluation mode


class FeatureNetwork(nn.Module, ABC):
    """A frozen network whose activations losses compare.

    Built under ``with torch.device("meta")``, it has shapes but no weights, and reads no file.

    Args:
        network: name of the architecture.
        weights: weights of the network, see the subclasses.
        use_input_norm: whether images are normalised with ImageNet's mean and standard deviation.
        range_norm: whether images are in [-1, 1] and are mapped to [0, 1] first.
        seed: seed for random weights.

    Attributes:
        layer_names: the layers whose activations are returned.
        settings: all arguments except the layers; networks with equal settings differ in their layers only.

    Raises:
        ArgumentError: unknown network or layer, or no layer.
        WeightsError: the weights are not available, or do not match.
    """

    layer_names: tuple[str, ...]
    mean: Tensor
    std: Tensor

    def __init__(self, network: Any, weights: str, use_input_norm: bool, range_norm: bool, seed: int) -> None:
        super().__init__()
        self._arguments = (network, weights, use_input_norm, range_norm, seed)
        self.settings = (network, weights, use_input_norm, range_norm, seed if weights == "random" else None)
        self.use_input_norm = use_input_norm
        self.range_norm = range_norm
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> FeatureNetwork:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the activations of images (B, 3, H, W) by layer.

        Raises:
            ValueError: the images do not have three channels, or are too small.
        """
        return dict(self.stream(x))

    @abstractmethod
    def stream(self, x: Tensor, wanted: Sequence[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield the activations of images (B, 3, H, W) layer by layer, as soon as the network has used each.

        Without a graph, the caller may therefore overwrite an activation. The memory of an activation that the caller
        drops is free before the next layer is computed.

        Args:
            x: images, (B, 3, H, W), in [0, 1] or, with ``range_norm``, in [-1, 1].
            wanted: layers to return. Default: all.

        Raises:
            ValueError: the images do not have three channels, or are too small.
        """

    def with_layers(self, layer_names: Sequence[str]) -> FeatureNetwork:
        """Return the same network with other layers."""
        build = cast(Callable[..., FeatureNetwork], type(self))
        return build(layer_names, *self._arguments)

    def prepare(self, x: Tensor) -> Tensor:
        """Return images as the first layer expects them."""
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
        names: Callable[[str], Sequence[str]] = lambda key: [key],
        random: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda expected: {},
    ) -> None:
        """Load the weights of ``net`` and turn them into buffers outside the state dict.

        Args:
            net: network, with weights on the meta device except for those that are random already.
            versions: names of torchvision's weights.
            names: function from a key of the state dict to the keys that it may have in a file.
            random: function from the state dict to random weights.
        """
        network, weights, *_ = self._arguments
        expected = {key: value.detach() for key, value in net.state_dict().items() if not key.endswith(_COUNTER)}
        values: Mapping[str, Tensor] = {}
        if weights != "random":
            values = _pretrained_tensors(network, weights, versions, expected, names)
        elif not on_meta_device():
            logger.warning("%s has random weights: results differ from papers, which use ImageNet weights.", network)
            values = random(expected)
        for path, module in net.named_modules():
            for name, value in (*module._parameters.items(), *module._buffers.items()):
                if value is not None:
                    delattr(module, name)
                    value = None if name == _COUNTER else values.get(f"{path}.{name}".lstrip("."), value.detach())
                    module.register_buffer(name, value, persistent=False)
        self.eval()


def on_meta_device() -> bool:
    """Return whether modules are built without values."""
    return torch.get_default_device().type == "meta"


def _pretrained_tensors(
    network: str,
    weights: str,
    versions: Sequence[str],
    expected: Mapping[str, Tensor],
    names_of: Callable[[str], Sequence[str]],
) -> dict[str, Tensor]:
    """Return pretrained values for the expected tensors; none on the meta device.

    Raises:
        WeightsError: the weights are not available, or do not match.
    """
    version = "IMAGENET1K_V1" if weights == "imagenet" else weights
    if version not in versions and not Path(weights).is_file():
        known = ", ".join(("'imagenet'", *versions, "'random'"))
        raise WeightsError(
            f"There is no file '{weights}'. For {network}, expected {known} or the path of a state dict."
        )
    if on_meta_device():
        return {}
    file = imagenet_file(network, version) if version in versions else Path(weights)
    state = read_weights(file).tensors
    values: dict[str, Tensor] = {}
    wrong: list[str] = []
    for key, own in expected.items():
        names = names_of(key)
        found = next((state[name] for name in names if name in state), None)
        if found is None:
            wrong.append(f"{names[0]} is missing")
        elif found.shape != own.shape:
            wrong.append(f"{names[0]} has shape {tuple(found.shape)} instead of {tuple(own.shape)}")
        else:
            values[key] = found.to(own.dtype)
    if wrong:
        more = f"; and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        first = ", ".join(list(state)[:4]) or "none"
        raise WeightsError(f"{file} does not match {network}: {'; '.join(wrong[:10])}{more}. Its first keys: {first}.")
    return values


def imagenet_source(network: str, version: str = "IMAGENET1K_V1") -> tuple[Path, str]:
    """Return the local file of torchvision's ImageNet weights, which may not exist yet, and its URL."""
    import torchvision  # takes a second to import

    url: str = torchvision.models.get_model_weights(network)[version].url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2], url


def imagenet_file(network: str, version: str = "IMAGENET1K_V1") -> Path:
    """Return the file of torchvision's ImageNet weights, downloaded and verified by its hash if necessary.

    Raises:
        WeightsError: the file does not exist and cannot be downloaded.
    """
    file, url = imagenet_source(network, version)
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            digest = file.stem.rpartition("-")[2]  # the name ends with the first digits of the file's SHA-256
            torch.hub.download_url_to_file(url, str(file), hash_prefix=digest)
        except (OSError, RuntimeError) as error:
            raise WeightsError(
                f"The ImageNet weights of {network} are not on this machine and cannot be downloaded ({error}). Put "
                f"{file.name} from {url} into {file.parent}, or set 'weights: <path>' to a local file, or "
                "'weights: random' (results then differ from the papers)."
            ) from error
    return file
