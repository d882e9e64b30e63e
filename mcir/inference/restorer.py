"""Restore images of any size and type, in tiles if memory requires it, on any device and in any precision."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from mcir.device import best_device, resolve_device
from mcir.inference.convert import as_array, as_floats, as_tensor, check_images
from mcir.inference.images import Picture
from mcir.inference.memory import memory_cost
from mcir.inference.output_buffer import OutputBuffer, enlarge_alpha
from mcir.inference.tile_planner import Tile, TilePlanner
from mcir.inference.tiling import blended, smallest_tile, spans
from mcir.network_call import check_output, copy_network, eval_mode, unwrapped
from mcir.network_spec import measured_spec

Precision: TypeAlias = Literal["fp32", "fp16", "bf16"]
Progress: TypeAlias = Callable[[float], None]
"""Called with the finished fraction of the work, from 0 to 1."""

OVERLAP = 64
"""Default overlap: number of pixels of the input that neighbouring tiles share."""

_SMALL_SIDE = 64  # approximate side of the smaller of two images with which the memory cost is measured
_OVERLAPS_PER_TILE = 4  # side of the smallest tiles of "auto" if memory allows it: the overlap then costs at most 7/4
_INTERNAL_COPIES = 16  # assumed memory cost of a network that tiles internally, in float32 copies of its input
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_LOG = logging.getLogger("mcir")


class Restorer:
    """Restore images of any size, grey or colour, within the available memory.

    Args:
        network: network that restores (B, C, H, W) in [0, 1] to (B, C', scale·H, scale·W). It is in ``eval`` mode
            during a restoration, and copied if another device is chosen. Its scale and its other requirements are
            read from its attribute ``spec``, a ``mcir.network_spec.NetworkSpec``; without one, its channels and scale
            are measured with a small image.
        device: device of the computation; default: the device of the network, or a GPU if the network is on the CPU.
        tile: longest side of a tile in pixels of the input; ``"auto"``: tiles as large as memory allows, and no tiles
            if the whole image fits; None: no tiles. If memory runs out, the side is halved, also for the following
            images.
        overlap: smallest number of pixels of the input that neighbouring tiles share, limited to half a tile. If the
            receptive field extends no farther than a quarter of the overlap, tiles do not change the result.
        ensemble: whether each image is restored in eight orientations, of which the mean is returned. The windows of
            a transformer may then differ between a tile and the whole image.
        precision: precision of the arithmetic, through ``torch.autocast``; results are float32.

    Attributes:
        network: network on the device.
        device: device of the computation.
        scale: factor by which the output is larger.
        architecture: class name of the network.

    Raises:
        ValueError: an argument is invalid.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        device: str | torch.device | None = None,
        tile: Tile = "auto",
        overlap: int = OVERLAP,
        ensemble: bool = False,
        precision: Precision = "fp32",
    ) -> None:
        parameter = next(network.parameters(), torch.empty(0))
        if device is None:
            device = best_device() if parameter.device.type == "cpu" else parameter.device
        self.device = torch.empty(0, device=resolve_device(str(device))).device  # with the index of a GPU
        self.spec = measured_spec(network)
        self.scale = self.spec.scale
        self.architecture = type(unwrapped(network)).__name__
        self.overlap = overlap
        self.ensemble = ensemble
        self.precision = precision
        period = self.spec.shift_period
        min_side = smallest_tile(period, self.spec.tile_remainder, self.spec.min_size)
        _check_arguments(self.architecture, min_side, tile, overlap, ensemble, precision)
        self.network = network if parameter.device == self.device else copy_network(network).to(self.device)
        self._dtype = parameter.dtype
        self._small = -(-max(self.spec.min_size, _SMALL_SIDE) // period) * period
        preferred_side = _OVERLAPS_PER_TILE * overlap
        self._planner = TilePlanner(self.architecture, self.device, tile, min_side, preferred_side, self._small**2)
        self._is_tile_warning_due = self.spec.global_context

    def __call__(self, images: Tensor) -> Tensor:
        """Restore images (B, C, H, W) in [0, 1] to (B, C, scale·H, scale·W) in [0, 1], float32, on the same device.

        C is the number of channels of the network, 1 (the result is also grey), or any number for a grey network.

        Raises:
            ValueError: the images have another shape or type, or memory is not sufficient for the smallest tile.
        """
        if images.dim() != 4 or not images.is_floating_point():
            raise ValueError(
                f"{self.architecture}: expected images (B, C, H, W), floats in [0, 1], got {tuple(images.shape)}, "
                f"{images.dtype}."
            )
        return self.tensor(images.float())

    def tensor(self, image: Tensor) -> Tensor:
        """Restore a tensor (C, H, W) or (B, C, H, W), uint8, uint16, or floats in [0, 1]; its type stays the same.

        Raises:
            ValueError: the shape, the type, the values or the number of channels is invalid.
        """
        if image.dim() not in (3, 4):
            raise ValueError(f"tensor: expected (C, H, W) or (B, C, H, W), got {tuple(image.shape)}.")
        images = check_images(image.detach())
        restored = self._restore(list(images.view(-1, *images.shape[-3:])))
        stacked = restored[0][None] if len(restored) == 1 else torch.stack(restored)  # one image is not copied
        return stacked.contiguous().view(*image.shape[:-3], *restored[0].shape)

    def pictures(self, pictures: Sequence[Picture], progress: Progress | None = None) -> list[Picture]:
        """Restore images of one size; their numbers of channels and bits, alpha channels and metadata are kept.

        Integers are converted tile by tile, so only the inputs and outputs themselves are in memory as a whole.

        Args:
            pictures: images of one size.
            progress: called after each tile with the finished fraction, from 0 to 1, which becomes smaller when memory
                runs out and smaller tiles are tried.

        Raises:
            ValueError: the sizes differ, the output is neither grey nor RGB, or memory is not sufficient.
        """
        sizes = {(picture.height, picture.width) for picture in pictures}
        if len(sizes) > 1:
            shown = ", ".join(f"{width}×{height}" for height, width in sorted(sizes))
            raise ValueError(f"pictures: expected images of one size, got {shown}.")
        restored = []
        outputs = self._restore([as_tensor(picture.pixels) for picture in pictures], progress)
        for picture, image in zip(pictures, outputs, strict=True):
            if len(image) not in (1, 3):
                raise ValueError(f"{self.architecture}: expected an output with 1 or 3 channels, got {len(image)}.")
            icc = picture.icc if len(image) == picture.channels else None
            alpha = None if picture.alpha is None else enlarge_alpha(picture.alpha, self.scale)
            restored.append(replace(picture, pixels=as_array(image), alpha=alpha, icc=icc))
        return restored

    def _restore(self, images: Sequence[Tensor], progress: Progress | None = None) -> list[Tensor]:
        """Restore images (C, H, W) of one size and of any type."""
        buffers = [OutputBuffer(image, self.spec.in_channels, self.scale) for image in images]
        waiting = [(buffer, index) for buffer in buffers for index in range(len(buffer.inputs))]
        count = len(waiting)
        while waiting:
            height, width = images[0].shape[1:]
            batch_size, side = self._planner.plan(len(waiting), height, width, self._memory_cost)
            try:
                with torch.inference_mode(), eval_mode(self.network):
                    for fraction in self._restore_inputs(waiting[:batch_size], side):
                        if progress is not None:
                            progress((count - len(waiting) + fraction * batch_size) / count)
            except (RuntimeError, MemoryError) as error:
                self._planner.failed(error, batch_size, side, height, width)
            else:
                self._planner.succeeded(batch_size, side)
                waiting = waiting[batch_size:]
        return [buffer.output for buffer in buffers]

    def _restore_inputs(self, batch: Sequence[tuple[OutputBuffer, int]], side: int) -> Iterator[float]:
        """Restore a batch of inputs in tiles, write the pieces to their buffers, and yield the finished fraction.

        Args:
            batch: for each input, its buffer and its index in the buffer.
            side: longest side of a tile.
        """
        inputs = [buffer.inputs[index] for buffer, index in batch]

        def restore_tile(rows: slice, columns: slice) -> Tensor:
            windows = [as_floats(each[:, rows, columns], self.device, self._dtype) for each in inputs]
            return self._restore_tile(torch.stack(windows))

        sides = inputs[0].shape[1:]
        rows, columns = (
            spans(each, side, self.overlap, self.spec.shift_period, self.spec.tile_remainder) for each in sides
        )
        if self._is_tile_warning_due and len(rows) * len(columns) > 1:
            self._is_tile_warning_due = False
            _LOG.warning(
                "%s uses context from the whole image: tiles of %d pixels change the result. Use tile None (--tile "
                "none) if memory allows it.",
                self.architecture,
                side,
            )
        done = 0
        for row, column, piece in blended(restore_tile, rows, columns, self.scale):
            for (buffer, index), image in zip(batch, piece, strict=True):
                buffer.write(index, row, column, image)
            done += piece[0, 0].numel()
            yield done / (sides.numel() * self.scale**2)

    def _restore_tile(self, x: Tensor) -> Tensor:
        """Restore (B, C, h, w) to (B, C', scale·h, scale·w) in [0, 1], float32."""
        if not self.ensemble:
            return self._forward(x).clamp(0, 1)
        total = torch.zeros(())
        for orientation in range(8):
            flipped = [axis for bit, axis in ((1, -1), (2, -2)) if orientation & bit]
            part = self._forward((x.mT if orientation & 4 else x).flip(flipped)).flip(flipped)
            part = part.mT if orientation & 4 else part
            total = part / 8 if orientation == 0 else total.add_(part, alpha=1 / 8)
        return total.clamp_(0, 1)

    def _forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":  # convolutions on the CPU are faster with it (measured)
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, _DTYPES[self.precision], enabled=self.precision != "fp32"):
            restored = check_output(self.network, self.network(x))  # which may modify x in place
        if restored.shape[-2:] != (self.scale * x.shape[-2], self.scale * x.shape[-1]):
            raise ValueError(
                f"{self.architecture}: expected an output of scale {self.scale}, got {tuple(restored.shape)} from "
                f"{tuple(x.shape)}. Set the attribute spec of a network with another scale to "
                "mcir.network_spec.NetworkSpec(scale=…)."
            )
        if not restored.isfinite().all():
            advice = "; use bf16 or fp32 instead of fp16" if self.precision == "fp16" else ""
            raise ValueError(f"{self.architecture}: the output is not finite{advice}.")
        return restored.float()

    def _memory_cost(self) -> tuple[float, float]:
        """Return the bytes that the network always uses and those per pixel, measured with two small images."""
        channels, period = self.spec.in_channels, self.spec.shift_period
        if self.spec.tiles_internally:
            return 0.0, _INTERNAL_COPIES * 4.0 * channels
        sides = self._small, self._small + max(self._small // 2 // period, 1) * period
        small, large = (torch.zeros(1, channels, side, side, device=self.device, dtype=self._dtype) for side in sides)
        with torch.inference_mode(), eval_mode(self.network):
            return memory_cost(self._forward, (small, large))


def _check_arguments(
    architecture: str, min_side: int, tile: Tile, overlap: int, ensemble: bool, precision: Precision
) -> None:
    if tile not in ("auto", None) and type(tile) is not int:
        raise ValueError(f"tile: expected a number of pixels, 'auto' or None, got {tile!r}.")
    if isinstance(tile, int) and tile < min_side:
        raise ValueError(f"tile: expected at least {min_side} for {architecture}, got {tile}.")
    if type(overlap) is not int or overlap < 0:
        raise ValueError(f"overlap: expected a number of pixels, at least 0, got {overlap!r}.")
    if not isinstance(ensemble, bool):
        raise ValueError(f"ensemble: expected True or False, got {ensemble!r}.")
    if precision not in get_args(Precision):
        raise ValueError(f"precision: expected one of {', '.join(get_args(Precision))}, got {precision!r}.")
