"""Tests of the data sets of noisy patches."""

import numpy as np
import pytest
import torch

from mcir.data.errors import DataError
from mcir.data.loader import Prefetcher, training_loader
from mcir.data.noisy import NoisyObservations, NoisyPatchPairs, overlapping_windows
from mcir.data.prepare import create_lmdb
from mcir.data.sampler import SampleIndex
from mcir.errors import ArgumentError
from mcir.registry import DATASETS
from tests.data.images import noise, save, smooth

DATASET_CLASSES = [NoisyPatchPairs, NoisyObservations]
FIXED = {"type": "HeteroscedasticNoise", "realisation": "fixed", "sigma": [5, 20]}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for index in range(4):
        save(root / "deep" / f"{index}.png", smooth(70 + index, 90, seed=index))
    return root


def numbered(root, height=40, width=50):
    """Write an image whose pixel values are their positions."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    image = np.stack([rows, columns, np.zeros_like(rows)], 2)
    save(root / "a.png", image)
    return image


def test_boxes_are_uniform_and_overlap():
    rng = np.random.default_rng(0)
    drawn = [overlapping_windows(rng.random(4).tolist(), 10, 7, 4) for _ in range(4000)]
    everywhere = {(y, x) for y in range(7) for x in range(4)}
    assert {first[:2] for first, _ in drawn} == {second[:2] for _, second in drawn} == everywhere
    for first, second in drawn:
        assert first[2:] == second[2:] == (4, 4)
        assert abs(first.top - second.top) < 4 and abs(first.left - second.left) < 4
    for corner in ((0, 0), (6, 3), (2, 1)):
        seconds = [second[:2] for first, second in drawn if first[:2] == corner]
        valid = {(y, x) for y, x in everywhere if abs(y - corner[0]) < 4 and abs(x - corner[1]) < 4}
        assert set(seconds) == valid
        counts = [seconds.count(each) for each in valid]
        assert max(counts) < 6 * len(seconds) / len(valid)
    firsts = [first[:2] for first, _ in drawn]
    assert all(90 < firsts.count(each) < 200 for each in set(firsts))  # 143 of each are expected


def test_boxes_are_the_positions_of_the_patches(tmp_path):
    image = torch.from_numpy(numbered(tmp_path)).permute(2, 0, 1)
    dataset = NoisyPatchPairs(str(tmp_path), patch_size=16, noise=None)
    for position in range(50):
        item = dataset[SampleIndex(0, position, 1)]
        assert item["lq"].dtype == torch.uint8 and item["lq"].shape == (2, 3, 16, 16)
        assert item["boxes"].dtype == torch.float32 and item["boxes"].shape == (2, 4)
        for patch, (top, left, bottom, right) in zip(item["lq"], item["boxes"].int().tolist(), strict=True):
            assert torch.equal(patch, image[:, top:bottom, left:right])


@pytest.mark.parametrize("realisation", ["redrawn", "fixed"])
def test_shared_pixels_have_the_same_noise(photographs, realisation):
    noisy = NoisyPatchPairs(str(photographs), 24, {"type": "HeteroscedasticNoise", "realisation": realisation})
    for position in range(40):
        item = noisy[SampleIndex(position % 4, position, 0)]
        (top, left, *_), (other_top, other_left, *_) = item["boxes"].int().tolist()
        down, across = other_top - top, other_left - left
        one = item["lq"][0, :, max(0, down) : 24 + min(0, down), max(0, across) : 24 + min(0, across)]
        two = item["lq"][1, :, max(0, -down) : 24 - max(0, down), max(0, -across) : 24 - max(0, across)]
        assert one.numel() and torch.equal(one, two)


def test_without_noise_the_same_patches_are_clean(photographs):
    clean, noisy = (
        NoisyPatchPairs(str(photographs), 24, each) for each in (None, {"type": "GaussianNoise", "sigma": 9})
    )
    residuals = []
    for position in range(60):
        one, two = (dataset[SampleIndex(position % 4, position, 0)] for dataset in (clean, noisy))
        assert torch.equal(one["boxes"], two["boxes"])
        residuals.append(two["lq"] - one["lq"] / 255)
    assert torch.stack(residuals).std().item() * 255 == pytest.approx(9, rel=0.01)


def test_fixed_noise_is_the_same_in_every_crop_and_epoch(photographs):
    dataset = NoisyPatchPairs(str(photographs), 24, FIXED)
    clean = NoisyPatchPairs(str(photographs), 24, None)
    seen = torch.full((3, 73, 90), float("nan"))
    for position in range(150):
        item, without = dataset[SampleIndex(2, position, 7)], clean[SampleIndex(2, position, 7)]
        for patch, bare, (top, left, bottom, right) in zip(
            item["lq"], without["lq"], item["boxes"].int().tolist(), strict=True
        ):
            there = seen[:, top:bottom, left:right]
            residual = patch - bare / 255
            assert torch.equal(there[~there.isnan()], residual[~there.isnan()])
            there.copy_(residual)
    assert seen.isnan().float().mean() < 0.1


def test_redrawn_noise_has_the_strength_of_its_image(photographs):
    dataset, clean = (NoisyPatchPairs(str(photographs), 24, each) for each in ({"type": "HeteroscedasticNoise"}, None))
    spreads = np.zeros((4, 2))
    for index in range(4):
        for half in range(2):
            samples = [SampleIndex(index, 100 * half + position, 0) for position in range(40)]
            spreads[index, half] = torch.stack([dataset[s]["lq"] - clean[s]["lq"] / 255 for s in samples]).std()
    assert np.allclose(spreads[:, 0], spreads[:, 1], rtol=0.05)
    assert np.unique(spreads.round(3)[:, 0]).size == 4


@pytest.mark.parametrize("dataset_class", DATASET_CLASSES)
def test_an_item_depends_only_on_its_sample_index(photographs, dataset_class):
    one, two = (dataset_class(str(photographs), 24) for _ in range(2))
    items = [one[SampleIndex(1, position, 5)]["lq"] for position in range(20)]
    assert all(torch.equal(two[SampleIndex(1, position, 5)]["lq"], items[position]) for position in reversed(range(20)))
    assert len({item.numpy().tobytes() for item in items}) == 20
    assert torch.equal(one[1]["lq"], two[SampleIndex(1, 1, 0)]["lq"])
    assert one[1]["lq_path"] == one[1]["gt_path"] == f"{photographs}/deep/1.png" and one.name(1) == "deep/1"


def test_two_observations_have_the_same_strength_and_different_noise(photographs):
    dataset = NoisyObservations(str(photographs), 24, {"type": "HeteroscedasticNoise", "sigma": [10, 20]})
    clean = NoisyObservations(str(photographs), 24, {"type": "HeteroscedasticNoise", "sigma": 0})
    for index in range(4):
        samples = [SampleIndex(index, position, 0) for position in range(40)]
        noises = (
            torch.stack([dataset[sample]["lq"] - clean[sample]["lq"] for sample in samples]).transpose(0, 1).flatten(1)
        )
        assert "boxes" not in dataset[index]
        assert noises[0].std().item() == pytest.approx(noises[1].std().item(), rel=0.03)
        assert abs(torch.corrcoef(noises)[0, 1].item()) < 0.02


def test_fixed_noise_gives_two_observations_and_pairs_use_the_first(tmp_path):
    save(tmp_path / "a.png", smooth(24, 25))
    two = NoisyObservations(str(tmp_path), 24, FIXED)
    seen = {two[SampleIndex(0, position, 0)]["lq"].numpy().tobytes() for position in range(30)}
    assert len(seen) == 2  # there are two positions
    pairs = NoisyPatchPairs(str(tmp_path), 24, FIXED)
    firsts = {two[SampleIndex(0, position, 0)]["lq"][0].numpy().tobytes() for position in range(30)}
    seconds = {two[SampleIndex(0, position, 0)]["lq"][1].numpy().tobytes() for position in range(30)}
    patches = {patch.numpy().tobytes() for position in range(30) for patch in pairs[SampleIndex(0, position, 0)]["lq"]}
    assert patches == firsts and not patches & seconds


def test_depth_and_color(tmp_path):
    save(tmp_path / "deep" / "a.png", noise(30, 30, dtype=np.uint16))
    save(tmp_path / "deep" / "b.png", noise(30, 30, 1))
    unchanged = NoisyPatchPairs(str(tmp_path / "deep"), 16, None)
    assert unchanged[0]["lq"].dtype == unchanged[1]["lq"].dtype == torch.float32
    assert unchanged[1]["lq"].max() <= 1 and unchanged[1]["lq"].std() > 0.2
    rgb, gray = (NoisyPatchPairs(str(tmp_path / "deep"), 16, color=color) for color in ("rgb", "gray"))
    assert rgb[1]["lq"].shape == (2, 3, 16, 16) and gray[0]["lq"].shape == (2, 1, 16, 16)
    assert not torch.equal(rgb[1]["lq"][:, 0], rgb[1]["lq"][:, 1])  # a grey image with colour noise


@pytest.mark.parametrize("dataset_class", DATASET_CLASSES)
@pytest.mark.parametrize("codec", ["encoded", "raw"])
def test_databases_give_the_same_samples_as_files(tmp_path, photographs, dataset_class, codec):
    create_lmdb(photographs, tmp_path / "x.lmdb", codec)
    (tmp_path / "names.txt").write_text("deep/3.png\ndeep/1.png\n")
    section = {"type": dataset_class.__name__, "patch_size": 32, "meta_info_file": str(tmp_path / "names.txt")}
    files = DATASETS.build({**section, "dataroot": str(photographs)})
    database = DATASETS.build({**section, "dataroot": str(tmp_path / "x.lmdb"), "io_backend": {"type": "lmdb"}})
    assert len(files) == 2 and files.name(0) == "deep/3"
    for position in range(20):
        one, two = (dataset[SampleIndex(position % 2, position, 0)] for dataset in (files, database))
        assert torch.equal(one["lq"], two["lq"])


@pytest.mark.parametrize("dataset_class", DATASET_CLASSES)
def test_bundled_photographs(dataset_class):
    photos, tiles = dataset_class("bundled", 64), dataset_class("bundled", 96, tile_size=128)
    assert len(photos) == 8 and len(dataset_class("bundled:val", 64)) == 2
    assert len(tiles) > 150 and tiles.name(0) == "astronaut_s001"
    assert tiles[len(tiles) - 1]["lq"].shape == (2, 3, 96, 96)
    with pytest.raises(ArgumentError, match="tile_size: expected 1 … 427, got 428"):
        dataset_class("bundled", 64, tile_size=428)


def test_images_smaller_than_a_patch(tmp_path, caplog):
    save(tmp_path / "small.png", smooth(20, 60))
    save(tmp_path / "tiny.png", smooth(20, 20))
    save(tmp_path / "z.png", smooth(60, 60))
    for dataset_class in DATASET_CLASSES:
        with pytest.raises(DataError, match=r"small\.png: 60×20 pixels, smaller than the crop of 32 \(patch_size\)"):
            dataset_class(str(tmp_path), 32)
    with caplog.at_level("INFO", "mcir"):
        assert len(NoisyPatchPairs(str(tmp_path), 32, small="skip")) == 1
        padded = NoisyPatchPairs(str(tmp_path), 32, FIXED, small="pad")
    assert "2 of 3 images are smaller than patch_size 32 and are skipped" in caplog.text
    assert "1 of 3 images are no larger than patch_size 32: both patches of such a pair are the same" in caplog.text
    item = padded[SampleIndex(0, 3, 0)]
    assert item["lq"].shape == (2, 3, 32, 32)
    assert item["boxes"][:, 0].tolist() == [0, 0] and item["boxes"][:, 2].tolist() == [32, 32]
    assert torch.equal(item["lq"][:, :, 20:], item["lq"][:, :, 8:20].flip(2))  # mirrored, including the noise
    assert torch.equal(*padded[SampleIndex(1, 3, 0)]["lq"])


def test_patches_as_large_as_every_image_are_rejected(tmp_path):
    for index in range(2):
        save(tmp_path / f"{index}.png", smooth(32, 32, seed=index))
    with pytest.raises(DataError, match=r"no image is larger than patch_size 32.*smaller patch_size, like 24"):
        NoisyPatchPairs(str(tmp_path), 32)
    assert NoisyObservations(str(tmp_path), 32)[0]["lq"].shape == (2, 3, 32, 32)


@pytest.mark.parametrize("dataset_class", DATASET_CLASSES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": 0}, "patch_size: expected an integer ≥ 1, got 0"),
        ({"color": "grey"}, "color: .*got 'grey'"),
        ({"small": "drop"}, "small: .*got 'drop'"),
        ({"tile_size": 16}, "tile_size: only for bundled photographs"),
        ({"noise": {"type": "BicubicDown", "scale": 2}}, "noise: .* got BicubicDown of scale 2"),
        ({"dataroot": "nowhere"}, "nowhere: no such folder"),
        ({"meta_info_file": "nowhere.txt"}, r"nowhere\.txt: does not exist"),
    ],
)
def test_wrong_arguments_are_rejected(photographs, dataset_class, arguments, message):
    with pytest.raises((ArgumentError, DataError), match=message):
        dataset_class(**{"dataroot": str(photographs), "patch_size": 16, **arguments})


def test_two_observations_require_noise(photographs):
    with pytest.raises(ArgumentError, match=r"noise: expected a degradation, got null.*PairedImageDataset"):
        NoisyObservations(str(photographs), 16, None)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("dataset_class", DATASET_CLASSES)
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_and_starts_have_no_effect_on_batches(photographs, dataset_class, workers):
    def take(count, **more):
        loader = training_loader(dataset_class(str(photographs), 16), batch_size=3, seed=2, **more)
        return [batch for batch, _ in zip(Prefetcher(loader, "cpu"), range(count), strict=False)]

    expected_batches = take(12, num_workers=0)
    for start in (0, 7):
        for batch, expected in zip(take(5, num_workers=workers, start=start), expected_batches[start:], strict=False):
            assert batch.keys() == expected.keys() and batch["lq"].shape == (3, 2, 3, 16, 16)
            assert torch.equal(batch["lq"], expected["lq"]) and batch["lq_path"] == expected["lq_path"]
            if dataset_class is NoisyPatchPairs:
                assert batch["boxes"].shape == (3, 2, 4) and torch.equal(batch["boxes"], expected["boxes"])
