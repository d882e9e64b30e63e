"""Tests of data sets of several folders and databases."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from mcir.config import load
from mcir.data.errors import DataError
from mcir.data.folders import JoinedStorage, labels_of, open_folders
from mcir.data.loader import training_loader
from mcir.data.noisy import NoisyPatchPairs
from mcir.data.paired import PairedImageDataset
from mcir.data.prepare import create_lmdb
from mcir.data.sampler import EndlessBatches, WeightedOrder
from mcir.data.storage import open_storage
from mcir.engine.batches import TrainBatches
from mcir.engine.distributed import DistContext
from mcir.errors import ArgumentError
from tests.data.images import noise, pairs, save


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a folder with two sets of pairs, a with 3 images and b with 5, of which b also exists as databases."""
    root = tmp_path_factory.mktemp("folders")
    for name, count in (("a", 3), ("b", 5)):
        pairs(root / name, count)
        for kind in ("gt", "lq"):
            for index in range(count):  # not the images of the other folder
                save(root / name / kind / f"{index:02d}.png", noise(*_size(kind), seed=hash_of(name, kind, index)))
    for kind in ("gt", "lq"):
        create_lmdb(root / "b" / kind, root / f"b_{kind}.lmdb")
    return root


def _size(kind):
    return (48, 64) if kind == "gt" else (24, 32)


def hash_of(name, kind, index):
    return 1000 * (name == "b") + 100 * (kind == "gt") + index


def roots(folders, kind, *names):
    return [str(folders / name / kind) for name in names]


def joined(folders, **arguments):
    return PairedImageDataset(
        roots(folders, "gt", "a", "b"), roots(folders, "lq", "a", "b"), scale=2, **{"gt_size": 16} | arguments
    )


def test_images_of_all_folders_in_order_with_distinct_names(folders):
    dataset = joined(folders, gt_size=None)
    assert dataset.group_sizes == [3, 5]
    names = [f"{folder}/gt/{index:02d}" for folder, count in (("a", 3), ("b", 5)) for index in range(count)]
    assert [dataset.name(index) for index in range(8)] == names
    single = PairedImageDataset(str(folders / "b/gt"), str(folders / "b/lq"), scale=2)
    for index in range(5):
        item, expected = dataset[3 + index], single[index]
        assert torch.equal(item["gt"], expected["gt"])
        assert torch.equal(item["lq"], expected["lq"])
        assert (item["gt_path"], item["lq_path"]) == (expected["gt_path"], expected["lq_path"])


def test_folders_and_databases_can_be_mixed(folders):
    gts, lqs = ([str(folders / "a" / kind), str(folders / f"b_{kind}.lmdb")] for kind in ("gt", "lq"))
    mixed = PairedImageDataset(gts, lqs, scale=2)
    assert [mixed.name(3), mixed.name(0)] == ["b_gt.lmdb/00", "gt/00"]
    expected = joined(folders, gt_size=None)
    for index in range(8):
        assert torch.equal(mixed[index]["gt"], expected[index]["gt"])


def test_a_list_with_one_entry_is_a_single_folder(folders):
    single = PairedImageDataset(roots(folders, "gt", "a"), roots(folders, "lq", "a"), scale=2)
    assert [single.name(index) for index in range(3)] == ["00", "01", "02"]
    assert single.group_sizes == [3]


def test_meta_info_files_are_parallel_lists(folders, tmp_path):
    (tmp_path / "a.txt").write_text("02.png\n00.png (48,64,3)\n")
    dataset = joined(folders, meta_info_file=[str(tmp_path / "a.txt"), None])
    assert dataset.group_sizes == [2, 5]
    assert [dataset.name(index) for index in range(3)] == ["a/gt/02", "a/gt/00", "b/gt/00"]


def test_max_images_selects_from_all_folders(folders):
    names = {index: joined(folders, max_images=count) for index, count in ((0, 3), (1, 6))}
    chosen = [{dataset.name(i) for i in range(len(dataset))} for dataset in names.values()]
    assert len(chosen[0]) == 3 and chosen[0] < chosen[1]
    assert sum(names[1].group_sizes) == 6


def test_noisy_images(folders):
    dataset = NoisyPatchPairs(["bundled:val", *roots(folders, "gt", "a")], patch_size=16, small="skip")
    assert len(dataset) == dataset.group_sizes[0] + 3
    assert dataset.name(len(dataset) - 1) == "gt/02"
    assert dataset.name(0).startswith("bundled:val/")
    assert dataset[len(dataset) - 1]["lq"].shape == (2, 3, 16, 16)


