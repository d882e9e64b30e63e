"""The facts about a network that the code around it needs: scale, sizes that it takes, how its tiles must be cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from torch import nn

Padding: TypeAlias = Literal["reflect", "zeros"]
"""How an image is extended at the bottom and right: mirrored without repeating the edge pixel, or black."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """The facts about a network; a network keeps them in its attribute ``spec``.

    Attributes:
        in_channels: channels of an input image.
        scale: factor by which the output is larger than the input.
        size_multiple: the layers take heights and widths that are multiples of it; the base class pads other sizes.
        min_size: smallest height and width that the layers take.
        shift_period: an image shifted by a multiple of it gives the same output, shifted, away from the edges. Tiles
            therefore start at multiples of it. Default: ``size_multiple``.
        tile_remainder: remainder of a tile's side divided by ``shift_period``.
        global_context: each output pixel depends on the whole image, or nearly, so a tile is restored differently from
            the same pixels in the whole image.
        tiles_internally: the network itself restores a large image in parts, so its memory grows little with the size.
        padding: how smaller and other sizes are padded.
        last_layer: name of the convolution that produces the image from the features; empty if there is no single one.
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

    def __post_init__(self) -> None:
        """Fill in the default of ``shift_period``."""
        if not self.shift_period:
            object.__setattr__(self, "shift_period", self.size_multiple)


@runtime_checkable
class HasSpec(Protocol):
    """A network that states its facts."""

    spec: NetworkSpec


def spec_of(network: nn.Module) -> NetworkSpec | None:
    """Return the facts about a network, or None for a module of the user's own that does not state them."""
    return network.spec if isinstance(network, HasSpec) else None
