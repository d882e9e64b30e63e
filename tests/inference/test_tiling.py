"""Tiles cover the image, their weights sum to one, and they do not change the output of local networks."""

from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional as F

from mcir.inference.restorer import Restorer
from mcir.inference.tiling import blended, smallest_tile, spans
from mcir.registry import ARCHS


@st.composite
def cuts(draw, most=400):
    """Return arguments of ``spans``."""
    period = draw(st.sampled_from([1, 1, 2, 4, 7, 8, 16]))
    remainder = draw(st.sampled_from([0, 0, period // 2, period]))
    tile = draw(st.integers(smallest_tile(period, remainder), 120))
    return draw(st.integers(1, most)), tile, draw(st.integers(0, 90)), period, remainder


# -- positions --------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(cuts())
def test_tiles_cover_a_side_in_order(cut):
    side, tile, _, period, remainder = cut
    tiles = spans(*cut)
    assert (tiles[0].start, tiles[0].fade_in, tiles[0].fade_in_stop) == (0, 0, 0)
    assert (tiles[-1].stop, tiles[-1].fade_out, tiles[-1].fade_out_stop) == (side, side, side)
    for each in tiles:
        assert 0 < each.stop - each.start <= tile
        assert each.start % period == 0
        assert each.start <= each.fade_in <= each.fade_in_stop <= each.fade_out <= each.fade_out_stop <= each.stop
        if each is not tiles[-1]:
            assert len(tiles) == 1 or (each.stop - each.start - remainder) % period == 0
    for one, next_ in pairwise(tiles):
        assert one.start < next_.start
        assert (one.fade_out, one.fade_out_stop) == (next_.fade_in, next_.fade_in_stop)


@settings(max_examples=300, deadline=None)
@given(cuts())
def test_neighbours_share_the_overlap_and_its_outer_quarters_are_unused(cut):
    _, tile, overlap, period, remainder = cut
    tiles = spans(*cut)
    overlap = min(overlap, (tile - (tile - remainder) % period) // 2)
    for one, next_ in pairwise(tiles):
        assert one.stop - next_.start >= overlap
        assert one.fade_out_stop - one.fade_out == overlap // 2
        assert next_.fade_in - next_.start >= overlap // 4
        assert one.stop - one.fade_out_stop >= overlap // 4


@settings(max_examples=200, deadline=None)
@given(cuts(1000))
def test_tiles_are_few_and_short(cut):
    """With longer tiles their number stays the same or falls; with tiles shorter by a period it rises."""
    side, tile, overlap, period, remainder = cut
    tiles = spans(*cut)
    if len(tiles) == 1:
        assert side <= tile
        return
    assert len(spans(side, tile + 7 * period, overlap, period, remainder)) <= len(tiles)
    length = tiles[0].stop - tiles[0].start
    longest = tile - (tile - remainder) % period
    if length - period >= max(smallest_tile(period, remainder), 2 * min(overlap, longest // 2)):
        assert len(spans(side, length - period, overlap, period, remainder)) > len(tiles)


def test_positions_computed_by_hand():
    """100 pixels need three tiles of at most 48 with an overlap of 16, and 44 is enough for them."""
    assert [(each.start, each.stop) for each in spans(100, 48, 16)] == [(0, 44), (28, 72), (56, 100)]
    assert [(each.fade_in, each.fade_in_stop, each.fade_out, each.fade_out_stop) for each in spans(100, 48, 16)] == [
        (0, 0, 32, 40),
        (32, 40, 60, 68),
        (60, 68, 100, 100),
    ]


@pytest.mark.parametrize(
    ("period", "remainder", "min_size", "smallest"),
    [(1, 0, 1, 2), (8, 0, 1, 16), (32, 0, 28, 64), (16, 0, 16, 32), (108, 20, 128, 236), (1, 0, 16, 17)],
)
def test_smallest_tile(period, remainder, min_size, smallest):
    assert smallest_tile(period, remainder, min_size) == smallest


# -- blending ---------------------------------------------------------------------------------------------------------


def blend(image, cut, other, scale, restore):
    rows, columns = spans(*cut), spans(*other)
    output = torch.full((*image.shape[:2], scale * cut[0], scale * other[0]), torch.nan)
    for down, right, piece in blended(lambda y, x: restore(image[..., y, x]).clone(), rows, columns, scale):
        assert output[..., down, right].isnan().all()  # each pixel is written once
        output[..., down, right] = piece
    return output


@settings(max_examples=60, deadline=None)
@given(cuts(150), cuts(150), st.integers(1, 4))
def test_enlargement_is_exact(cut, other, scale):
    image = torch.rand(2, 1, cut[0], other[0], generator=torch.Generator().manual_seed(cut[0]))

    def larger(x):
        return x.repeat_interleave(scale, -1).repeat_interleave(scale, -2)

    assert torch.equal(blend(image, cut, other, scale, larger), larger(image))


@settings(max_examples=20, deadline=None)
@given(cuts(150), cuts(150), st.integers(1, 3))
def test_weights_are_between_0_and_1_and_sum_to_one(cut, other, scale):
    """Restore one row or column of tiles to 1 and the others to 0; the sum over all rows or columns is 1 everywhere."""
    image = torch.zeros(1, 1, cut[0], other[0])
    for axis, side in ((0, cut), (1, other)):
        total = 0
        starts = [each.start for each in spans(*side)]
        for start in starts:
            rows, columns = spans(*cut), spans(*other)
            output = torch.full((scale * cut[0], scale * other[0]), torch.nan)

            def chosen(y, x, start=start, axis=axis):
                tile = image[..., y, x].repeat_interleave(scale, -1).repeat_interleave(scale, -2)
                return tile + float((y, x)[axis].start == start)

            for down, right, piece in blended(chosen, rows, columns, scale):
                output[down, right] = piece[0, 0]
            assert output.min() >= 0
            assert output.max() <= 1
            total = total + output
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)


def test_blending_is_linear():
    """The weight of the second of two tiles rises by an eighth per pixel from 31 to 39."""
    first, second = spans(70, 48, 16)
    assert (first.stop, second.start) == (43, 27)
    assert (first.fade_out, first.fade_out_stop) == (31, 39)
    output = torch.zeros(70)
    for _, columns, piece in blended(
        lambda y, x: torch.full((1, 1, 1, x.stop - x.start), float(x.start > 0)), spans(1, 48, 16), [first, second], 1
    ):
        output[columns] = piece[0, 0, 0]
    ramp = (torch.arange(8) + 0.5) / 8
    torch.testing.assert_close(output[first.fade_out : first.fade_out_stop], ramp)
    assert output[: first.fade_out].eq(0).all()
    assert output[first.fade_out_stop :].eq(1).all()


# -- networks ---------------------------------------------------------------------------------------------------------

SWINIR: dict[str, Any] = {"img_size": 8, "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 3], "window_size": 4}
IDT: dict[str, Any] = {"embed_dim": 4, "depths": [1] * 9, "num_heads": [1] * 9, "win_size": 2, "mlp_ratio": 2.0}
NAFNET: dict[str, Any] = {"width": 4, "middle_blk_num": 1, "enc_blk_nums": [1, 2], "dec_blk_nums": [1, 1]}
DEHAZEFORMER: dict[str, Any] = {
    "embed_dims": [4, 8, 8, 8, 4],
    "depths": [1, 2, 4, 1, 1],
    "num_heads": [2, 2, 4, 1, 1],
    "attn_ratio": [0.0, 1.0, 0.5, 0.0, 0.0],
}


def network(section):
    """Build a network without weights of zero, so that each layer has an effect."""
    torch.manual_seed(0)
    net = ARCHS.build(section)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith(("beta", "gamma")):
                parameter.uniform_(0.5, 1)
        if section["type"] == "UNet":
            for _ in range(10):  # statistics of batch normalization
                net.train()(torch.rand(2, 3, 48, 48))
            net.last.bias.fill_(0.5)
    return net.eval()


class TestLocalNetworks:
    """The receptive field is at most a quarter of the overlap, so tiles do not change the result."""

    CASES: ClassVar = [
        ({"type": "EDSR", "num_feat": 8, "num_block": 2, "upscale": 4}, (101, 77), 64, 40),  # receptive field 10
        ({"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 3}, (50, 131), 40, 28),
        ({"type": "UNet", "num_feat": 2}, (1001, 40), 896, 440),  # 107
        ({"type": "UNet", "num_feat": 2, "scale": 2}, (33, 945), 880, 440),
        ({"type": "SwinIR", **SWINIR, "upscale": 3, "upsampler": "pixelshuffledirect"}, (157, 150), 144, 68),  # 17
        ({"type": "SwinIR", **SWINIR, "upscale": 4, "upsampler": "nearest+conv"}, (90, 161), 152, 76),
        ({"type": "SwinIR", **SWINIR, "img_size": 14, "window_size": 7, "upsampler": None}, (41, 301), 238, 116),
        ({"type": "IDT", **IDT, "img_size": 32, "overlap": 8}, (91, 150), 104, 32),
        ({"type": "NAFNetLocal", **NAFNET, "train_size": [1, 3, 6, 6]}, (60, 421), 404, 200),
    ]

    @pytest.mark.parametrize(("section", "size", "tile", "overlap"), CASES)
    def test_equal(self, section, size, tile, overlap):
        net = network(section)
        assert net.spec.global_context == (
            section["type"] == "NAFNetLocal"
        )  # whose windows are usually wider than tiles
        image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
        whole = Restorer(net, tile=None)(image)
        with torch.no_grad():
            torch.testing.assert_close(whole, net.eval()(image).clamp(0, 1), rtol=0, atol=1e-5)
        tiled = Restorer(net, tile=tile, overlap=overlap)(image)
        torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-4)
        cut = Restorer(net, tile=tile, overlap=0)(image)
        assert (cut - whole).abs().max() > 1e-4  # without overlap, tiles change the result

    def test_the_shift_period_is_needed(self):
        """Tiles that start elsewhere change the result."""
        changed = set()
        for section, size, tile, overlap in self.CASES:
            net = network(section)
            period = net.spec.shift_period
            rows, columns = (spans(side, tile - 1, overlap) for side in size)
            if all(each.start % period == 0 for each in (*rows, *columns)):
                continue
            image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
            whole = Restorer(net, tile=None)(image)
            net.spec = replace(net.spec, shift_period=1, tile_remainder=0)
            assert (Restorer(net, tile=tile - 1, overlap=overlap)(image) - whole).abs().max() > 1e-4, section
            changed.add(section["type"])
        assert changed == {"UNet", "SwinIR", "IDT", "NAFNetLocal"}


class TestGlobalContext:
    """Means over the image or aligned corners: tiles change the result, without seams."""

    SECTIONS: ClassVar = [
        {"type": "NAFNet", **NAFNET},
        {"type": "FFANet", "gps": 1, "blocks": 1},
        {"type": "DehazeFormer", **DEHAZEFORMER},
        {"type": "UNet", "num_feat": 4, "bilinear": True},
    ]

    @staticmethod
    def steps(net, image, overlap):
        """Return the steps from column to column of the change due to tiles: where tiles meet, and elsewhere."""
        columns = spans(image.shape[3], 160, overlap, net.spec.shift_period)
        change = Restorer(net, tile=160, overlap=overlap)(image) - Restorer(net, tile=None)(image)
        steps = change.diff(dim=3)[..., 40:-40].abs().mean((0, 1, 2))
        joints = torch.zeros(image.shape[3] - 1, dtype=torch.bool)
        for each in columns[1:]:
            joints[max(each.fade_in - 2, 0) : each.fade_in_stop + 2] = True
        joints = joints[40:-40]
        return steps[joints].max(), steps[~joints].max()

    @pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section["type"])
    def test_no_seam_in_a_textured_image(self, section):
        net = network(section)
        assert net.spec.global_context
        coarse = torch.rand(1, 3, 8, 24, generator=torch.Generator().manual_seed(1))
        image = F.interpolate(coarse, (96, 400), mode="bicubic").clamp(0, 1)
        image = (image + 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
        at_seams, elsewhere = self.steps(net, image, 64)
        assert at_seams <= 1.2 * elsewhere + 1e-6
        at_seams, elsewhere = self.steps(net, image, 0)
        assert at_seams > 1.25 * elsewhere  # a seam would be found

    @pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section["type"])
    def test_flat_image_stays_flat(self, section):
        net = network(section)
        image = torch.full((1, 3, 96, 400), 0.7)
        whole = Restorer(net, tile=None)(image)[..., 40:-40, 40:-40]
        assert (whole.gt(0) & whole.lt(1)).float().mean() > 0.3
        change = Restorer(net, tile=160, overlap=64)(image)[..., 40:-40, 40:-40] - whole
        assert change.max() - change.min() < 1 / 510  # half an 8-bit level


def test_flat_image_of_a_local_network():
    net = network({"type": "EDSR", "num_feat": 8, "num_block": 2, "upscale": 2})
    restored = Restorer(net, tile=64, overlap=40)(torch.full((1, 3, 150, 150), 0.7))[..., 20:-20, 20:-20]
    pixel = restored[..., :2, :2].repeat(1, 1, 130, 130)  # the four pixels of an input pixel differ
    torch.testing.assert_close(restored, pixel, rtol=0, atol=2e-6)
