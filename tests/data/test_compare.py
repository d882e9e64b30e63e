"""Tests of the comparison of a data set with its manifest."""

import re
import shutil

import pytest

from mcir.data.compare import compare
from mcir.data.errors import DataError
from mcir.data.manifest import Manifest, read_manifest
from mcir.data.prepare import create_lmdb
from tests.data.images import noise, save, truncate

FAKE = Manifest.model_validate(
    {
        **dict.fromkeys(("name", "root", "what", "source", "terms", "version"), "fake"),
        "title": "Fake",
        "url": "https://example.org",
        "task": "dehazing",
        "folders": [
            {"path": "gt", "content": "clear", "images": 3, "names": r"\d+\.png", "sizes": {"*": ["24x20", "28x24"]}},
            {
                "path": "hazy",
                "content": "hazy",
                "images": 6,
                "names": r"\d+_\d\.png",
                "sizes": {"*": ["24x20"]},
                "evidence": "copy",
            },
            {"path": "small", "content": "small", "longest_side": 12, "optional": True},
        ],
        "pairs": [
            {"gt": "gt", "lq": "hazy", "filename_tmpl": ["{}_*"], "gt_crop": "center", "per_gt": 2},
            {"gt": "gt", "lq": "small", "filename_tmpl": ["{}", "{}x2"], "scale": 2},
        ],
    }
)


@pytest.fixture
def copy(tmp_path):
    for number in range(3):
        save(tmp_path / "gt" / f"{number}.png", noise(20, 24, seed=number))
        save(tmp_path / "small" / f"{number}x2.png", noise(10, 12, seed=number))
        for haze in range(2):
            save(tmp_path / "hazy" / f"{number}_{haze}.png", noise(20, 24, seed=number))
    return tmp_path


def test_a_complete_copy(copy):
    steps = []
    found = compare(FAKE, copy, progress=lambda done, total: steps.append((done, total)))
    assert found.differences == ()
    assert found.matches == (
        "gt: 3 images, names, sizes",
        "hazy: 6 images, names, sizes",
        "small: 3 images (no count in the manifest), sizes",
        "gt + hazy: 6 pairs (filename_tmpl: '{}_*', gt_crop: 'center')",
        "gt + small: 3 pairs (filename_tmpl: '{}x2', scale: 2)",
    )
    assert steps[-1] == (12, 12) and len(steps) == 12


def test_an_optional_folder_may_be_missing(copy):
    shutil.rmtree(copy / "small")
    found = compare(FAKE, copy)
    assert not found.differences and "small: missing, optional (small)" in found.matches