def test_labels_are_the_shortest_distinct_ends():
    assert labels_of(["x/a", "y/b"], "") == ["a", "b"]
    assert labels_of(["x/HR", "y/HR"], "") == ["x/HR", "y/HR"]
    assert labels_of(["p/x/HR", "q/y/HR", "q/x/HR"], "") == ["p/x/HR", "q/y/HR", "q/x/HR"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataroot_gt": ["a/gt", "a/gt"]}, "dataroot_gt: expected folders that do not contain each other"),
        ({"dataroot_gt": ["a", "a/gt"]}, "dataroot_gt: expected folders that do not contain each other"),
        ({"dataroot_gt": []}, "dataroot_gt: expected a folder, or a list of folders, got an empty list"),
        ({"dataroot_lq": "a/lq"}, "dataroot_lq: expected a list with 2 entries, one for each folder of images, got 1"),
        ({"dataroot_lq": ["a/lq"]}, "dataroot_lq: expected a list with 2 entries"),
        ({"meta_info_file": "x.txt"}, "meta_info_file: expected a list with 2 entries"),
        ({"dataroot_gt": "a/gt"}, "dataroot_lq: expected a list with one entry"),
        ({"dataroot_gt": ["a/gt", "nowhere"]}, "nowhere: no such folder"),
        ({"dataroot_gt": ["a/gt", "empty"]}, "empty/: no images"),
        ({"dataroot_gt": ["b/gt", "a/gt"]}, "a/gt/03.png: no degraded image|no ground truth"),
    ],
)
def test_wrong_arguments(folders, monkeypatch, arguments, message):
    monkeypatch.chdir(folders)
    (folders / "empty").mkdir(exist_ok=True)
    defaults = {"dataroot_gt": ["a/gt", "b/gt"], "dataroot_lq": ["a/lq", "b/lq"], "scale": 2}
    with pytest.raises((ArgumentError, DataError), match=message):
        PairedImageDataset(**defaults | arguments)


def test_a_joined_storage_is_a_storage(folders):
    storage = open_folders(roots(folders, "gt", "a", "b"), lambda root, argument: open_storage(root), "dataroot_gt")
    assert isinstance(storage, JoinedStorage)
    assert len(storage.keys()) == 8
    assert storage.path("b/gt/01.png") == f"{folders}/b/gt/01.png"
    assert storage.path("") == f"{folders}/a/gt/, {folders}/b/gt/"
    assert np.array_equal(storage.read("b/gt/01.png"), noise(48, 64, seed=hash_of("b", "gt", 1)))
    assert storage.info("b/gt/01.png").height == 48


# -- weights ----------------------------------------------------------------------------------------------------------


def test_weights_are_the_probabilities_of_the_folders():
    order = WeightedOrder([3, 5, 1000], [2, 1, 1], seed=4)
    indices = [order.index(position) for position in range(65_536)]
    groups = Counter(0 if index < 3 else 1 if index < 8 else 2 for index in indices)
    assert groups == {0: 32_768, 1: 16_384, 2: 16_384}
    short = Counter(index < 3 for index in indices[:1000])
    assert 430 < short[True] < 570, "the order is random"
    used = Counter(indices)
    assert max(used[i] for i in range(3)) - min(used[i] for i in range(3)) <= 1, "all images of a folder equally often"
    assert max(used[i] for i in range(8, 1008)) - min(used[i] for i in range(8, 1008)) <= 1


