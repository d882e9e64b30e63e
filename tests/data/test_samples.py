"""Tests of the specification of samples: it agrees with the samples, and needs no data."""

from types import SimpleNamespace

import numpy as np
import pytest

from mcir import DATASETS, ArgumentError, RegistryError, build_dataset
from mcir.data import SampleSpec, sample_spec
from mcir.data.codec import encode_png

NOISY = {"dataroot": "bundled", "tile_size": 64, "patch_size": 16}
SECTIONS = [
    {"type": "BundledPhotos", "split": "train", "gt_size": 32},
    {"type": "BundledPhotos", "split": "train", "gt_size": 24, "scale": 3, "color": "gray"},
    {"type": "NoisyPatchPairs", **NOISY},
    {"type": "NoisyObservations", **NOISY},
]


def assert_agree(section):
    spec, sample = sample_spec(section), build_dataset(section)[0]
    assert ("gt" in sample, "negatives" in sample) == (spec.gt_size is not None, spec.negatives > 0)
    assert sample["lq"].shape[-2:] == spec.lq_size
    if spec.gt_size is not None:
        assert sample["gt"].shape[-2:] == spec.gt_size
    if spec.negatives:
        assert sample["negatives"].shape[0] == spec.negatives
        assert sample["negatives"].shape[-2:] == spec.gt_size
    assert section[spec.size_argument] == spec.crop_size[0]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section["type"])
def test_specification_agrees_with_a_sample(section):
    assert_agree(section)


def test_specification_counts_stored_negatives(tmp_path):
    for folder in ("gt", "first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(encode_png(np.zeros((16, 16, 3), np.uint8)))
    roots = [str(tmp_path / "first"), str(tmp_path / "second")]
    section = {"type": "PairedImageDataset", "dataroot_gt": str(tmp_path / "gt"), "scale": 2, "gt_size": 8}
    assert_agree({**section, "degradation": {"type": "BicubicDown"}, "dataroot_negatives": roots})


def test_specification_needs_no_data():
    section = {"type": "PairedImageDataset", "dataroot_gt": "nowhere", "scale": 4, "gt_size": 128}
    assert sample_spec(section) == SampleSpec((32, 32), (128, 128))


def test_specification_is_unknown_for_full_images():
    assert sample_spec({"type": "PairedImageDataset", "dataroot_gt": "nowhere", "scale": 4}) is None


@pytest.mark.parametrize(
    ("size", "expected"), [(127, "124 or 128, got 127"), (129, "128 or 132, got 129"), (2, "4, got 2")]
)
def test_specification_of_a_crop_that_is_no_multiple_of_the_scale(size, expected):
    section = {"type": "PairedImageDataset", "dataroot_gt": "nowhere", "scale": 4, "gt_size": size}
    with pytest.raises(ArgumentError, match=f"^gt_size: expected a multiple of the scale, 4, like {expected}"):
        sample_spec(section)


def test_a_data_set_may_omit_its_specification(monkeypatch):
    monkeypatch.setattr(DATASETS, "get", lambda name: SimpleNamespace())
    assert sample_spec({"type": "MyDataset", "gt_size": 16}) is None


def test_an_unknown_data_set_is_rejected():
    with pytest.raises(RegistryError, match="no data set 'Paired'"):
        sample_spec({"type": "Paired"})
