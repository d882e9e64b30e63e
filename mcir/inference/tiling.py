"""Cut an image into overlapping tiles, and blend the restored tiles without seams.

What a network computes near the edge of a tile differs from the untiled result, because context is missing. So
neighboring tiles overlap: the outer quarters of the overlap are discarded, and over the half between them one tile
fades into the next. If the receptive field of the network reaches no farther than a quarter of the overlap, the result
is the same as without tiles.

Networks with global context (means over the image, aligned corners) compute it from the tile: the result then differs
from the untiled one, without seams.

Tiles start at multiples of the network's ``shift_period``, so that windows and strides are those of the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

RestoreTile: TypeAlias = Callable[[slice, slice], Tensor]
"""Restores the tile at these rows and columns of the input: (B, C, scale·h, scale·w), a tensor of its own."""

Piece: TypeAlias = tuple[slice, slice, Tensor]
"""Rows and columns of the output, and their final values (B, C, rows, columns)."""


@dataclass(frozen=True)
class Span:
    """Position of a tile along one side, in pixels of the input.

    Attributes:
        start: first pixel of the tile.
        stop: first pixel behind the tile.
        begin: first pixel that is used; from here the previous tile fades into this one.
        full: first pixel that only this tile determines.
        fade: first pixel from which this tile fades into the next, the next tile's ``begin``.
        end: first pixel that is no longer used, the next tile's ``full``.
    """

    start: int
    stop: int
    begin: int
    full: int
    fade: int
    end: int


def spans(side: int, tile: int, overlap: int, period: int = 1, remainder: int = 0) -> list[Span]:
    """Cut a side into as few overlapping tiles as possible, each as short as possible.

    Args:
        side: length of the image, at least 1.
        tile: largest length of a tile, at least ``smallest_tile(period, remainder)``; a shorter side is one tile.
        overlap: smallest number of pixels that neighbors share, limited to half a tile.
        period: tiles start at its multiples.
        remainder: remainder of a tile's length divided by the period, except for the last tile.
    """
    if side <= tile:
        return [Span(0, side, 0, 0, side, side)]
    assert tile >= smallest_tile(period, remainder)

    def stride(length: int) -> int:
        return (length - overlap) // period * period

    def count(length: int) -> int:
        return 1 + -(-(side - length) // stride(length))

    longest = tile - (tile - remainder) % period
    overlap = min(overlap, longest // 2)
    fewest = count(longest)
    shortest = max(smallest_tile(period, remainder), 2 * overlap)
    length = min(length for length in range(longest, shortest - 1, -period) if count(length) == fewest)
    starts = [index * stride(length) for index in range(fewest - 1)]
    starts.append(-(-(side - length) // period) * period)
    stops = [*(start + length for start in starts[:-1]), side]
    ramp = overlap // 2
    fades = [(start + stop - ramp) // 2 for stop, start in zip(stops, starts[1:], strict=False)]
    begins, ends = [0, *fades, side], [0, *(fade + ramp for fade in fades), side]
    positions = zip(starts, stops, pairwise(begins), pairwise(ends), strict=True)
    return [Span(start, stop, begin, full, fade, end) for start, stop, (begin, fade), (full, end) in positions]


def smallest_tile(period: int, remainder: int = 0, min_size: int = 1) -> int:
    """Return the shortest tile that can overlap each neighbor by half and is never shorter than ``min_size``."""
    periods = max(2, 1 + -(-(min_size - remainder) // period))
    return periods * period + remainder


def blended(restore_tile: RestoreTile, rows: Sequence[Span], columns: Sequence[Span], scale: int) -> Iterator[Piece]:
    """Restore tile by tile, and yield the pieces of the output as soon as they are final; together they cover it.

    Only what the following tiles fade from is kept in memory: a strip as wide as the image and one as high as a tile.
    """
    above = None
    for row in rows:
        left = None
        for column in columns:
            tile = restore_tile(slice(row.start, row.stop), slice(column.start, column.stop))
            tile = tile[..., _used(row, scale), _used(column, scale)]
            if left is not None:
                _fade(left, tile, -1)
            width = scale * (column.fade - column.begin)
            tile, left = tile[..., :width], tile[..., width:]
            position = slice(scale * column.begin, scale * column.fade)
            if above is None:
                ramp = max(each.end - each.fade for each in rows)
                above = tile.new_empty((*tile.shape[:2], scale * ramp, scale * columns[-1].end))
            if row.begin:
                _fade(above[..., position], tile, -2)
            height = scale * (row.fade - row.begin)
            if row is not rows[-1]:
                above[..., position] = tile[..., height:, :]
            yield slice(scale * row.begin, scale * row.fade), position, tile[..., :height, :]


def _used(span: Span, scale: int) -> slice:
    """Return the part of the output of a tile that is used."""
    return slice(scale * (span.begin - span.start), scale * (span.end - span.start))


def _fade(source: Tensor, target: Tensor, axis: int) -> None:
    """Blend the first pixels of ``target`` along an axis with ``source``; equal values stay exactly equal."""
    ramp = source.shape[axis]
    weight = (torch.arange(ramp, device=target.device, dtype=target.dtype) + 0.5) / max(ramp, 1)
    start = target.narrow(axis, 0, ramp)
    start.copy_(torch.lerp(source, start, weight if axis == -1 else weight[:, None]))
