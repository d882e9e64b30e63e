"""Divide an image into overlapping tiles, and blend the restored tiles without seams.

Near the edge of a tile, the output of a network differs from its output for the whole image, because context is
missing. Therefore neighbouring tiles overlap. The outer quarters of an overlap are discarded; in the half between them,
one tile fades into the next. If the receptive field of the network extends no farther than a quarter of the overlap,
tiles do not change the result.

A network with global context, such as means over the image, computes it from the tile. The result then differs from
that of the whole image, but has no seams.

Tiles start at multiples of the network's ``shift_period``, so that windows and strides are aligned as in the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

RestoreTile: TypeAlias = Callable[[slice, slice], Tensor]
"""Restores the tile with these rows and columns of the input to a new tensor, (B, C, scale·h, scale·w)."""

Piece: TypeAlias = tuple[slice, slice, Tensor]
"""Rows and columns of the output, and their final values (B, C, rows, columns)."""


@dataclass(frozen=True)
class Span:
    """Position of a tile along one side, in pixels of the input.

    Attributes:
        start: first pixel.
        stop: end of the tile, exclusive.
        fade_in: first used pixel, from which the previous tile fades into this one.
        fade_in_stop: end of the fade-in.
        fade_out: first pixel from which this tile fades into the next one, equal to ``fade_in`` of the next tile.
        fade_out_stop: end of the used pixels, equal to ``fade_in_stop`` of the next tile.
    """

    start: int
    stop: int
    fade_in: int
    fade_in_stop: int
    fade_out: int
    fade_out_stop: int


def spans(side: int, tile: int, overlap: int, period: int = 1, remainder: int = 0) -> list[Span]:
    """Divide a side into as few overlapping tiles as possible, each as short as possible.

    Args:
        side: length of the side, at least 1.
        tile: largest length of a tile, at least ``smallest_tile(period, remainder)``; a shorter side is one tile.
        overlap: smallest number of pixels that neighbours share, limited to half a tile.
        period: divisor of the start of each tile.
        remainder: length of each tile except the last one, modulo the period.
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
    fade_starts = [0, *((start + stop - ramp) // 2 for stop, start in zip(stops, starts[1:], strict=False)), side]
    fade_stops = [0, *(fade + ramp for fade in fade_starts[1:-1]), side]
    return [
        Span(starts[i], stops[i], fade_starts[i], fade_stops[i], fade_starts[i + 1], fade_stops[i + 1])
        for i in range(fewest)
    ]


def smallest_tile(period: int, remainder: int = 0, min_size: int = 1) -> int:
    """Return the length of the shortest tile that has ``min_size`` pixels and can overlap each neighbour by half."""
    periods = max(2, 1 + -(-(min_size - remainder) // period))
    return periods * period + remainder


def blended(restore_tile: RestoreTile, rows: Sequence[Span], columns: Sequence[Span], scale: int) -> Iterator[Piece]:
    """Restore tile by tile, and yield the disjoint pieces of the output as soon as they are final.

    Besides the current tile, only the strips that fade into following tiles are in memory: one as wide as the image,
    and one as high as a tile.
    """
    above = None
    for row in rows:
        left = None
        for column in columns:
            tile = restore_tile(slice(row.start, row.stop), slice(column.start, column.stop))
            tile = tile[..., _used(row, scale), _used(column, scale)]
            if left is not None:
                _fade(left, tile, -1)
            width = scale * (column.fade_out - column.fade_in)
            tile, left = tile[..., :width], tile[..., width:]
            position = slice(scale * column.fade_in, scale * column.fade_out)
            if above is None:
                ramp = max(each.fade_out_stop - each.fade_out for each in rows)
                above = tile.new_empty((*tile.shape[:2], scale * ramp, scale * columns[-1].fade_out_stop))
            if row.fade_in:
                _fade(above[..., position], tile, -2)
            height = scale * (row.fade_out - row.fade_in)
            if row is not rows[-1]:
                above[..., position] = tile[..., height:, :]
            yield slice(scale * row.fade_in, scale * row.fade_out), position, tile[..., :height, :]


def _used(span: Span, scale: int) -> slice:
    """Return the used part of the output of a tile."""
    return slice(scale * (span.fade_in - span.start), scale * (span.fade_out_stop - span.start))


def _fade(source: Tensor, target: Tensor, axis: int) -> None:
    """Blend ``source`` into the first pixels of ``target`` along an axis; equal values stay exactly equal."""
    ramp = source.shape[axis]
    weight = (torch.arange(ramp, device=target.device, dtype=target.dtype) + 0.5) / max(ramp, 1)
    start = target.narrow(axis, 0, ramp)
    start.copy_(torch.lerp(source, start, weight if axis == -1 else weight[:, None]))
