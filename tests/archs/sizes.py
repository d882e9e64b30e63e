"""Which sides a network takes, by trying them all, and what it should therefore state as its facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from mcir.archs.network import Network


def usable_sides(takes: Callable[[int], bool], most: int) -> list[int]:
    """Return the sides from 1 to ``most`` that are taken."""
    return [side for side in range(1, most + 1) if takes(side)]


def facts_of(sides: Iterable[int], most: int) -> tuple[int, int] | None:
    """Return the smallest multiple and side that describe the usable sides up to ``most``; None if there are none.

    Every multiple from that side on is usable, and no other side that is larger.
    """
    usable = set(sides)
    for multiple in range(1, most + 1):
        for least in range(multiple, most + 1, multiple):
            described = set(range(least, most + 1, multiple))
            if {side for side in usable if side >= least} == described and len(described) > 1:
                return multiple, least
    return None


def takes_sides(net: Network, fixed: int) -> Callable[[int], bool]:
    """Return a function that tells whether ``restore`` takes a side, as height and as width, beside a ``fixed`` one."""

    def takes(side: int) -> bool:
        for height, width in ((side, fixed), (fixed, side)):
            image = torch.rand(1, net.in_channels, height, width, generator=torch.Generator().manual_seed(side))
            try:
                with torch.no_grad():
                    output = net.restore(image)
            except (RuntimeError, ValueError, IndexError, AssertionError):
                return False
            if output.shape[2:] != (height * net.scale, width * net.scale) or not output.isfinite().all():
                return False
        return True

    return takes


def complaint(net: Network, sides: Iterable[int], most: int) -> str | None:
    """Say what the network should state instead of its facts, or None when they describe the usable sides."""
    sides = sorted(sides)
    facts = facts_of(sides, most)
    multiple, least = net.spec.size_multiple, net.spec.min_size
    if (multiple, -(-least // multiple) * multiple) == facts:
        return None
    right = facts and f"state size_multiple = {facts[0]} and min_size = {facts[1]}"
    return (
        f"{type(net).__name__} states size_multiple = {multiple} and min_size = {least}, but of the "
        f"sides up to {most} it takes {sides}: {right or 'no facts describe these'}."
    )
