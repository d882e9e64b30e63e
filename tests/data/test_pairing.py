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
