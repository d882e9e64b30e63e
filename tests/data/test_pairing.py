"""Tests of pairing: matching by names, and messages about wrong sets."""

import cv2
import numpy as np
import pytest

from mcir.data.errors import DataError
from mcir.data.pairing import PairRules, check_pairs, examine_pairs, read_names
from mcir.data.storage import Folder, Memory
from mcir.errors import ArgumentError
from tests.data.images import noise, pairs, save, truncate


def blank(*names, size=(8, 8)):
    return Memory({name: noise(*size) for name in names})


def match(gt, lq, template="{}", names=None):
    checked, problems = examine_pairs(gt, lq, PairRules(filename_tmpl=template), names)
    return [(pair.gt, pair.lq) for pair in checked.pairs], problems


def test_pairs_are_matched_by_name_template_and_folder():
    assert match(blank("a.png", "s/a.png"), blank("a.jpg", "s/a.jpg"))[0] == [
        ("a.png", "a.jpg"),
        ("s/a.png", "s/a.jpg"),
    ]
    assert match(blank("d/0001.png"), blank("d/0001x4.png"), "{}x4") == ([("d/0001.png", "d/0001x4.png")], [])
    both = match(blank("a.png"), blank("a.png", "a.jpg"))
    assert both == ([("a.png", "a.png")], [])


def test_missing_and_ambiguous_images_are_reported():
    assert "no degraded image b" in match(blank("a.png", "b.png"), blank("a.png"))[1][0]
    assert "c.png: no ground truth" in match(blank("a.png"), blank("a.png", "c.png"))[1][0]
    assert "several degraded images of one name" in match(blank("a.png"), blank("a.bmp", "a.jpg"))[1][0]
    assert match(blank("a.png"), blank("a.png", "c.png"), names=["a.png"]) == ([("a.png", "a.png")], [])
    assert "z.png: listed, but does not exist" in match(blank("a.png"), blank("a.png"), names=["z.png"])[1][0]
    with pytest.raises(ArgumentError, match="filename_tmpl"):
        match(blank("a.png"), blank("a.png"), "x4")


@pytest.mark.parametrize(
    ("gt", "lq", "scale", "fits"),
    [((8, 12), (4, 6), 2, True), ((9, 13), (4, 6), 2, True), ((8, 12), (5, 6), 2, False), ((10, 12), (4, 6), 2, False)],
)
def test_sizes_must_fit_the_scale(gt, lq, scale, fits):
    problems = examine_pairs(blank("a", size=gt), blank("a", size=lq), PairRules(scale=scale))[1]
    assert bool(problems) != fits
    assert fits or "expected 6×4 at scale 2" in problems[0] or "expected 6×5 at scale 2" in problems[0]


def test_one_error_lists_all_problems(tmp_path):
    gt, lq, _ = pairs(tmp_path, 30)
    truncate(gt / "00.png")
    (lq / "01.png").unlink()
    (lq / "02.png").write_bytes(b"no image at all" * 9)
    save(lq / "03.png", noise(9, 9))
    for index in range(4, 16):
        save(gt / f"{index:02d}.png", noise(16, 16))
        save(lq / f"{index:02d}.png", noise(8, 8))
    with pytest.raises(DataError) as caught:
        check_pairs(Folder(gt), Folder(lq), PairRules(scale=2, gt_size=32), "my set")
    message = str(caught.value)
    assert message.startswith("my set: 16 problems")
    assert message.count("\n") == 11 and message.endswith("… and 6 more")
    for name, reason in (
        ("00", "truncated"),
        ("01", "no degraded image"),
        ("02", "not an image"),
        ("03", "at scale 2"),
    ):
        line = next(line for line in message.splitlines() if f"{name}.png" in line or f"/{name}" in line)
        assert reason in line
    assert "16×16 pixels, smaller than the crop of 32" in message


def test_no_images_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no images"):
        check_pairs(Folder(tmp_path), None, PairRules(), "my set")


