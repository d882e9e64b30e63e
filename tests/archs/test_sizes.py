"""The helper that tries sizes finds those that a network accepts, and corrects a wrong spec."""

import pytest
import torch
from torch import Tensor

from mcir.archs.network import Network
from mcir.network_spec import NetworkSpec
from tests.archs.sizes import accepts_sides, complaint, spec_for, usable_sides


class Strided(Network):
    """Accept multiples of ``multiple`` from ``least`` on, except ``hole``."""

    def __init__(self, multiple: int, least: int, hole: int | None = None) -> None:
        super().__init__()
        self.accepted = (multiple, least, hole)

    def restore(self, x: Tensor) -> Tensor:
        multiple, least, hole = self.accepted
        if any(side % multiple or side < least or side == hole for side in x.shape[-2:]):
            raise RuntimeError("shapes do not match")
        return x


def correction(net: Network, most: int = 40) -> str | None:
    return complaint(net, usable_sides(accepts_sides(net, 24), most), most)


@pytest.mark.parametrize(("multiple", "least"), [(1, 1), (1, 7), (4, 4), (4, 12), (8, 8)])
def test_the_right_spec_is_proposed(multiple: int, least: int) -> None:
    net = Strided(multiple, least)
    net.spec = NetworkSpec(size_multiple=multiple, min_size=least)
    assert correction(net) is None
    net.spec = NetworkSpec(size_multiple=3, min_size=2)
    assert f"expected size_multiple = {multiple} and min_size = {least}." in (correction(net) or "")


def test_a_gap_in_the_sizes_is_found() -> None:
    net = Strided(8, 8, hole=16)
    net.spec = NetworkSpec(size_multiple=8, min_size=8)
    assert "expected size_multiple = 8 and min_size = 24" in (correction(net) or "")


def test_no_spec_describes_sizes_that_are_never_accepted() -> None:
    assert spec_for([], 20) is None
    assert "no spec describes them" in (correction(Strided(64, 64)) or "")
    assert not accepts_sides(Strided(64, 64), 24)(int(torch.tensor(24)))
