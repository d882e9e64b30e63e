"""The harness that tries sizes: it finds what a network takes, and proposes the right facts in place of wrong ones."""

import pytest
import torch
from torch import Tensor

from mcir.archs.network import Network
from mcir.network_spec import NetworkSpec
from tests.archs.sizes import complaint, facts_of, takes_sides, usable_sides


class Strided(Network):
    """Takes multiples of ``multiple`` from ``least`` on, but for ``hole``."""

    def __init__(self, multiple: int, least: int, hole: int | None = None) -> None:
        super().__init__()
        self.taken = (multiple, least, hole)

    def restore(self, x: Tensor) -> Tensor:
        multiple, least, hole = self.taken
        if any(side % multiple or side < least or side == hole for side in x.shape[-2:]):
            raise RuntimeError("shapes do not fit")
        return x


def told(net: Network, most: int = 40) -> str | None:
    return complaint(net, usable_sides(takes_sides(net, 24), most), most)


@pytest.mark.parametrize(("multiple", "least"), [(1, 1), (1, 7), (4, 4), (4, 12), (8, 8)])
def test_the_right_facts_are_proposed(multiple: int, least: int) -> None:
    net = Strided(multiple, least)
    net.spec = NetworkSpec(size_multiple=multiple, min_size=least)
    assert told(net) is None
    net.spec = NetworkSpec(size_multiple=3, min_size=2)
    assert f"state size_multiple = {multiple} and min_size = {least}." in (told(net) or "")


def test_a_hole_among_the_sizes_is_found() -> None:
    net = Strided(8, 8, hole=16)
    net.spec = NetworkSpec(size_multiple=8, min_size=8)
    assert "state size_multiple = 8 and min_size = 24" in (told(net) or "")


def test_nothing_describes_what_is_never_taken() -> None:
    assert facts_of([], 20) is None
    assert "no facts describe these" in (told(Strided(64, 64)) or "")
    assert not takes_sides(Strided(64, 64), 24)(int(torch.tensor(24)))
