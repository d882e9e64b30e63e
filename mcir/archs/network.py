"""Base class of the architectures, which accept images of any height and width.

The layers of a network may require heights and widths that are multiples of a window or a stride. The ``NetworkSpec``
of the network contains these requirements; the base class pads the images accordingly and crops the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeAlias

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mcir.network_spec import NetworkSpec, Padding

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Shapes of the entries of a state dict, by key."""

WindowSize: TypeAlias = Annotated[int, Interval(ge=1, le=128)]
"""Height and width of a window."""
ImageSize: TypeAlias = Annotated[int, Interval(ge=1, le=2048)]
"""Height and width of the images for which a network prepares its masks."""
MLPRatio: TypeAlias = Annotated[float, Interval(gt=0, le=64)]
"""Hidden features of an MLP divided by its features."""

is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
"""Return whether ``torch.export`` traces a program for any image size. Python code must then not branch on sizes."""


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
        """Restore images (B, C, H, W) in [0, 1] of any size to (B, C, scale·H, scale·W), not clamped.

        Raises:
            ValueError: wrong number of dimensions or channels, integer values, or no pixels.
        """
        height, width = self.check_images(x).shape[-2:]
        restored = self.restore(pad(x, self.spec.size_multiple, self.spec.min_size, self.spec.padding))
        height, width = height * self.scale, width * self.scale
        if is_exporting():  # the strides of a view would depend on the amount of padding
            return F.pad(restored, (0, width - restored.shape[-1], 0, height - restored.shape[-2]))
        return restored[..., :height, :width]

    def check_images(self, x: Tensor) -> Tensor:
        """Return ``x`` unchanged if it is a batch of images that the network accepts.

        Raises:
            ValueError: wrong number of dimensions or channels, integer values, or no pixels.
        """
        name = type(self).__name__
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"{name}: expected images (B, {self.in_channels}, H, W), got {tuple(x.shape)}. "
                "Check the network's channels and the data set's 'color'."
            )
        if not x.is_floating_point():
            raise ValueError(f"{name}: expected floating-point images in [0, 1], got {x.dtype}. Divide by 255.")
        if not is_exporting() and x.numel() == 0:
            raise ValueError(f"{name}: expected images with at least one pixel, got {tuple(x.shape)}.")
        return x

    def restore(self, x: Tensor) -> Tensor:
        """Restore images whose height and width are multiples of ``size_multiple`` and at least ``min_size``."""
        raise NotImplementedError

    @classmethod
    def detect(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the constructor arguments of the network with this state dict, or None if it belongs to another class.

        Arguments that are not in the result have their defaults. A subclass that inherits this method from another
        architecture is not detected.
        """
        return None


class Blocks(nn.Module):
    """Run blocks in sequence. Their keys start with ``blocks.``, as in official weights.

    Args:
        blocks: blocks, in order.
        use_checkpoint: whether the backward pass recomputes the activations inside the blocks instead of storing them.
    """

    def __init__(self, blocks: Iterable[nn.Module], use_checkpoint: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.use_checkpoint = use_checkpoint

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, …) to the output of the last block."""
        for block in self.blocks:
            if self.use_checkpoint and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


def stochastic_depth(branch: Tensor, probability: float, training: bool) -> Tensor:
    """Set the residuals of random images to zero in training, and scale up the others to keep the mean.

    Args:
        branch: output of the residual branch, (B, …).
        probability: probability of dropping the residual of an image (Huang et al., ECCV 2016).
        training: whether the network is in training mode.
    """
    if not training or not probability:
        return branch
    mask = branch.new_empty((len(branch), *[1] * (branch.dim() - 1))).bernoulli_(1 - probability)
    return branch * mask.div_(1 - probability)


def init_linear(module: nn.Module) -> None:
    """Initialize a linear layer as in Swin Transformer, for ``nn.Module.apply``; ignore other modules."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def pad(x: Tensor, multiple: int, minimum: int = 1, padding: Padding = "reflect") -> Tensor:
    """Pad (B, C, H, W) at the bottom and right to sides that are multiples of ``multiple`` and at least ``minimum``.

    If a side is shorter than its padding, the image is reflected repeatedly; a single pixel is repeated. If no padding
    is necessary, ``x`` itself is returned.
    """
    if is_exporting():
        return _pad_any_size(x, multiple, minimum, padding)
    height, width = x.shape[-2:]
    bottom, right = (-(-max(side, minimum) // multiple) * multiple - side for side in (height, width))
    if padding == "zeros":
        return F.pad(x, (0, right, 0, bottom)) if right or bottom else x
    if bottom < height and right < width:
        return F.pad(x, (0, right, 0, bottom), mode="reflect") if right or bottom else x
    for axis, (side, extra) in {-2: (height, bottom), -1: (width, right)}.items():
        index = torch.arange(side + extra, device=x.device) % max(2 * (side - 1), 1)
        x = x.index_select(axis, torch.minimum(index, (2 * (side - 1) - index).abs()))
    return x


def _pad_any_size(x: Tensor, multiple: int, minimum: int, padding: Padding) -> Tensor:
    """Do the same as ``pad`` without branching on sizes, with operations that all export formats support.

    ONNX rounds quotients of negative numbers differently from Python, so only positive numbers are divided. The
    remainder operator gets two tensors.
    """
    if multiple == minimum == 1:
        return x
    for axis in (-2, -1):
        side: Any = x.shape[axis]
        target = (torch.sym_max(side, minimum) + multiple - 1) // multiple * multiple
        if padding == "zeros":
            x = F.pad(x, (0, target - side) if axis == -1 else (0, 0, 0, target - side))
            continue
        index = torch.arange(target, device=x.device)
        index = index % torch.full_like(index, 2 * (side - 1)).clamp(min=1)
        x = x.index_select(axis, torch.minimum(index, (2 * (side - 1) - index).abs()))
    return x
