"""Images in tiles: where the tiles lie, and how their results become one picture without a seam.

What a network makes of pixels near the edge of a tile is wrong where the edge is not that of the picture: context was
missing. So neighbours overlap; the outer quarters of the overlap are thrown away, and over the half between one tile
fades into the next. Where the network sees no farther than a quarter of the overlap both say the same there, and the
picture is the one that the network makes without tiles.

A network that takes something from the image as a whole (the means of NAFNet and FFA-Net, the normalisation and fusion
of DehazeFormer, the aligned corners of a bilinear U-Net) takes it from a tile: then the picture is another one, without
a seam, but with tiles that may differ slowly from each other.

Tiles begin at multiples of the network's ``period``, so that windows and strides lie as in the whole picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

RestoreTile = Callable[[slice, slice], Tensor]
"""Gives the restored tile (B, C, scale·h, scale·w) of these rows and columns of the input, to keep and to change."""

Piece = tuple[slice, slice, Tensor]
"""Rows and columns of the output, and what they hold: (B, C, rows, columns)."""


@dataclass(frozen=True)
class Span:
    """A tile along one side, in pixels of the input.

    Attributes:
        start: where the tile begins.
        stop: where it ends.
        begin: its first pixel that counts, …
        full: … its first that counts alone,
        fade: the first that the next tile has a part in, …
        end: … and the first that no longer counts. ``fade`` and ``end`` are the next tile's ``begin`` and ``full``.
    """

    start: int
    stop: int
    begin: int
    full: int
    fade: int
    end: int


def spans(side: int, tile: int, overlap: int, period: int = 1, rest: int = 0) -> list[Span]:
    """Cut a side into as few overlapping tiles as possible, and those as small as they can be.

    Args:
        side: length of the picture, ≥ 1.
        tile: largest length of a tile, at least ``smallest_tile(period, rest)``; a side that is no longer is one tile.
        overlap: pixels that neighbours share at least; no more than half a tile are.
        period: tiles begin at its multiples.
        rest: their length is a multiple of the period and this, but for the last, which ends with the side.
    """
    if side <= tile:
        return [Span(0, side, 0, 0, side, side)]
    assert tile >= smallest_tile(period, rest)
    longest = tile - (tile - rest) % period
    overlap = min(overlap, longest // 2)
    fewest = _count(side, longest, overlap, period)
    least = max(smallest_tile(period, rest), 2 * overlap)
    lengths = range(longest, least - 1, -period)
    length = min(each for each in lengths if _count(side, each, overlap, period) == fewest)
    starts = [place * _stride(length, overlap, period) for place in range(fewest - 1)]
    starts.append(-(-(side - length) // period) * period)
    stops = [*(start + length for start in starts[:-1]), side]
    ramp = overlap // 2
    fades = [(start + stop - ramp) // 2 for stop, start in zip(stops, starts[1:], strict=False)]
    begins, ends = [0, *fades, side], [0, *(fade + ramp for fade in fades), side]
    places = zip(starts, stops, pairwise(begins), pairwise(ends), strict=True)
    return [Span(start, stop, begin, full, fade, end) for start, stop, (begin, fade), (full, end) in places]


def smallest_tile(period: int, rest: int = 0, min_size: int = 1) -> int:
    """Return the shortest tile that can overlap its neighbours by half and has ``min_size`` even at the end."""
    periods = max(2, 1 + -(-(min_size - rest) // period))
    return periods * period + rest


def blended(restore_tile: RestoreTile, rows: list[Span], columns: list[Span], scale: int) -> Iterator[Piece]:
    """Restore tile by tile and yield the pieces of the output as soon as they are final; they fill it exactly.

    Kept from tile to tile is only what the next ones fade from: a strip as wide as the picture and one as high as a
    tile.
    """
    above = None
    for row in rows:
        beside = None
        for column in columns:
            tile = restore_tile(slice(row.start, row.stop), slice(column.start, column.stop))
            tile = tile[..., _within(row, scale), _within(column, scale)]
            if beside is not None:
                _fade(beside, tile, -1)
            fade = scale * (column.fade - column.begin)
            tile, beside = tile[..., :fade], tile[..., fade:]
            place = slice(scale * column.begin, scale * column.fade)
            if above is None:
                ramp = max(each.end - each.fade for each in rows)
                above = tile.new_empty((*tile.shape[:2], scale * ramp, scale * columns[-1].end))
            if row.begin:
                _fade(above[..., place], tile, -2)
            fade = scale * (row.fade - row.begin)
            if row is not rows[-1]:
                above[..., place] = tile[..., fade:, :]
            yield slice(scale * row.begin, scale * row.fade), place, tile[..., :fade, :]


def _stride(length: int, overlap: int, period: int) -> int:
    """Return how far apart tiles begin; never so far that they overlap less."""
    return (length - overlap) // period * period


def _count(side: int, length: int, overlap: int, period: int) -> int:
    """Return how many tiles of a length cover a longer side."""
    return 1 + -(-(side - length) // _stride(length, overlap, period))


def _within(span: Span, scale: int) -> slice:
    """Return what counts of the output of a tile."""
    return slice(scale * (span.begin - span.start), scale * (span.end - span.start))


def _fade(from_: Tensor, to: Tensor, axis: int) -> None:
    """Let the first pixels of ``to`` along an axis come out of ``from_``; where both are equal, nothing changes."""
    ramp = from_.shape[axis]
    weight = (torch.arange(ramp, device=to.device, dtype=to.dtype) + 0.5) / max(ramp, 1)
    start = to.narrow(axis, 0, ramp)
    start.copy_(torch.lerp(from_, start, weight if axis == -1 else weight[:, None]))
