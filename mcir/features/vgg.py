"""Feature networks: the activations of VGG (Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556) by layer name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.features.base import FeatureNetwork, on_meta_device, pretrained_tensors, warn_of_random_weights
from mcir.registry import ArgumentError, suggestion

VGGType: TypeAlias = Literal["vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]

_CONVOLUTIONS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)


def vgg_layers(vgg_type: VGGType) -> list[str]:
    """Return the layer names of a VGG in order: ``conv1_1``, (``bn1_1``), ``relu1_1``, …, ``pool5``.

    The position in the list is the index in torchvision's ``features``.

    Raises:
        ArgumentError: unknown VGG.
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
    """Activations of a frozen VGG; only the layers up to the deepest chosen one are built.

    The activation of a convolution is the one before the ReLU.

    Args:
        layer_names: layers such as ``conv1_2``, ``relu1_2``, ``pool1``, and ``bn1_2`` in a VGG with batch norm.
        vgg_type: name of the VGG.
        weights: ``"imagenet"`` (torchvision's), ``"random"`` (He initialisation), or the path of a state dict with
            torchvision's keys (``features.0.weight``) or with layer names (``conv1_1.weight``,
            ``vgg_net.conv1_1.weight``). The file needs to contain only the layers that are built.
        use_input_norm: whether images are normalised with ImageNet's mean and standard deviation.
        range_norm: whether images are in [-1, 1] and are mapped to [0, 1] first.
        seed: seed for random weights.

    Raises:
        ArgumentError: unknown layer or VGG, or no layer.
        WeightsError: the weights are not available, or do not match.
    """

    def __init__(
        self,
        layer_names: Sequence[str],
        vgg_type: VGGType = "vgg16",
        weights: str = "imagenet",
        use_input_norm: bool = True,
        range_norm: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(vgg_type, weights, use_input_norm, range_norm, seed)
        every = vgg_layers(vgg_type)
        for name in layer_names:
            if name not in every:
                message = f"{vgg_type} has no layer '{name}'.{suggestion(name, every)} Its layers: {', '.join(every)}."
                raise ArgumentError("layer_names", message)
        if not layer_names:
            raise ArgumentError("layer_names", f"Expected at least one layer of {vgg_type}: {', '.join(every)}.")
        self.layer_names = tuple(name for name in every if name in layer_names)
        self.vgg_type: VGGType = vgg_type
        built = every[: every.index(self.layer_names[-1]) + 1]
        self.min_size: int = 2 ** sum(name.startswith("pool") for name in built)
        self.vgg_net = nn.ModuleDict(dict(_layers(built, self.layer_names)))
        self._load(weights, seed)
        self.eval()

    def stream(self, x: Tensor, wanted: Sequence[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield the activations layer by layer, up to the last wanted one; see :meth:`FeatureNetwork.stream`."""
        names = self.layer_names if wanted is None else tuple(name for name in self.layer_names if name in wanted)
        if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[2:]) < self.min_size:
            raise ValueError(
                f"{self.vgg_type} up to {self.layer_names[-1]}: expected images (B, 3, H, W) with H, W ≥ "
                f"{self.min_size}, got {tuple(x.shape)}."
            )
        x = self.prepare(x)
        ready: str | None = None
        for name, layer in self.vgg_net.items():
            if ready == names[-1]:
                break
            following = layer(x)
            if ready is not None:
                yield ready, x
            x = following
            ready = name if name in names else None
        assert ready is not None
        yield ready, x

    def _load(self, weights: str, seed: int) -> None:
        """Replace the buffers, which are on the meta device, by tensors with values."""
        if weights == "random" and not on_meta_device():
            warn_of_random_weights(self.vgg_type)
            self._assign(self._random(seed))
        elif weights != "random":
            index = {name: number for number, name in enumerate(self.vgg_net)}

            def candidates(key: str) -> list[str]:
                name, _, leaf = key.partition(".")
                return [f"features.{index[name]}.{leaf}", f"vgg_net.{key}", key]

            buffers = dict(self.vgg_net.named_buffers())
            self._assign(pretrained_tensors(self.vgg_type, weights, ["IMAGENET1K_V1"], buffers, candidates))

    def _random(self, seed: int) -> dict[str, Tensor]:
        """Return weights that keep activations of order one. Those of a layer do not depend on later layers."""
        generator = torch.Generator("cpu").manual_seed(seed)
        values: dict[str, Tensor] = {}
        for key, buffer in self.vgg_net.named_buffers():
            if buffer.dim() == 4:
                std = math.sqrt(2 / buffer[0].numel())
                values[key] = torch.empty(buffer.shape, device="cpu").normal_(std=std, generator=generator)
            else:
                is_one = key.startswith("bn") and key.rpartition(".")[2] in ("weight", "running_var")
                values[key] = torch.full(buffer.shape, float(is_one), device="cpu")
        return values

    def _assign(self, values: Mapping[str, Tensor]) -> None:
        for key, value in values.items():
            name, _, leaf = key.partition(".")
            setattr(self.vgg_net[name], leaf, value)


class _Frozen(nn.Module):
    """A layer whose weights are buffers, at first on the meta device."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_buffer(name, torch.empty(shape, device="meta"), persistent=False)


class _Convolution(_Frozen):
    weight: Tensor
    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=1)


class _Normalisation(_Frozen):
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


def _layers(built: Sequence[str], wanted: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers by name. A ReLU overwrites its input unless that is wanted too."""
    channels, previous = 3, ""
    for name in built:
        if name.startswith("conv"):
            width = _WIDTHS[int(name[4]) - 1]
            yield name, _Convolution(weight=(width, channels, 3, 3), bias=(width,))
            channels = width
        elif name.startswith("bn"):
            shape = (channels,)
            yield name, _Normalisation(weight=shape, bias=shape, running_mean=shape, running_var=shape)
        elif name.startswith("relu"):
            yield name, nn.ReLU(inplace=previous not in wanted)
        else:
            yield name, nn.MaxPool2d(2, 2)
        previous = name