CHANGES = {
    "a folder": (lambda root: shutil.rmtree(root / "hazy"), ["hazy: no such folder"]),
    "a degraded image": (
        lambda root: (root / "hazy" / "1_0.png").unlink(),
        [r"hazy/: 5 images, expected 6 \(measured on a copy\)", r"gt/1\.png: 1 degraded images, expected 2"],
    ),
    "a ground truth": (
        lambda root: (root / "gt" / "1.png").unlink(),
        [
            r"gt/: 2 images, expected 3 \(from general knowledge, not checked\)",
            r"hazy/1_0\.png: no ground truth",
            r"hazy/1_1\.png: no ground truth",
            r"small/1x2\.png: no ground truth",
        ],
    ),
    "all of a ground truth": (
        lambda root: [path.unlink() for path in (root / "hazy").glob("2_*")],
        ["4 images, expected 6", r"gt/2\.png: no degraded image .*hazy/2_\*"],
    ),
    "one too many": (
        lambda root: save(root / "hazy" / "2_7.png", noise(20, 24)),
        ["7 images, expected 6", r"gt/2\.png: 3 degraded images, expected 2"],
    ),
    "a name": (
        lambda root: (root / "hazy" / "0_0.png").rename(root / "hazy" / "hazy_0.png"),
        [r"hazy/hazy_0\.png: expected a name that matches", "no ground truth", r"gt/0\.png: 1 degraded images"],
    ),
    "another file type": (
        lambda root: (root / "hazy" / "0_0.png").rename(root / "hazy" / "0_0.jpg"),
        [r"hazy/0_0\.jpg: expected a name that matches"],
    ),
    "a size": (
        lambda root: save(root / "hazy" / "0_1.png", noise(20, 22)),
        [r"hazy/0_1\.png: 22×20 pixels, expected 24×20"],
    ),
    "the size of a ground truth": (
        lambda root: save(root / "gt" / "0.png", noise(18, 24)),
        [
            r"gt/0\.png: 24×18 pixels, expected 24×20 or 28×24",
            r"hazy/0_0\.png: 24×18 pixels, its degraded image",
            r"hazy/0_1\.png",
            r"gt/0\.png: .*at scale 2",
        ],
    ),
    "a longest side": (
        lambda root: save(root / "small" / "0x2.png", noise(10, 11)),
        [r"small/0x2\.png: 11×10 pixels, expected a longest side of 12", "expected 12×10 at scale 2"],
    ),
    "an end": (lambda root: truncate(root / "hazy" / "0_1.png"), [r"hazy/0_1\.png: truncated", "1 degraded"]),
    "an image": (
        lambda root: (root / "hazy" / "0_1.png").write_text("<html>not found</html>" * 9),
        [r"hazy/0_1\.png: not an image", "1 degraded"],
    ),
    "all images": (
        lambda root: [path.unlink() for path in (root / "small").iterdir()],
        ["small/: no images", *3 * ["no degraded image"]],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_difference_is_listed(copy, change):
    apply, expected = CHANGES[change]
    apply(copy)
    found = compare(FAKE, copy)
    if change == "a folder":
        assert "gt + small: 3 pairs (filename_tmpl: '{}x2', scale: 2)" in found.matches
    for pattern in expected:
        assert any(re.search(pattern, line) for line in found.differences), (pattern, found.differences)
    assert len(found.differences) == len(expected)


def test_a_border_around_the_ground_truth_is_allowed_with_gt_crop(copy):
    shutil.rmtree(copy / "small")
    for number in range(3):
        save(copy / "gt" / f"{number}.png", noise(24, 28))
    assert not compare(FAKE, copy).differences


def test_the_template_that_fits_best_is_used(copy):
    for number in range(3):
        (copy / "small" / f"{number}x2.png").rename(copy / "small" / f"{number}.png")
    found = compare(FAKE, copy)
    assert not found.differences and "gt + small: 3 pairs (scale: 2)" in found.matches


def test_a_copy_without_any_pair(copy):
    shutil.rmtree(copy / "gt")
    found = compare(FAKE, copy)
    assert found.differences[-1] == f"{copy}: no pair of folders; expected gt + hazy, or gt + small"


def test_empty_folders_have_no_pairs(copy):
    for folder in ("gt", "small"):
        for path in (copy / folder).iterdir():
            path.unlink()
    assert not any(line.startswith("gt + small") for line in compare(FAKE, copy).matches)


def test_a_missing_root(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        compare(FAKE, tmp_path / "nowhere")


def test_databases_are_compared_like_folders(tmp_path):
    """A small copy of DIV2K: only the counts differ from the manifest."""
    manifest = read_manifest("div2k")
    for number in range(2):
        save(tmp_path / "in" / "HR" / f"0001_s00{number}.png", noise(480, 480))
        save(tmp_path / "in" / "X4" / f"0001_s00{number}.png", noise(120, 120))
    for side in ("HR", "X4"):
        create_lmdb(tmp_path / "in" / side, tmp_path / f"{side}_sub.lmdb", "encoded")
    found = compare(manifest, tmp_path)
    assert [line.split("/")[-2] for line in found.differences] == ["HR_sub.lmdb", "X4_sub.lmdb"]
    assert all(": 2 images, expected 32,592" in line for line in found.differences)
    assert "HR_sub.lmdb + X4_sub.lmdb: 2 pairs (scale: 4)" in found.matches
    shutil.rmtree(tmp_path / "X4_sub.lmdb")
    (tmp_path / "X4_sub.lmdb").mkdir()
    assert "X4_sub.lmdb: no LMDB database" in compare(manifest, tmp_path).differences[0]
