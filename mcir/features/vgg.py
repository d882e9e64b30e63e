"""Feature networks: activations of VGG (Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556) by layer name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from mcir.errors import ArgumentError, suggestion
from mcir.features.base import FeatureNetwork

VGGType: TypeAlias = Literal["vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]

_CONVOLUTIONS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)


def vgg_layers(vgg_type: VGGType) -> list[str]:
    """Return the names of all layers of a VGG: ``conv1_1``, (``bn1_1``), ``relu1_1``, …, ``pool5``.

    The index of a name in the list is the index of the layer in torchvision's ``features``.

    Raises:
        ArgumentError: the VGG is unknown.
    """
    if vgg_type not in get_args(VGGType):
        known = get_args(VGGType)
        message = f"There is no VGG '{vgg_type}'.{suggestion(vgg_type, known)} Expected one of {', '.join(known)}."
        raise ArgumentError("vgg_type", message)
    kinds = ("conv", "bn", "relu") if vgg_type.endswith("_bn") else ("conv", "relu")
    names: list[str] = []
    for block, convolutions in enumerate(_CONVOLUTIONS[vgg_type.removesuffix("_bn")], start=1):
        names += [f"{kind}{block}_{number}" for number in range(1, convolutions + 1) for kind in kinds]
        names.append(f"pool{block}")
    return names


class VGGFeatures(FeatureNetwork):
    """Activations of a frozen VGG at selected layers. Deeper layers are not built.

    The activation of a convolution is its output before the ReLU. For the other arguments, see
    :class:`FeatureNetwork`.

    Args:
        layer_names: names of layers, such as ``conv1_2``, ``relu1_2`` or ``pool1``, and ``bn1_2`` with batch norm.
        vgg_type: name of the VGG.
        weights: ``"imagenet"`` (torchvision's), ``"random"`` (He initialization), or the path of a state dict with
            torchvision's keys (``features.0.weight``) or with layer names (``conv1_1.weight``,
            ``vgg_net.conv1_1.weight``). The file may omit layers that are not built.
    """

    def __init__(
        self,
        layer_names: Sequence[str],
        vgg_type: VGGType = "vgg16",
        weights: str = "imagenet",
        use_input_norm: bool = True,
        range_norm: bool = False,
        seed: int = 0,
        channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__(vgg_type, weights, use_input_norm, range_norm, seed, channels)
        known = vgg_layers(vgg_type)
        for name in layer_names:
            if name not in known:
                near = suggestion(name, known)
                message = f"{vgg_type} has no layer '{name}'.{near} Its layers are {', '.join(known)}."
                raise ArgumentError("layer_names", message)
        if not layer_names:
            raise ArgumentError("layer_names", f"expected at least one layer of {vgg_type}: {', '.join(known)}.")
        self.layer_names = tuple(name for name in known if name in layer_names)
        self.vgg_type: VGGType = vgg_type
        built = known[: known.index(self.layer_names[-1]) + 1]
        self.min_size: int = 2 ** sum(name.startswith("pool") for name in built)
        self.vgg_net = nn.ModuleDict(dict(_layers(built, self.layer_names)))
        init_random = partial(_random_tensors, seed=seed)
        self._load_and_freeze(self.vgg_net, ["IMAGENET1K_V1"], self._file_keys, init_random)

    def stream(self, x: Tensor, layers: Sequence[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield the activations layer by layer and stop after the last one; see :meth:`FeatureNetwork.stream`."""
        names = self.layer_names if layers is None else tuple(name for name in self.layer_names if name in layers)
        x = self.prepare(x)
        if min(x.shape[2:]) < self.min_size:
            raise ValueError(
                f"{self.vgg_type} up to {self.layer_names[-1]}: expected images (B, C, H, W) with H, W ≥ "
                f"{self.min_size}, got {tuple(x.shape)}."
            )
        pending: str | None = None  # layer whose activation is x and is yielded once the next layer has used it
        for name, layer in self.vgg_net.items():
            if pending == names[-1]:
                break
            output = layer(x)
            if pending is not None:
                yield pending, x
            x = output
            pending = name if name in names else None
        assert pending is not None
        yield pending, x

    def _file_keys(self, key: str) -> list[str]:
        """Return the keys under which a file may store an entry of the state dict."""
        layer, _, name = key.partition(".")
        return [f"features.{list(self.vgg_net).index(layer)}.{name}", f"vgg_net.{key}", key]


def _random_tensors(expected: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return weights that keep the scale of activations. The weights of a layer do not depend on deeper layers."""
    generator = torch.Generator("cpu").manual_seed(seed)
    values: dict[str, Tensor] = {}
    for key, tensor in expected.items():
        if tensor.dim() == 4:
            std = math.sqrt(2 / tensor[0].numel())
            values[key] = torch.empty(tensor.shape, device="cpu").normal_(std=std, generator=generator)
        else:
            is_one = key.startswith("bn") and key.rpartition(".")[2] in ("weight", "running_var")
            values[key] = torch.full(tensor.shape, float(is_one), device="cpu")
    return values


def _layers(names: Sequence[str], returned: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield layers on the meta device by name. A ReLU works in place unless its input is returned, too."""
    channels, previous = 3, ""
    for name in names:
        if name.startswith("conv"):
            width = _WIDTHS[int(name[4]) - 1]
            yield name, nn.Conv2d(channels, width, 3, padding=1, device="meta")
            channels = width
        elif name.startswith("bn"):
            yield name, nn.BatchNorm2d(channels, device="meta")
        elif name.startswith("relu"):
            yield name, nn.ReLU(inplace=previous not in returned)
        else:
            yield name, nn.MaxPool2d(2, 2)
        previous = name
