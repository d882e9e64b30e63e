"""Feature networks: the activations of VGG (Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556) by layer name.

Losses compare images in them. A feature network is an instrument, not something that is trained: its weights are
buffers outside the state dict, so they get no gradient, follow ``.to()`` and stand in no checkpoint. That is also why
losses may share one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.features.base import FeatureNetwork, imagenet_file, kind_of
from mcir.registry import suggestion
from mcir.weights import WeightsError, read_weights

VGGType: TypeAlias = Literal["vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]

_CONVOLUTIONS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)

logger = logging.getLogger(__name__)


def vgg_layers(vgg_type: VGGType) -> list[str]:
    """Return the layer names of a VGG in order: ``conv1_1``, (``bn1_1``), ``relu1_1``, …, ``pool5``.

    The position in the list is the index in torchvision's ``features``.

    Raises:
        ValueError: no such VGG.
    """
    if vgg_type not in get_args(VGGType):
        known = get_args(VGGType)
        raise ValueError(f"There is no '{vgg_type}'.{suggestion(vgg_type, known)} Known are {', '.join(known)}.")
    kinds = ("conv", "bn", "relu") if vgg_type.endswith("_bn") else ("conv", "relu")
    names: list[str] = []
    for block, convolutions in enumerate(_CONVOLUTIONS[vgg_type.removesuffix("_bn")], start=1):
        names += [f"{kind}{block}_{number}" for number in range(1, convolutions + 1) for kind in kinds]
        names.append(f"pool{block}")
    return names


class VGGFeatures(FeatureNetwork):
    """Activations of a frozen VGG at chosen layers; only the layers up to the deepest chosen one are built.

    A convolution is reported before the ReLU that follows it. Built under ``with torch.device("meta")`` it has shapes
    but no weights, and reads none.

    Args:
        layer_names: what to report, such as ``conv1_2``, ``relu1_2``, ``pool1``, and ``bn1_2`` where there is one.
        vgg_type: which VGG.
        weights: ``"imagenet"`` (torchvision's), ``"random"`` (He-scaled, from ``seed``), or the path of a state dict
            with torchvision's keys (``features.0.weight``) or with layer names (``conv1_1.weight``,
            ``vgg_net.conv1_1.weight``); only the layers that are built need to be in it.
        use_input_norm: subtract ImageNet's mean and divide by its standard deviation first.
        range_norm: the input is in [-1, 1]; map it to [0, 1] before anything else.
        seed: of random weights.

    Raises:
        ValueError: an unknown layer or VGG, or no layer at all.
        WeightsError: weights that are not there or do not fit.
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
        super().__init__(use_input_norm, range_norm)
        every = vgg_layers(vgg_type)
        for name in layer_names:
            if name not in every:
                raise ValueError(
                    f"{vgg_type} has no layer '{name}'.{suggestion(name, every)} It has {', '.join(every)}."
                )
        if not layer_names:
            raise ValueError(f"Name at least one layer of {vgg_type}: {', '.join(every)}.")
        self.layer_names = tuple(name for name in every if name in layer_names)
        self.vgg_type: VGGType = vgg_type
        self._arguments = (vgg_type, weights, use_input_norm, range_norm, seed)
        self.kind = kind_of(*self._arguments)
        built = every[: every.index(self.layer_names[-1]) + 1]
        self.min_size: int = 2 ** sum(name.startswith("pool") for name in built)
        self.vgg_net = nn.ModuleDict(dict(_layers(built, self.layer_names)))
        self._fill(weights, seed)
        self.eval()

    def with_layers(self, layer_names: Sequence[str]) -> VGGFeatures:
        """Return the same VGG up to and with other layers."""
        return VGGFeatures(layer_names, *self._arguments)

    def stream(self, x: Tensor, wanted: Sequence[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield the activations one by one, and compute no layer behind the last of ``wanted``.

        Raises:
            ValueError: images without three channels, or smaller than the pools need.
        """
        names = self.layer_names if wanted is None else tuple(name for name in self.layer_names if name in wanted)
        if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[2:]) < self.min_size:
            raise ValueError(
                f"{self.vgg_type} up to {self.layer_names[-1]} takes (B, 3, H, W) with H, W ≥ {self.min_size}, "
                f"not {tuple(x.shape)}."
            )
        x = self.prepared(x)
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

    def _fill(self, weights: str, seed: int) -> None:
        """Put values in place of the buffers, which are on the meta device so far."""
        meta = torch.get_default_device().type == "meta"
        if weights == "random":
            if not meta:
                logger.warning(
                    "%s has random weights: results differ from the papers', which use ImageNet's.", self.vgg_type
                )
                self._assign(self._random(seed))
            return
        if weights != "imagenet" and not Path(weights).is_file():
            raise WeightsError(
                f"There is no file '{weights}'. weights of a VGG is 'imagenet' (torchvision's IMAGENET1K_V1), "
                "'random' or the path of a state dict."
            )
        if not meta:
            file = imagenet_file(self.vgg_type) if weights == "imagenet" else Path(weights)
            self._assign(self._matching(read_weights(file).tensors, file))

    def _random(self, seed: int) -> dict[str, Tensor]:
        """Return weights that keep activations of order one; a layer's do not depend on how many come after it."""
        generator = torch.Generator("cpu").manual_seed(seed)
        values: dict[str, Tensor] = {}
        for key, buffer in self.vgg_net.named_buffers():
            if buffer.dim() == 4:
                std = math.sqrt(2 / buffer[0].numel())
                values[key] = torch.empty(buffer.shape, device="cpu").normal_(std=std, generator=generator)
            else:
                one = key.startswith("bn") and key.rpartition(".")[2] in ("weight", "running_var")
                values[key] = torch.full(buffer.shape, float(one), device="cpu")
        return values

    def _matching(self, state: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
        """Return those entries of a state dict that this network needs, under its own keys."""
        index = {name: number for number, name in enumerate(self.vgg_net)}
        values: dict[str, Tensor] = {}
        wrong: list[str] = []
        for key, buffer in self.vgg_net.named_buffers():
            name, _, leaf = key.partition(".")
            names = (f"features.{index[name]}.{leaf}", f"vgg_net.{key}", key)
            found = next((state[candidate] for candidate in names if candidate in state), None)
            if found is None:
                wrong.append(f"{names[0]} is missing")
            elif found.shape != buffer.shape:
                wrong.append(f"{names[0]} is {tuple(found.shape)} instead of {tuple(buffer.shape)}")
            else:
                values[key] = found.float()
        if wrong:
            raise WeightsError(
                f"{file} does not hold {self.vgg_type} up to {self.layer_names[-1]}: {'; '.join(wrong)}. "
                f"It begins with {', '.join(list(state)[:4]) or 'nothing'}."
            )
        return values

    def _assign(self, values: Mapping[str, Tensor]) -> None:
        for key, value in values.items():
            name, _, leaf = key.partition(".")
            setattr(self.vgg_net[name], leaf, value)


class _Frozen(nn.Module):
    """A layer whose weights are buffers; they start on the meta device, without values."""

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
    channels, before = 3, ""
    for name in built:
        if name.startswith("conv"):
            width = _WIDTHS[int(name[4]) - 1]
            yield name, _Convolution(weight=(width, channels, 3, 3), bias=(width,))
            channels = width
        elif name.startswith("bn"):
            shape = (channels,)
            yield name, _Normalisation(weight=shape, bias=shape, running_mean=shape, running_var=shape)
        elif name.startswith("relu"):
            yield name, nn.ReLU(inplace=before not in wanted)
        else:
            yield name, nn.MaxPool2d(2, 2)
        before = name