def test_bits_are_the_maximum_of_all_images():
    deep = Memory({"a": noise(4, 4), "b": noise(4, 4, dtype=np.uint16)})
    checked = check_pairs(deep, blank("a", "b", size=(4, 4)), PairRules(), "s")
    assert (checked.gt_bits, checked.lq_bits) == (16, 8)


def test_meta_info_lines(tmp_path):
    listing = tmp_path / "meta.txt"
    listing.write_text(
        "0001_s001.png (480,480,3)\n\n a b.png (4, 5, 3) 1\nwith space.png\nx/y.png\nunknown.png (1,1,3)\n"
    )
    known = ["0001_s001.png", "a b.png", "with space.png", "x/y.png"]
    assert read_names(listing, known) == [*known, "unknown.png"]
    with pytest.raises(DataError, match=r"none\.txt"):
        read_names(tmp_path / "none.txt", [])
    listing.write_text("\n")
    with pytest.raises(DataError, match="contains no image name"):
        read_names(listing, [])


def test_only_headers_are_read(tmp_path, monkeypatch):
    for index in range(3):
        save(tmp_path / f"{index}.png", noise(48, 48))

    def refuse(*_):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(cv2, "imdecode", refuse)
    assert len(check_pairs(Folder(tmp_path), None, PairRules(scale=4, gt_size=16), "s").pairs) == 3


# -- several degraded images per ground truth -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "gt", "lq"),
    [
        ("{}_*", "1399.png", "1399_8_0.74031.png"),
        ("{}_*", "s/901.jpg", "s/901_14.jpg"),
        ("{}*", "a.png", "a.png"),
        ("rain-{}x*", "7.png", "rain-7x2.png"),
        ("*_{}", "a_b.png", "hazy_a_b.png"),
        ("*-{}.lq", "a.png", "x-y-a.lq.png"),
    ],
)
def test_templates_with_a_star(template, gt, lq):
    assert match(blank(gt), blank(lq), template) == ([(gt, lq)], [])


def test_each_degraded_image_is_a_pair():
    gt, lq = blank("2.png", "1.png"), blank("1_1.png", "2_1.png", "1_2.png", "1_10_0.5.png")
    expected = [("1.png", "1_1.png"), ("1.png", "1_10_0.5.png"), ("1.png", "1_2.png"), ("2.png", "2_1.png")]
    assert match(gt, lq, "{}_*") == (expected, [])
    assert match(gt, lq, "{}_*", names=["2.png"]) == ([("2.png", "2_1.png")], [])


def test_problems_of_templates_with_a_star():
    gt, lq = blank("1.png", "2.png"), blank("1_1.png", "3_1.png", "1x.png")
    assert match(gt, lq, "{}_*")[1] == [
        "1x.png: no ground truth",
        "3_1.png: no ground truth",
        "2.png: no degraded image 2_* (with any extension)",
    ]
    nested = match(blank("a.png", "a_b.png"), blank("a_1.png", "a_b_1.png"), "{}_*")
    assert nested[1][0] == "a_b_1.png: several ground truths, a.png, a_b.png"
    twice = match(blank("a.png"), blank("a_1.png", "a_1.jpg"), "{}_*")
    assert twice[1] == ["a.png: several degraded images of one name, a_1.jpg, a_1.png"]
    kinds = match(blank("a.png", "a.jpg"), blank("a_1.png", "a_2.jpg"), "{}_*")
    assert kinds == ([("a.jpg", "a_2.jpg"), ("a.png", "a_1.png")], [])
    uneven = examine_pairs(
        blank("a"), Memory({"a_1": noise(8, 8), "a_2": noise(8, 9)}), PairRules(filename_tmpl="{}_*")
    )[1]
    assert len(uneven) == 1 and uneven[0].startswith("a_2: 8×8 pixels, its degraded image 9×8")


@pytest.mark.parametrize("template", ["*", "{}_**", "{}{}", "{}_*_{}", "*_*{}"])
def test_wrong_templates_are_rejected(template):
    with pytest.raises(ArgumentError, match="filename_tmpl: expected one"):
        match(blank("a"), blank("a"), template)


