"""Restoring images of any size and kind: in tiles where memory asks for it, on any device, in any precision."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mcir.data.codec import Array
from mcir.inference.convert import from_pil, join_alpha, split_alpha, to_pil, upright
from mcir.inference.images import Picture, read_picture
from mcir.inference.memory import cost, is_out_of_memory
from mcir.inference.output_buffer import OutputBuffer, as_array, as_floats, as_tensor, checked, enlarged, stacked
from mcir.inference.tile_planner import Tile, TilePlanner
from mcir.inference.tiling import blended, smallest_tile, spans
from mcir.network_spec import NetworkSpec, spec_of
from mcir.weights import load_network

Precision: TypeAlias = Literal["fp32", "fp16", "bf16"]
Checkpoint: TypeAlias = "str | Path | nn.Module | Restorer"
Kind = TypeVar("Kind", Image.Image, Array, Tensor)

_LOG = logging.getLogger("mcir")

OVERLAP = 64
"""Pixels of the input that neighbouring tiles share unless told otherwise."""

SMALL_SIDE = 64
"""About the side of the smaller of the two images that show how much memory a network takes."""

OVERLAPS_A_TILE = 4
"""``auto`` makes the side of a tile at least so many overlaps, where memory allows it: then no more than 7 pixels are
restored for 4."""

COPIES = 16
"""As many images in float32 as large as its input are what a network that cuts it into parts may hold beside these."""

Progress: TypeAlias = Callable[[float], None]
"""Is told which share, from 0 to 1, is done."""

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Restorer:
    """A network that restores images of any size, grey or colour, within the memory that there is.

    Args:
        network: restores (B, C, H, W) in [0, 1] to (B, C', scale·H, scale·W). It is put into ``eval`` mode while it
            works; nothing else of it is changed: for another device it is copied.
        device: where it works; by default where the network is, or on a GPU if there is one and the network is on the
            CPU.
        tile: the longest side of a tile, in pixels of the input; ``auto`` for as much as fits into the memory, and no
            tiles where all of a picture does; None for no tiles. When memory runs out all the same, tiles become half
            as long, for the following images, too.
        overlap: pixels of the input that neighbouring tiles share at least (at most half a tile). Tiles do not show in
            what is restored if the network sees no farther than a quarter of it.
        ensemble: restore each image in its eight orientations, and return the mean. Networks with windows see those of
            a tile in all eight, which can be others than those of the whole picture.
        precision: of the arithmetic, by ``torch.autocast``; the results are float32.

    Attributes:
        network: the network, on the device.
        device: where it works.
        scale: how much larger the output is.
        architecture: the name of the network's class.

    Raises:
        ValueError: an argument that makes no sense; the message says which.
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
        here = next((parameter for parameter in network.parameters()), torch.empty(0))
        self.device = _device(device, here.device)
        self._spec = spec_of(network) or NetworkSpec()
        self.scale = self._spec.scale
        self.architecture = type(network).__name__
        self.overlap = overlap
        self.ensemble = ensemble
        self.precision = precision
        self.tile = tile
        self.channels = self._spec.in_channels
        self._period, self._rest = self._spec.shift_period, self._spec.tile_remainder
        self._sees_all = self._spec.global_context
        least = self._spec.min_size
        smallest = smallest_tile(self._period, self._rest, least)
        self._small = -(-max(least, SMALL_SIDE) // self._period) * self._period
        _check(self.architecture, smallest, tile, overlap, ensemble, precision)
        self.network = network if here.device == self.device else copy.deepcopy(network).to(self.device)
        self._dtype = here.dtype
        wanted, unasked = OVERLAPS_A_TILE * overlap, self._small**2
        self._room = TilePlanner(self.architecture, self.device, tile, smallest, wanted, unasked)

    def __call__(self, images: Tensor) -> Tensor:
        """Restore images (B, C, H, W) of floats in [0, 1], to (B, C, scale·H, scale·W) in [0, 1], float32.

        C is what the network takes, or 1 (then the result is grey, too), or any number for a network of one channel.
        The result is on the device of the images.

        Raises:
            ValueError: these are no such images, or the memory is not enough even for the smallest tile.
        """
        if images.dim() != 4 or not images.is_floating_point():
            raise ValueError(
                f"{self.architecture} restores images (B, C, H, W) of floats in [0, 1], not "
                f"{tuple(images.shape)} of {images.dtype}."
            )
        return stacked(self._restored(list(checked(images.detach(), "images").float())))

    def pictures(self, pictures: Sequence[Picture], progress: Progress | None = None) -> list[Picture]:
        """Restore pictures of one size to pictures of the same kind: channels, bits, alpha, colour profile.

        From integers to integers, tile by tile, so that memory grows by no more than the pictures themselves.

        Args:
            pictures: what is restored.
            progress: is told after each tile which share of the pictures is done, from 0 to 1; it falls back where
                memory ran out and tiles become smaller.

        Raises:
            ValueError: the pictures have different sizes, the network makes something else than grey or colour, or
                the memory is not enough even for the smallest tile.
        """
        sizes = {(picture.height, picture.width) for picture in pictures}
        if len(sizes) > 1:
            shown = ", ".join(f"{width}×{height}" for height, width in sorted(sizes))
            raise ValueError(f"pictures that are restored together have one size, not {shown}.")
        restored = self._restored([as_tensor(picture.pixels) for picture in pictures], progress)
        return [self._like(picture, image) for picture, image in zip(pictures, restored, strict=True)]

    def _like(self, picture: Picture, image: Tensor) -> Picture:
        if len(image) not in (1, 3):
            raise ValueError(f"{self.architecture} makes {len(image)} channels, which are no picture.")
        icc = picture.icc if len(image) == picture.channels else None
        return dataclasses.replace(picture, pixels=as_array(image), alpha=self._alpha(picture.alpha), icc=icc)

    def _alpha(self, alpha: Array | None) -> Array | None:
        return None if alpha is None else enlarged(alpha, self.scale)

    def array(self, pixels: Array, alpha: Array | None = None) -> tuple[Array, Array | None]:
        """Restore an array (H, W, C) of uint8, uint16 or floats in [0, 1], and enlarge its alpha (H, W).

        Raises:
            ValueError: the values are others, or the network cannot take so many channels.
        """
        (image,) = self._restored([checked(as_tensor(pixels), "the array")])
        return as_array(image), self._alpha(alpha)

    def tensor(self, image: Tensor) -> Tensor:
        """Restore a tensor (C, H, W) or (B, C, H, W) of uint8, uint16 or floats in [0, 1] to the same.

        Raises:
            ValueError: the shape or the values are others, or the network cannot take so many channels.
        """
        if image.dim() not in (3, 4):
            raise ValueError(f"a tensor is an image (C, H, W) or several (B, C, H, W), not {tuple(image.shape)}.")
        images = checked(image.detach(), "the tensor")
        restored = self._restored(list(images.view(-1, *images.shape[-3:])))
        return stacked(restored).view(*image.shape[:-3], *restored[0].shape)

    def _restored(self, images: Sequence[Tensor], progress: Progress | None = None) -> list[Tensor]:
        """Restore images (C, H, W) of one size, of integers or floats; the results are of the same kind."""
        canvases = [OutputBuffer(image, self.channels, self.scale) for image in images]
        entries = [(canvas, number) for canvas in canvases for number in range(len(canvas.entries))]
        count = len(entries)
        while entries:
            height, width = images[0].shape[1:]
            together, side = self._room.plan(len(entries), height, width, self._cost)
            fits = True
            try:
                with torch.inference_mode(), _evaluating(self.network):
                    for share in self._restore_entries(entries[:together], side):
                        if progress is not None:
                            progress((count - len(entries) + share * together) / count)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                fits = False
            if fits:
                self._room.fitted(together, side)
                entries = entries[together:]
            else:  # here, where the exception no longer holds what was in memory
                self._room.ran_out(together, side, height, width)
        return [canvas.output for canvas in canvases]

    def _restore_entries(self, entries: Sequence[tuple[OutputBuffer, int]], side: int) -> Iterator[float]:
        """Restore what the network takes of some images in tiles of a side, write it, and yield which share is done."""
        inputs = [canvas.entries[number] for canvas, number in entries]

        def restore_tile(rows: slice, columns: slice) -> Tensor:
            windows = [as_floats(each[:, rows, columns], self.device, self._dtype) for each in inputs]
            return self._restored_tile(torch.stack(windows))

        sides = inputs[0].shape[1:]
        rows, columns = (spans(each, side, self.overlap, self._period, self._rest) for each in sides)
        if self._sees_all and len(rows) * len(columns) > 1:
            self._sees_all = False  # which is told once
            _LOG.warning(
                "%s looks at more of a picture than a tile holds: in tiles of %d pixels it makes another "
                "one than without tiles (tile None), for which the memory must be enough.",
                self.architecture,
                side,
            )
        done = 0
        for down, right, piece in blended(restore_tile, rows, columns, self.scale):
            for (canvas, number), image in zip(entries, piece, strict=True):
                canvas.write(number, down, right, image)
            done += piece[0, 0].numel()
            yield done / (sides.numel() * self.scale**2)

    def _restored_tile(self, x: Tensor) -> Tensor:
        """Return (B, C, scale·h, scale·w) in [0, 1], float32, of (B, C, h, w)."""
        if not self.ensemble:
            return self._forward(x).clamp(0, 1)
        total: Tensor | None = None
        for turn in range(8):
            part = _turned_back(self._forward(_turned(x, turn)), turn)
            total = part / 8 if total is None else total.add_(part, alpha=1 / 8)
        assert total is not None
        return total.clamp_(0, 1)

    def _forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":  # where convolutions are faster on it by measurement
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, _DTYPES[self.precision], enabled=self.precision != "fp32"):
            restored: Tensor = self.network(x)
        if restored.shape[-2:] != (self.scale * x.shape[-2], self.scale * x.shape[-1]):
            raise ValueError(
                f"{self.architecture} made {tuple(restored.shape)} of {tuple(x.shape)}, though its scale is "
                f"{self.scale}. A network states another scale in its constructor: "
                "self.spec = mcir.network_spec.NetworkSpec(scale=2)."
            )
        if not restored.isfinite().all():
            narrow = "; fp16 is too narrow for it: take bf16 or fp32" if self.precision == "fp16" else ""
            raise ValueError(f"{self.architecture} made values that are not finite{narrow}.")
        return restored.float()

    def _cost(self) -> tuple[float, float]:
        """Return the bytes that the network always takes, and those for a pixel, as seen on two small images."""
        if self._spec.tiles_internally:
            return 0.0, COPIES * 4.0 * self.channels
        small, larger = self._small, self._small + max(self._small // 2 // self._period, 1) * self._period
        one, other = (
            torch.zeros(1, self.channels, side, side, device=self.device, dtype=self._dtype) for side in (small, larger)
        )
        with torch.inference_mode(), _evaluating(self.network):
            return cost(self._forward, (one, other))


@overload
def restore(
    image: str | Path,
    checkpoint: Checkpoint,
    *,
    key: str | None = None,
    device: str | torch.device | None = None,
    tile: Tile = "auto",
    overlap: int = OVERLAP,
    ensemble: bool = False,
    precision: Precision = "fp32",
) -> Picture: ...
@overload
def restore(
    image: Kind,
    checkpoint: Checkpoint,
    *,
    key: str | None = None,
    device: str | torch.device | None = None,
    tile: Tile = "auto",
    overlap: int = OVERLAP,
    ensemble: bool = False,
    precision: Precision = "fp32",
) -> Kind: ...
def restore(
    image: Any,
    checkpoint: Checkpoint,
    *,
    key: str | None = None,
    device: str | torch.device | None = None,
    tile: Tile = "auto",
    overlap: int = OVERLAP,
    ensemble: bool = False,
    precision: Precision = "fp32",
) -> Any:
    """Restore one image, of whatever kind, to the same kind.

    For many images make a ``Restorer`` once and give it as ``checkpoint``: a file is read anew in each call.

    Args:
        image: a file, which gives a ``Picture``; a PIL image, which is turned upright as its EXIF says (palette and
            CMYK become RGB); an array (H, W), (H, W, 1), (H, W, 3), or (H, W, 2) and (H, W, 4), whose last channel is
            alpha, of uint8, uint16 or floats in [0, 1]; or a tensor (C, H, W) or (B, C, H, W) of the same, whose
            channels the network takes (or 1).
        checkpoint: a file of weights, a network, or a restorer, which has the options itself.
        key: which weights of the file, like ``params``.
        device: as ``Restorer`` has it …
        tile: … likewise …
        overlap: … likewise …
        ensemble: … likewise …
        precision: … likewise.

    Returns:
        the restored image: a ``Picture`` for a file, otherwise of the kind, the type of values and the device of the
        image. An alpha channel is enlarged by bicubic interpolation.

    Raises:
        ValueError: the image cannot be read or is of no such kind, the checkpoint is none, or options are in its way.
    """
    options = {"device": device, "tile": tile, "overlap": overlap, "ensemble": ensemble, "precision": precision}
    restorer = _restorer(checkpoint, key, options)
    if isinstance(image, str | Path):
        return restorer.pictures([read_picture(Path(image))])[0]
    if isinstance(image, Image.Image):
        image = upright(image)
        pixels, alpha = from_pil(image)
        return to_pil(*restorer.array(pixels, alpha), like=image)
    if isinstance(image, np.ndarray):
        pixels, alpha = split_alpha(image, restorer.channels)
        return join_alpha(*restorer.array(pixels, alpha), like=image)
    if isinstance(image, Tensor):
        return restorer.tensor(image)
    raise ValueError(f"an image is a path, a PIL image, a numpy array or a torch tensor, not {type(image).__name__}.")


def _restorer(checkpoint: Any, key: str | None, options: dict[str, Any]) -> Restorer:
    """Return what restores, by a checkpoint of any kind."""
    if key is not None and not isinstance(checkpoint, str | Path):
        raise ValueError(f"key={key!r} chooses among the weights of a file; the checkpoint is none.")
    if isinstance(checkpoint, Restorer):
        usual = inspect.signature(Restorer).parameters
        if given := [f"{name}={value!r}" for name, value in options.items() if value != usual[name].default]:
            raise ValueError(f"{', '.join(given)}: say this to the Restorer when it is made; it is given here ready.")
        return checkpoint
    if isinstance(checkpoint, str | Path):
        return Restorer(load_network(checkpoint, key), **options)
    if isinstance(checkpoint, nn.Module):
        return Restorer(checkpoint, **options)
    raise ValueError(f"a checkpoint is a path, a network or a Restorer, not {type(checkpoint).__name__}.")


def _check(architecture: str, smallest: int, tile: Tile, overlap: int, ensemble: bool, precision: Precision) -> None:
    if tile not in ("auto", None) and not _is_count(tile):
        raise ValueError(f"tile is a number of pixels, 'auto' or None, not {tile!r}.")
    if isinstance(tile, int) and tile < smallest:
        raise ValueError(f"tile={tile} is too small for {architecture}: {smallest} is the least.")
    if not _is_count(overlap) or overlap < 0:
        raise ValueError(f"overlap is a number of pixels from 0 on, not {overlap!r}.")
    if not isinstance(ensemble, bool):
        raise ValueError(f"ensemble is True or False, not {ensemble!r}.")
    if precision not in get_args(Precision):
        raise ValueError(f"precision is one of {', '.join(get_args(Precision))}, not {precision!r}.")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _device(wanted: str | torch.device | None, here: torch.device) -> torch.device:
    """Return where to work: as wanted, or on a GPU if there is one, or where the network is."""
    if wanted is None:
        wanted = "cuda" if here.type == "cpu" and torch.cuda.is_available() else here
    try:
        torch.ones(1, device=wanted).item()  # which needs values: the device `meta` has none
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the device '{wanted}' cannot be used here: {error}") from error


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into ``eval`` mode, and back into what it was."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _turned(x: Tensor, turn: int) -> Tensor:
    """Return images in one of their eight orientations."""
    x = x.mT if turn & 4 else x
    return x.flip([axis for bit, axis in ((1, -1), (2, -2)) if turn & bit])


def _turned_back(x: Tensor, turn: int) -> Tensor:
    """Undo ``_turned``."""
    x = x.flip([axis for bit, axis in ((1, -1), (2, -2)) if turn & bit])
    return x.mT if turn & 4 else x
