"""Who belongs to whom, and every way in which a set can be wrong."""

import cv2
import numpy as np
import pytest

from mcir.data.errors import DataError
from mcir.data.pairing import check_pairs, examine_pairs, read_names
from mcir.data.storage import Folder, Memory
from tests.data.pictures import noise, pairs, save, shorten


def blank(*names, size=(8, 8)):
    return Memory({name: noise(*size) for name in names})


def match(gt, lq, template="{}", **more):
    checked, problems = examine_pairs(gt, lq, scale=1, gt_size=None, filename_tmpl=template, **more)
    return [(pair.gt, pair.lq) for pair in checked.pairs], problems


def test_partners_by_name_template_and_folder():
    assert match(blank("a.png", "s/a.png"), blank("a.jpg", "s/a.jpg"))[0] == [
        ("a.png", "a.jpg"),
        ("s/a.png", "s/a.jpg"),
    ]
    assert match(blank("d/0001.png"), blank("d/0001x4.png"), "{}x4") == ([("d/0001.png", "d/0001x4.png")], [])
    both = match(blank("a.png"), blank("a.png", "a.jpg"))
    assert both == ([("a.png", "a.png")], [])


def test_missing_and_ambiguous_partners():
    assert "no partner b" in match(blank("a.png", "b.png"), blank("a.png"))[1][0]
    assert "c.png: no ground truth" in match(blank("a.png"), blank("a.png", "c.png"))[1][0]
    assert "more than one partner" in match(blank("a.png"), blank("a.bmp", "a.jpg"))[1][0]
    assert match(blank("a.png"), blank("a.png", "c.png"), names=["a.png"]) == ([("a.png", "a.png")], [])
    assert "z.png: listed, but not there" in match(blank("a.png"), blank("a.png"), names=["z.png"])[1][0]
    with pytest.raises(DataError, match="filename_tmpl"):
        match(blank("a.png"), blank("a.png"), "x4")


@pytest.mark.parametrize(
    ("gt", "lq", "scale", "fits"),
    [((8, 12), (4, 6), 2, True), ((9, 13), (4, 6), 2, True), ((8, 12), (5, 6), 2, False), ((10, 12), (4, 6), 2, False)],
)
def test_scale_relation(gt, lq, scale, fits):
    problems = examine_pairs(blank("a", size=gt), blank("a", size=lq), scale=scale, gt_size=None)[1]
    assert bool(problems) != fits
    assert fits or (("at scale 2" in problems[0] and "6×4" in problems[0]) or "6×5" in problems[0])


def test_all_offenders_in_one_error(tmp_path):
    gt, lq, _ = pairs(tmp_path, 30)
    shorten(gt / "00.png")
    (lq / "01.png").unlink()
    (lq / "02.png").write_bytes(b"no image at all" * 9)
    save(lq / "03.png", noise(9, 9))
    for index in range(4, 16):
        save(gt / f"{index:02d}.png", noise(16, 16))
        save(lq / f"{index:02d}.png", noise(8, 8))
    with pytest.raises(DataError) as caught:
        check_pairs(Folder(gt), Folder(lq), scale=2, gt_size=32, what="my set")
    message = str(caught.value)
    assert message.startswith("my set: 16 problems")
    assert message.count("\n") == 11 and message.endswith("… and 6 more")
    for name, reason in (("00", "truncated"), ("01", "no partner"), ("02", "not an image"), ("03", "at scale 2")):
        line = next(line for line in message.splitlines() if f"{name}.png" in line or f"/{name}" in line)
        assert reason in line
    assert "16×16 pixels, smaller than the crop of 32" in message


def test_no_images_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no images"):
        check_pairs(Folder(tmp_path), None, scale=1, gt_size=None, what="my set")


def test_depth_of_the_set():
    deep = Memory({"a": noise(4, 4), "b": noise(4, 4, dtype=np.uint16)})
    checked = check_pairs(deep, blank("a", "b", size=(4, 4)), scale=1, gt_size=None, what="s")
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
    with pytest.raises(DataError, match="names no image"):
        read_names(listing, [])


def test_only_headers_are_read_when_a_set_is_opened(tmp_path, monkeypatch):
    for index in range(3):
        save(tmp_path / f"{index}.png", noise(48, 48))

    def refuse(*_):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(cv2, "imdecode", refuse)
    assert len(check_pairs(Folder(tmp_path), None, scale=4, gt_size=16, what="s").pairs) == 3


