"""Tests of the search for damage in JPEG files."""

import random

import cv2
import numpy as np
import pytest
from PIL import Image

from mcir.data.bundled import VAL, photographs
from mcir.data.errors import DataError
from mcir.data.jpeg import check_jpeg
from mcir.data.reader import check_image, decode
from mcir.data.verify import verify
from tests.data.varied import encode

KINDS = {
    "low": {"quality": 20},
    "high": {"quality": 98, "subsampling": 0},
    "optimized": {"quality": 90, "optimize": True},
    "progressive": {"quality": 75, "progressive": True},
    "fine progressive": {"quality": 95, "progressive": True},
    "restarts": {"quality": 85, "restart_marker_rows": 1},
    "many restarts": {"quality": 85, "restart_marker_blocks": 2},
}


def pictures():
    store = photographs(VAL)
    photo = store.read(store.keys()[0])
    noise = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    page = cv2.putText(np.full((90, 90, 3), 255, np.uint8), "text", (5, 40), 0, 1, (0, 0, 0), 2)
    ends = [np.vstack((noise, np.full((50, 90, 3), value, np.uint8))) for value in (0, 128, 255)]
    flat = [np.full((33, 50, 3), value, np.uint8) for value in (0, 77, 128, 255)]
    ramp = np.add.outer(np.arange(128), np.arange(96))[:, :, None].repeat(3, 2).astype(np.uint8)
    return [photo[:200, :300], photo[:41, :53], noise, page, *ends, *flat, ramp, noise[:5, :7]]


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_intact_files_are_accepted(options):
    for picture in pictures():
        for mode in ("RGB", "L", "CMYK"):
            check_jpeg(encode(Image.fromarray(picture).convert(mode), "JPEG", **options))


@pytest.mark.parametrize(
    ("kind", "least"), [("low", 20), ("high", 20), ("optimized", 20), ("restarts", 20), ("progressive", 4)]
)
def test_most_zeroed_sectors_are_found(kind, least):
    data = encode(Image.fromarray(pictures()[0]), "JPEG", **KINDS[kind])
    choose, found = random.Random(1), 0
    for _ in range(20):
        start = choose.randrange(800, len(data) - 600)
        damaged = data[:start] + bytes(512) + data[start + 512 :]
        assert not np.array_equal(decode(damaged, "x"), decode(data, "x"))
        try:
            check_image(damaged)
        except DataError:
            found += 1
    assert found >= least, found


def test_verify_finds_a_zeroed_sector(tmp_path):
    data = encode(Image.fromarray(pictures()[0]), "JPEG", quality=95)
    middle = len(data) // 2
    (tmp_path / "x.jpg").write_bytes(data[:middle] + bytes(512) + data[middle + 512 :])
    (problem,) = verify(tmp_path).problems
    assert "x.jpg: damaged: " in problem