def test_the_rounding_of_odd_weights():
    order = WeightedOrder([999, 999, 999], [1, 1, 1], seed=0)
    counts = Counter(order.index(position) // 999 for position in range(65_536))
    assert sorted(counts.values()) == [21_845, 21_845, 21_846]


@pytest.mark.parametrize("start", [0, 7, 65_530, 10**9])
def test_an_index_is_a_function_of_seed_and_position(start):
    order = WeightedOrder([3, 5], [2, 1], seed=4)
    expected = [order.index(position) for position in range(start, start + 20)]
    assert [WeightedOrder([3, 5], [2, 1], seed=4).index(start + i) for i in range(20)] == expected
    assert [order.index(start + i) for i in reversed(range(20))][::-1] == expected
    assert [WeightedOrder([3, 5], [2, 1], seed=5).index(start + i) for i in range(20)] != expected


def test_ranks_divide_the_same_global_batches():
    arguments = {"group_sizes": [3, 5], "weights": [2, 1]}
    alone = list(islice(EndlessBatches(8, 4, 1, **arguments), 10))
    ranks = [list(islice(EndlessBatches(8, 2, 1, rank, 2, **arguments), 10)) for rank in range(2)]
    assert [first + second for first, second in zip(*ranks, strict=True)] == alone
    resumed = list(islice(EndlessBatches(8, 4, 1, start=6, **arguments), 4))
    assert resumed == alone[6:]


def test_batches_are_the_same_for_any_number_of_workers_and_after_a_resume(folders):
    dataset = joined(folders, use_hflip=True)
    batches = {}
    for workers, start in ((0, 0), (1, 0), (0, 3)):
        loader = training_loader(dataset, batch_size=2, num_workers=workers, seed=3, weights=[5, 1], start=start)
        batches[workers, start] = list(islice(loader, 6 - start))
    for batch, other in zip(batches[0, 0], batches[1, 0], strict=True):
        assert torch.equal(batch["gt"], other["gt"]) and batch["gt_path"] == other["gt_path"]
    for batch, other in zip(batches[0, 0][3:], batches[0, 3], strict=True):
        assert torch.equal(batch["gt"], other["gt"])
    without = list(islice(training_loader(dataset, batch_size=2, num_workers=0, seed=3), 6))
    assert [batch["gt_path"] for batch in without] != [batch["gt_path"] for batch in batches[0, 0]]


SINGLE = DistContext(0, 1, torch.device("cpu"))
OPTIONS = """\
name: x
model_type: RestorationModel
scale: 2
datasets:
  train:
    type: PairedImageDataset
    dataroot_gt: [a/gt, b/gt]
    dataroot_lq: [a/lq, b/lq]
    gt_size: 16
    batch_size_per_gpu: 2
    weights: [2, 1]
  val: {type: PairedImageDataset, dataroot_gt: [a/gt, b/gt], dataroot_lq: [a/lq, b/lq]}
network_g: {type: EDSR, upscale: 2, num_feat: 4, num_block: 1}
train: {total_iter: 1, optim_g: {type: Adam, lr: 1e-3}, pixel_opt: {type: L1Loss}}
val: {metrics: {psnr: {type: PSNR}}}
"""


@pytest.fixture
def file(folders, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (folders / "x.yml").write_text(OPTIONS)
    return folders / "x.yml"


def batches(file, *overrides):
    options = load(file, overrides)
    return TrainBatches(options.datasets.train, 0, SINGLE, options.where("datasets", "train"))


def test_option_files(folders, file):
    options = load(file)
    assert options.datasets.train.section["dataroot_gt"] == (f"{folders}/a/gt", f"{folders}/b/gt")
    assert options.datasets.train.weights == (2, 1)
    assert "weights: [2.0, 1.0]" in options.dump()
    batch = next(batches(file).iterate())
    assert batch["gt"].shape == (2, 3, 16, 16)
    file.write_text(OPTIONS.replace("weights: [2, 1]", "use_rot: false"))
    assert "weights" not in load(file).dump(), "the same text as in earlier versions"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("weights=[1, 2, 3]", "expected a weight for each of the 2 folders, got 3 weights"),
        ("weights=[1, 1e-4]", "expected weights of which the largest is at most 1,000 times the smallest"),
        ("max_images=1", "expected folders with images, got none from folder [12]"),
    ],
)
def test_wrong_weights(file, override, message):
    with pytest.raises(ValueError, match=rf"datasets\.train\.weights.*: {message}"):
        batches(file, f"datasets.train.{override}")


def test_evaluation_has_no_weights(file):
    file.write_text(OPTIONS.replace("b/lq]}", "b/lq], weights: [1, 2]}"))
    with pytest.raises(ValueError, match=r"x\.yml:12: datasets\.val\.weights: Evaluation uses each image once"):
        load(file)


@pytest.mark.parametrize("value", ["[1, 0]", "[1, -1]", "[1, .inf]", "1"])
def test_weights_are_positive_numbers(file, value):
    with pytest.raises(ValueError, match=r"datasets\.train\.weights"):
        load(file, [f"datasets.train.weights={value}"])


def test_weights_need_a_data_set_with_folders(folders):
    with pytest.raises(ArgumentError, match="weights: expected a data set with folders, got list"):
        training_loader([1, 2], batch_size=1, num_workers=0, seed=0, weights=[1, 2])


def test_a_missing_folder_of_a_list_names_its_places(folders, file):
    with pytest.raises(ValueError, match=r"dataroot_gt\.1: nowhere: no such folder") as caught:
        batches(file, f"datasets.train.dataroot_gt=[{folders}/a/gt, nowhere]")
    assert "'nowhere' was looked up in" in str(caught.value)