# -- one clean image, many degraded ones ------------------------------------------------------------------------------


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


def test_faults_of_one_to_many():
    gt, lq = blank("1.png", "2.png"), blank("1_1.png", "3_1.png", "1x.png")
    assert match(gt, lq, "{}_*")[1] == [
        "1x.png: no ground truth belongs to it",
        "3_1.png: no ground truth belongs to it",
        "2.png: no partner 2_* (of any extension)",
    ]
    nested = match(blank("a.png", "a_b.png"), blank("a_1.png", "a_b_1.png"), "{}_*")
    assert nested[1][0] == "a_b_1.png: more than one ground truth, a.png, a_b.png"
    twice = match(blank("a.png"), blank("a_1.png", "a_1.jpg"), "{}_*")
    assert twice[1] == ["a_1.png: has the name of a_1.jpg"]
    kinds = match(blank("a.png", "a.jpg"), blank("a_1.png", "a_2.jpg"), "{}_*")
    assert kinds == ([("a.jpg", "a_2.jpg"), ("a.png", "a_1.png")], [])
    uneven = examine_pairs(
        blank("a"), Memory({"a_1": noise(8, 8), "a_2": noise(8, 9)}), scale=1, gt_size=None, filename_tmpl="{}_*"
    )[1]
    assert len(uneven) == 1 and uneven[0].startswith("a_2: 8×8 pixels, its degraded image 9×8")


@pytest.mark.parametrize("template", ["*", "{}_**", "{}{}", "{}_*_{}", "*_*{}"])
def test_templates_that_are_none(template):
    with pytest.raises(DataError, match="filename_tmpl is"):
        match(blank("a"), blank("a"), template)


@pytest.mark.parametrize("template", ["{}", "{}_*"])
def test_every_header_is_read_once(template):
    class Counted(Memory):
        def __init__(self, names):
            super().__init__({name: noise(8, 8) for name in names})
            self.asked = []

        def info(self, key):
            self.asked.append(key)
            return super().info(key)

    names = ["0", "1", "2"]
    gt = Counted(names)
    lq = Counted(names if template == "{}" else [f"{name}_{number}" for name in names for number in range(4)])
    assert not match(gt, lq, template)[1]
    assert gt.asked == names and sorted(lq.asked) == lq.keys()


def test_many_names_take_no_long():
    """As many comparisons as names, not their square; 20,000 squared would take minutes."""

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


# -- larger ground truths, small images -------------------------------------------------------------------------------


def test_the_middle_of_a_larger_ground_truth():
    def examined(gt_size, lq_size, **more):
        return examine_pairs(blank("a", size=gt_size), blank("a", size=lq_size), gt_size=None, **more)

    checked, problems = examined((48, 64), (46, 62), scale=1, gt_crop="center")
    assert not problems and checked.pairs[0][3:] == (62, 1, 1)
    assert examined((48, 65), (24, 28), scale=2, gt_crop="center")[0].pairs[0][4:] == (0, 4)
    assert examined((13, 17), (10, 10), scale=1, gt_crop="center")[0].pairs[0][4:] == (2, 4)  # as torchvision's
    assert "should be 62×50 or more" in examined((48, 64), (50, 62), scale=1, gt_crop="center")[1][0]
    assert "gt_crop: center takes the middle" in examined((48, 64), (46, 62), scale=1)[1][0]
    assert "gt_crop" not in examined((48, 64), (50, 62), scale=1)[1][0]


@pytest.mark.parametrize(("small", "left"), [("error", 3), ("skip", 1), ("pad", 3)])
def test_pairs_smaller_than_the_crop(small, left):
    gt = Memory({"a": noise(8, 20), "b": noise(20, 8), "c": noise(16, 16)})
    checked, problems = examine_pairs(gt, None, scale=2, gt_size=16, small=small)
    assert len(checked.pairs) == left and checked.skipped == (2 if small == "skip" else 0)
    assert len(problems) == (2 if small == "error" else 0)


def test_when_all_are_small():
    with pytest.raises(DataError, match="all 1 pairs are smaller than the crop of 16"):
        check_pairs(blank("a"), None, scale=1, gt_size=16, small="skip", what="my set")
