"""Base class of the architectures: images of any height and width in, ``scale`` times as large out.

The layers of a network may need heights and widths that are multiples of a window or a stride. Its ``NetworkSpec``
states that, and this base class pads the images accordingly and crops the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcir.network_spec import NetworkSpec, Padding

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""The shape of each entry of a state dict by its key."""

is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
"""Whether a program for many sizes is traced, which may not ask what a size is (before torch 2.7: or compiled)."""


class Network(nn.Module):
    """Base class of the architectures: pad the images, run ``restore``, crop the output.

    Args:
        spec: facts about the network.
    """

    spec: NetworkSpec

    def __init__(self, spec: NetworkSpec | None = None) -> None:
        super().__init__()
        self.spec = spec or NetworkSpec()

    @property
    def scale(self) -> int:
        """Height and width of the output divided by those of the input."""
        return self.spec.scale

    @property
    def in_channels(self) -> int:
        """Channels of an input image."""
        return self.spec.in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W) in [0, 1], of any size, to (B, C, scale·H, scale·W), not clamped.

        Raises:
            ValueError: the images have another number of channels than the network takes.
        """
        height, width = self.checked(x).shape[-2:]
        restored = self.restore(pad(x, self.spec.size_multiple, self.spec.min_size, self.spec.padding))
        height, width = height * self.scale, width * self.scale
        if is_exporting():  # a view's layout would depend on how much is cut off
            return F.pad(restored, (0, width - restored.shape[-1], 0, height - restored.shape[-2]))
        return restored[..., :height, :width]

    def checked(self, x: Tensor) -> Tensor:
        """Return ``x`` if it is a batch of images with as many channels as the network takes.

        Raises:
            ValueError: it is not, it is empty, or its values are whole numbers.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__} takes images (B, {self.in_channels}, H, W), not {tuple(x.shape)}: "
                "look at the network's channels and at the data set's 'color'."
            )
        if not x.is_floating_point():
            raise ValueError(
                f"{type(self).__name__} takes images of floats in [0, 1], not of {x.dtype}: divide by 255."
            )
        if not is_exporting() and x.numel() == 0:
            raise ValueError(f"{type(self).__name__}: there is no pixel in images of {tuple(x.shape)}.")
        return x

    def restore(self, x: Tensor) -> Tensor:
        """Restore images whose height and width are multiples of ``size_multiple`` and at least ``min_size``."""
        raise NotImplementedError

    @classmethod
    def detect(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the constructor's arguments that a state dict of these shapes tells, or None if it is another's.

        Arguments that are not in the answer keep their defaults. A class that inherits this from another architecture
        is not asked.
        """
        return None


class Blocks(nn.Module):
    """Blocks one after the other, under the name ``blocks`` that official weights give them.

    Args:
        blocks: the blocks.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map what the blocks map."""
        for block in self.blocks:
            x = block(x)
        return x


def stochastic_depth(branch: Tensor, probability: float, training: bool) -> Tensor:
    """Return a residual (B, …); in training, those of some images are left out and the others larger in return.

    Args:
        branch: the residual.
        probability: of leaving that of an image out (Huang et al., ECCV 2016).
        training: whether the network is trained.
    """
    if not training or not probability:
        return branch
    kept = branch.new_empty((len(branch), *[1] * (branch.dim() - 1))).bernoulli_(1 - probability)
    return branch * kept.div_(1 - probability)


def pad(x: Tensor, multiple: int, least: int = 1, padding: Padding = "reflect") -> Tensor:
    """Return (B, C, H, W) continued at the bottom and right until each side is a multiple and at least ``least``.

    Mirroring goes back and forth where a side is shorter than what is to be added; a single pixel is repeated. Nothing
    is copied when nothing is to be added.
    """
    if is_exporting():
        return _pad_any_size(x, multiple, least, padding)
    height, width = x.shape[-2:]
    bottom, right = (_target(side, multiple, least) - side for side in (height, width))
    if padding == "zeros":
        return F.pad(x, (0, right, 0, bottom)) if right or bottom else x
    if bottom < height and right < width:
        return F.pad(x, (0, right, 0, bottom), mode="reflect") if right or bottom else x
    for axis, (side, extra) in {-2: (height, bottom), -1: (width, right)}.items():
        place = torch.arange(side + extra, device=x.device) % max(2 * (side - 1), 1)
        x = x.index_select(axis, torch.minimum(place, (2 * (side - 1) - place).abs()))
    return x


def _pad_any_size(x: Tensor, multiple: int, least: int, padding: Padding) -> Tensor:
    """Return the same without asking what a size is, in operations that every exported format has.

    Divisions are of positive numbers, which ONNX rounds as Python does; a remainder is of two tensors.
    """
    if multiple == least == 1:
        return x
    for axis in (-2, -1):
        side: Any = x.shape[axis]
        whole = (torch.sym_max(side, least) + multiple - 1) // multiple * multiple
        if padding == "zeros":
            x = F.pad(x, (0, whole - side) if axis == -1 else (0, 0, 0, whole - side))
            continue
        place = torch.arange(whole, device=x.device)
        place = place % torch.full_like(place, 2 * (side - 1)).clamp(min=1)
        x = x.index_select(axis, torch.minimum(place, (2 * (side - 1) - place).abs()))
    return x


def _target(side: int, multiple: int, least: int) -> int:
    return -(-max(side, least) // multiple) * multiple
