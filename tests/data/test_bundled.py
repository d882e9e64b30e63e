"""Tests of the photographs of scikit-image."""

import socket

import numpy as np
import pytest
import torch
from skimage import data as skimage_data

from mcir.data.bundled import TRAIN, VAL, BundledPhotos, divide, photographs
from mcir.data.degradations import BicubicDown
from mcir.data.errors import DataError
from mcir.data.sampler import SampleIndex
from mcir.errors import ArgumentError


def test_photographs_are_read_without_a_download(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was made"))
    cat = BundledPhotos("val", scale=2)[0]
    assert cat["gt_path"] == "chelsea.png"
    assert np.array_equal(cat["gt"].permute(1, 2, 0).numpy(), skimage_data.chelsea()[:300, :450])
    assert torch.equal(cat["lq"], BicubicDown(2)(cat["gt"], np.random.default_rng()))


def test_no_photograph_is_in_both_splits():
    assert not TRAIN.keys() & VAL.keys()
    assert not any("motorcycle" in name for name in [*TRAIN, *VAL])
    assert all(photographs(VAL).info(name).channels == 3 for name in VAL)
    assert len(BundledPhotos("train")) == len(TRAIN) and len(BundledPhotos("val")) == len(VAL)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_training_crops(scale):
    dataset = BundledPhotos("train", scale=scale, gt_size=48, use_hflip=True, use_rot=True)
    for index in range(len(dataset)):
        item = dataset[SampleIndex(index, index, 0)]
        assert item["gt"].shape == (3, 48, 48) and item["lq"].shape == (3, 48 // scale, 48 // scale)
        assert item["gt"].dtype == item["lq"].dtype == torch.uint8
    assert BundledPhotos("train", scale=scale, gt_size=48, color="gray")[0]["gt"].shape == (1, 48, 48)


def test_tiles_are_separate_images():
    tiles = divide(photographs(VAL), 100)
    assert tiles.keys()[0] == "chelsea_s001.png" and len(tiles.keys()) == 3 * 4 + 4 * 6
    assert np.array_equal(tiles.read("chelsea_s006.png"), photographs(VAL).read("chelsea.png")[100:200, 100:200])
    dataset = BundledPhotos("train", tile_size=128, gt_size=64, max_images=100, degradation=NOISE, scale=1)
    levels = {round((item["lq"] - item["gt"] / 255).std().item(), 4) for item in (dataset[i] for i in range(20))}
    assert len(dataset) == 100 and len(levels) == 20
    assert len(BundledPhotos("val", max_images=1)) == 1
    assert len(BundledPhotos("train", tile_size=128)) == 186  # stated in datasets/README.md
    with pytest.raises(ArgumentError, match=r"max_images: expected 1 … 2, .*got 3"):
        BundledPhotos("val", max_images=3)
    with pytest.raises(ArgumentError, match="tile_size: expected an integer ≥ 1, got 0"):
        BundledPhotos("val", tile_size=0)


NOISE = {"type": "HeteroscedasticNoise", "sigma": [2, 20]}


def test_another_degradation():
    item = BundledPhotos("val", scale=1, degradation={"type": "GaussianNoise", "sigma": 25})[1]
    difference = (item["lq"] - item["gt"] / 255) * 255
    assert abs(difference.std().item() - 25) < 0.2


def test_wrong_arguments_and_missing_files_are_named():
    with pytest.raises(ArgumentError, match="split: expected one of 'train', 'val', got 'test'"):
        BundledPhotos("test")
    with pytest.raises(DataError, match=r"nothing\.png is missing"):
        photographs({"nothing.png": None})
    with pytest.raises(DataError, match=r"rocket\.jpg: 640×427 pixels, smaller than the crop of 448"):
        BundledPhotos("train", gt_size=448)
