"""The facts about a network that the code around it needs: scale, accepted sizes, how its tiles must be cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import nn

Padding: TypeAlias = Literal["reflect", "zeros"]
"""How an image is extended at the bottom and right: mirrored without repeating the edge pixel, or black."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """The facts about a network, stored in its attribute ``spec``.

    Attributes:
        in_channels: channels of an input image.
        scale: height and width of the output divided by those of the input.
        size_multiple: number that the height and width at the layers must be a multiple of. Other sizes are padded.
        min_size: smallest height and width at the layers. Smaller images are padded.
        shift_period: number of pixels by which an input must be shifted for the output to be the same, shifted, away
            from the edges. Tiles start at multiples of it. 0 means ``size_multiple``.
        tile_remainder: remainder of a tile's height and width when divided by ``shift_period``.
        global_context: whether an output pixel depends on the whole image, or nearly, so that a tile is restored
            differently from the same pixels of the whole image.
        tiles_internally: whether the network itself restores a large image in parts, so that its memory grows little
            with the size.
        padding: how images of other sizes are padded.
        last_layer: name of the convolution that computes the output image; empty if there is no single one.
        derived_buffers: last components of the names of buffers that the constructor computes, such as index tables and
            masks. Weight files may contain them or not; the network always keeps its own.
        guessed: constructor arguments that leave no trace in the keys and shapes of a state dict. ``detect`` fills them
            in from the published configurations.
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
    """Return the facts about a network, or None if its class does not state them."""
    spec = network.spec if hasattr(network, "spec") else None
    return spec if isinstance(spec, NetworkSpec) else None


def derived_buffer_names(network: nn.Module) -> set[str]:
    """Return the last components of the names of buffers that a network, or one inside it, computes itself."""
    specs = (spec_of(module) for module in network.modules())
    return {name for spec in specs if spec is not None for name in spec.derived_buffers}
