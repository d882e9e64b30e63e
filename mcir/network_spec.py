"""What other code must know about a network: its scale, the sizes that it accepts, and how to tile its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import nn

from mcir.network_call import call_network, eval_mode, unwrapped

_SIDE = 64  # side of the image with which a network without a spec is measured

Padding: TypeAlias = Literal["reflect", "zeros"]
"""How an image is padded at the bottom and right: by reflection without repeating the edge pixel, or with zeros."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Properties of a network, stored in its attribute ``spec``.

    Attributes:
        in_channels: number of channels of an input image.
        scale: height and width of the output divided by those of the input.
        size_multiple: divisor of every height and width that the layers accept. Images of other sizes are padded.
        min_size: smallest height and width that the layers accept. Smaller images are padded.
        shift_period: number of pixels p such that shifting the input by p shifts the output without changing it, away
            from the edges. Tiles start at multiples of p. Default (0): ``size_multiple``.
        tile_remainder: remainder of the height and width of a tile divided by ``shift_period``.
        global_context: whether an output pixel depends on most of the image, so that restoring a tile gives other
            values than restoring the whole image.
        tiles_internally: whether the network itself processes a large image in parts, so that its memory hardly grows
            with the size.
        padding: padding mode for images of other sizes.
        last_layer: name of the convolution that computes the output image; empty if there is no single one.
        derived_buffers: last name components of the buffers that the constructor computes, such as index tables and
            masks. They are never loaded from weight files.
        guessed: constructor arguments that do not affect the keys and shapes of the state dict. ``detect`` takes their
            values from published configurations.
    """

    in_channels: int = 3
    scale: int = 1
    size_multiple: int = 1
    min_size: int = 1
    shift_period: int = 0
    tile_remainder: int = 0
    global_context: bool = False
    tiles_internally: bool = False
    padding: Padding = "reflect"
    last_layer: str = ""
    derived_buffers: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Fill in the default of ``shift_period``."""
        if not self.shift_period:
            object.__setattr__(self, "shift_period", self.size_multiple)


def spec_of(network: nn.Module) -> NetworkSpec | None:
    """Return the spec of a network, or None if it has none."""
    network = unwrapped(network)
    spec = network.spec if hasattr(network, "spec") else None
    return spec if isinstance(spec, NetworkSpec) else None


@torch.no_grad()
def measured_spec(network: nn.Module) -> NetworkSpec:
    """Return the spec of a network. Without one, return the defaults, with the channels and scale of a small image.

    The number of channels is that of the first convolution, or 3 if the network does not accept it.

    Raises:
        ValueError: the network has no spec, and does not enlarge a small image by an integer.
    """
    if (spec := spec_of(network)) is not None:
        return spec
    first = next((module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)), 3)
    for channels in dict.fromkeys((first, 3)):
        try:
            size = _output_size(network, channels)
        except RuntimeError as error:
            reason = str(error)
            continue
        scale = size[-1] // _SIDE
        if scale and size[-2:] == (scale * _SIDE, scale * _SIDE):
            return NetworkSpec(in_channels=channels, scale=scale)
        reason = f"the output has the shape {tuple(size)}"
    shape = f"(1, {channels}, {_SIDE}, {_SIDE})"
    raise ValueError(
        f"{type(unwrapped(network)).__name__}: expected a network that enlarges images {shape} by an integer: {reason}."
        " State its channels, sizes and scale in the attribute 'spec', a mcir.network_spec.NetworkSpec."
    )


def _output_size(network: nn.Module, channels: int) -> torch.Size:
    """Return the shape of the output in ``eval`` mode for a small black image."""
    parameter = next(network.parameters(), torch.empty(0))
    image = torch.zeros(1, channels, _SIDE, _SIDE, dtype=parameter.dtype, device=parameter.device)
    with eval_mode(network):
        return call_network(network, image).shape


def derived_buffer_names(network: nn.Module) -> set[str]:
    """Return the last name components of the buffers that a network or one of its submodules computes itself."""
    specs = (spec_of(module) for module in network.modules())
    return {name for spec in specs if spec is not None for name in spec.derived_buffers}