@pytest.mark.parametrize("template", ["{}", "{}_*"])
def test_every_header_is_read_once(template):
    class Counted(Memory):
        def __init__(self, names):
            super().__init__({name: noise(8, 8) for name in names})
            self.read = []

        def info(self, key):
            self.read.append(key)
            return super().info(key)

    names = ["0", "1", "2"]
    gt = Counted(names)
    lq = Counted(names if template == "{}" else [f"{name}_{number}" for name in names for number in range(4)])
    assert not match(gt, lq, template)[1]
    assert gt.read == names and sorted(lq.read) == lq.keys()


def test_matching_many_names_is_fast():
    """The time is proportional to the number of names; 20,000² comparisons would take minutes."""

    class Names(Memory):
        def __init__(self, names):
            self._names = names
            self._info = blank("a").info("a")

        def keys(self):
            return self._names

        def info(self, key):
            return self._info

    gt = Names(sorted(f"{number}.png" for number in range(2_000)))
    lq = Names(sorted(f"{number}_{copy}.png" for number in range(2_000) for copy in range(10)))
    pairs, problems = match(gt, lq, "{}_*")
    assert len(pairs) == 20_000 and not problems


# -- larger ground truths, small images -----------------------------------------------------------------------------


def test_the_center_of_a_larger_ground_truth():
    def examined(gt_size, lq_size, **rules):
        return examine_pairs(blank("a", size=gt_size), blank("a", size=lq_size), PairRules(**rules))

    checked, problems = examined((48, 64), (46, 62), gt_crop="center")
    assert not problems and checked.pairs[0][3:] == (62, 1, 1)
    assert examined((48, 65), (24, 28), scale=2, gt_crop="center")[0].pairs[0][4:] == (0, 4)
    assert examined((13, 17), (10, 10), gt_crop="center")[0].pairs[0][4:] == (2, 4)  # as torchvision's CenterCrop
    assert "at least 62×50" in examined((48, 64), (50, 62), gt_crop="center")[1][0]
    assert "gt_crop: center uses the centre" in examined((48, 64), (46, 62))[1][0]
    assert "gt_crop" not in examined((48, 64), (50, 62))[1][0]


@pytest.mark.parametrize(("small", "kept"), [("error", 3), ("skip", 1), ("pad", 3)])
def test_pairs_smaller_than_the_crop(small, kept):
    gt = Memory({"a": noise(8, 20), "b": noise(20, 8), "c": noise(16, 16)})
    checked, problems = examine_pairs(gt, None, PairRules(scale=2, gt_size=16, small=small))
    assert len(checked.pairs) == kept and checked.skipped == (2 if small == "skip" else 0)
    assert len(problems) == (2 if small == "error" else 0)


def test_all_images_are_smaller_than_the_crop():
    with pytest.raises(DataError, match="all 1 images are smaller than the crop of 16"):
        check_pairs(blank("a"), None, PairRules(gt_size=16, small="skip"), "s")


def test_composed_and_decomposed_letters_are_equal(tmp_path):
    composed, decomposed = "n\u00e9.png", "ne\u0301.png"
    for gt, lq in ((composed, decomposed), (decomposed, composed)):
        assert match(blank(gt), blank(lq), "{}") == ([(gt, lq)], [])
        assert match(blank(gt), blank(lq.replace(".", "_1.")), "{}_*")[1] == []
        (tmp_path / "list.txt").write_text(f"{lq}\n", encoding="utf-8")
        assert read_names(tmp_path / "list.txt", [gt]) == [gt]
    assert "several ground truths" in match(blank(composed, decomposed), blank(composed), "{}")[1][0]


def test_lists_with_names_that_are_not_utf8(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"a\xff.png\n")
    assert read_names(tmp_path / "list.txt", ["a\udcff.png"]) == ["a\udcff.png"]
