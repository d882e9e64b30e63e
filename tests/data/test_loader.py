"""Tests of loaders: the same batches for any number of workers and ranks and any start; batches on the device."""

import os
import random
import signal
from itertools import chain, islice

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from mcir.data.errors import DataError
from mcir.data.loader import Prefetcher, collate, evaluation_loader, to_device, training_loader
from mcir.data.noisy import NoisyPatchPairs
from mcir.data.paired import PairedImageDataset
from mcir.data.prepare import create_lmdb
from mcir.data.storage import Memory
from tests.data.images import StoredPairs, noise, pairs

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def dataset():
    gt = Memory({f"{index}": noise(40, 52, seed=index) for index in range(7)})
    section = {"type": "Chain", "degradations": [{"type": "BicubicDown"}, {"type": "GaussianNoise", "sigma": 9}]}
    return StoredPairs(gt, degradation=section, scale=2, gt_size=16, use_hflip=True, use_rot=True)


def take(count, *arguments, **keywords):
    return list(islice(training_loader(*arguments, **keywords), count))


def assert_same(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a["lq"], b["lq"]) and torch.equal(a["gt"], b["gt"])
        assert a["lq_path"] == b["lq_path"] and a["gt_path"] == b["gt_path"]


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_and_starts_have_no_effect_on_batches(dataset, workers):
    alone = take(30, dataset, batch_size=4, num_workers=0, seed=3)
    assert_same(take(30, dataset, batch_size=4, num_workers=workers, seed=3), alone)
    assert_same(take(5, dataset, batch_size=4, num_workers=workers, seed=3, start=11), alone[11:16])
    assert len({batch["gt"].numpy().tobytes() for batch in alone}) == 30


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_have_no_effect_on_batches(dataset, world):
    alone = take(6, dataset, batch_size=4, num_workers=0, seed=3, start=2)
    ranks = [
        take(6, dataset, batch_size=4 // world, num_workers=0, seed=3, rank=rank, world_size=world, start=2)
        for rank in range(world)
    ]
    for full, *parts in zip(alone, *ranks, strict=True):
        assert torch.equal(torch.cat([part["lq"] for part in parts]), full["lq"])
        assert list(chain(*(part["gt_path"] for part in parts))) == full["gt_path"]


@pytest.mark.parametrize("codec", ["encoded", "raw"])
def test_databases_can_be_read_in_this_process_and_in_workers(tmp_path, codec):
    pairs(tmp_path, 5)
    for name in ("gt", "lq"):
        create_lmdb(tmp_path / name, tmp_path / f"{name}.lmdb", codec)
    dataset = PairedImageDataset(
        str(tmp_path / "gt.lmdb"), str(tmp_path / "lq.lmdb"), scale=2, gt_size=16, use_hflip=True, use_rot=True
    )
    before = dataset[0]["gt"]
    alone = take(12, dataset, batch_size=3, num_workers=0, seed=1)
    assert_same(take(12, dataset, batch_size=3, num_workers=2, seed=1), alone)
    assert torch.equal(dataset[0]["gt"], before)


def test_spawned_workers_give_the_same_batches(tmp_path, monkeypatch):
    """Workers are spawned on macOS and Windows: the data set is pickled, and each worker opens the database."""
    pairs(tmp_path, 5)
    for name in ("gt", "lq"):
        create_lmdb(tmp_path / name, tmp_path / f"{name}.lmdb", "raw")
    dataset = PairedImageDataset(f"{tmp_path}/gt.lmdb", f"{tmp_path}/lq.lmdb", scale=2, gt_size=16, use_hflip=True)
    expected = take(4, dataset, batch_size=3, num_workers=0, seed=1)
    monkeypatch.setattr("mcir.data.loader.start_method", lambda: "spawn")
    assert_same(take(4, dataset, batch_size=3, num_workers=1, seed=1), expected)


def test_collation_stacks_uint8_images_with_channels_last():
    gt = Memory({f"{index}": noise(20, 20, seed=index) for index in range(4)})
    plain = StoredPairs(gt, gt)
    batch = collate([plain[index] for index in range(4)])
    assert batch["gt"].dtype == torch.uint8
    assert torch.equal(batch["gt"], torch.stack([plain[index]["gt"] for index in range(4)]))
    assert batch["gt"].is_contiguous(memory_format=torch.channels_last)
    assert batch["gt_path"] == ["0", "1", "2", "3"]


def test_images_of_different_sizes_are_reported():
    gt = Memory({"a": noise(8, 8), "b": noise(8, 9)})
    with pytest.raises(DataError, match=r"\(3, 8, 8\).*gt_size"):
        take(1, StoredPairs(gt, gt), batch_size=2, num_workers=0, seed=0)


def test_evaluation_covers_every_image_once(dataset):
    images = Memory({f"{index}": noise(20, 20 + index, seed=index) for index in range(5)})
    plain = StoredPairs(images, images)
    found = {}
    for rank in range(2):
        for batch in evaluation_loader(plain, num_workers=rank, rank=rank, world_size=2):
            (index,) = batch["index"]
            assert index % 2 == rank
            found[index] = batch["gt"]
    assert sorted(found) == list(range(5))
    assert all(torch.equal(image[0], plain[index]["gt"]) for index, image in found.items())
    assert len(evaluation_loader(plain, rank=1, world_size=2)) == 2


def test_more_ranks_than_images():
    gt = Memory({"a": noise(8, 8)})
    loaders = [evaluation_loader(StoredPairs(gt, gt), rank=rank, world_size=3) for rank in range(3)]
    assert [len(list(loader)) for loader in loaders] == [1, 0, 0]


@pytest.mark.parametrize("channels_last", [False, True])
def test_to_device(channels_last):
    image = torch.randint(0, 256, (2, 5, 6, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    deep = torch.rand(2, 3, 5, 6)
    kept = deep.clone()
    several = torch.stack([image, 255 - image], dim=1)
    boxes = torch.arange(16).view(2, 2, 4)
    batch = {"lq": image, "gt": deep, "negatives": several, "boxes": boxes, "gt_path": ["a", "b"]}
    moved = to_device(batch, "cpu", channels_last)
    assert torch.equal(moved["lq"], image.float() / 255)
    assert torch.equal(moved["gt"], kept) and torch.equal(deep, kept)
    order = torch.channels_last if channels_last else torch.contiguous_format
    assert moved["lq"].is_contiguous(memory_format=order) and moved["gt"].is_contiguous(memory_format=order)
    assert torch.equal(moved["negatives"], several.float() / 255)
    assert moved["negatives"].flatten(0, 1).is_contiguous(memory_format=order)
    assert moved["gt_path"] == ["a", "b"]
    assert torch.equal(moved["boxes"], boxes) and moved["boxes"].dtype == torch.int64


def test_the_prefetcher_yields_the_batches_of_its_loader(dataset):
    plain = take(4, dataset, batch_size=2, num_workers=0, seed=0)
    loader = training_loader(dataset, batch_size=2, num_workers=0, seed=0)
    for batch, expected in zip(islice(Prefetcher(loader, "cpu"), 4), plain, strict=True):
        assert torch.equal(batch["gt"], expected["gt"].float() / 255)
        assert torch.equal(batch["lq"], expected["lq"])
    assert list(Prefetcher([], "cpu")) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("workers", [0, 2])
def test_the_prefetcher_yields_the_same_batches_on_cuda(dataset, workers):
    plain = take(6, dataset, batch_size=2, num_workers=0, seed=0)
    loader = training_loader(dataset, batch_size=2, num_workers=workers, seed=0)
    for batch, expected in zip(islice(Prefetcher(loader, "cuda", channels_last=True), 6), plain, strict=True):
        assert batch["gt"].is_cuda and batch["gt"].is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch["gt"].cpu(), to_device(expected, "cuda")["gt"].cpu())
    assert len(list(Prefetcher([{"gt": torch.zeros(1, 3, 2, 2)}] * 3, "cuda"))) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("workers", [0, 2])
def test_boxes_are_moved_to_cuda_with_their_patches(workers):
    pairs_of_patches = NoisyPatchPairs("bundled:val", 32)
    plain = take(4, pairs_of_patches, batch_size=2, num_workers=0, seed=0)
    loader = training_loader(pairs_of_patches, batch_size=2, num_workers=workers, seed=0)
    for batch, expected in zip(islice(Prefetcher(loader, "cuda", channels_last=True), 4), plain, strict=True):
        assert batch["boxes"].is_cuda and torch.equal(batch["boxes"].cpu(), expected["boxes"])
        assert batch["lq"].is_cuda and torch.equal(batch["lq"].cpu(), expected["lq"])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("deep", [False, True])
def test_stored_negatives_stay_with_their_pairs(workers, deep):
    gt = Memory({f"{index}": noise(20, 20, seed=index) for index in range(5)})
    other = Memory(
        {f"{index}": noise(20, 20, seed=9 + index, dtype=np.uint16 if deep else np.uint8) for index in range(5)}
    )
    arguments = {"gt_size": 8, "use_hflip": True, "use_rot": True}
    dataset = StoredPairs(gt, gt, negatives=[gt, other, gt], **arguments)
    alone = StoredPairs(gt, other, **arguments)
    pair = zip(*(take(6, one, batch_size=4, num_workers=workers, seed=3) for one in (dataset, alone)), strict=True)
    for batch, expected in pair:
        batch, expected = to_device(batch, "cpu"), to_device(expected, "cpu")
        assert batch["negatives"].shape == (4, 3, 3, 8, 8) and batch["negatives"].dtype == torch.float32
        assert torch.equal(batch["negatives"][:, 0], batch["gt"]) and torch.equal(batch["negatives"][:, 2], batch["gt"])
        assert torch.equal(batch["negatives"][:, 1], expected["lq"])


class Broken(Dataset):
    """Data set that returns properties of its process, and fails at one position."""

    def __len__(self):
        return 4

    def __getitem__(self, sample):
        if sample.position == 9:
            raise DataError("image 9 is broken")
        facts = {"pid": os.getpid(), "group": os.getpgid(0), "threads": torch.get_num_threads()}
        return {"gt": torch.full((3, 4, 4), sample.position), "interrupt": signal.getsignal(signal.SIGINT), **facts}


def test_workers_have_one_thread_and_their_errors_are_raised():
    loader = iter(training_loader(Broken(), batch_size=1, num_workers=2, seed=0))
    batches = [next(loader) for _ in range(9)]
    assert len({batch["pid"][0] for batch in batches} - {os.getpid()}) == 2
    assert {batch["threads"][0] for batch in batches} == {1}
    assert {batch["interrupt"][0] for batch in batches} == {signal.SIG_IGN}
    assert os.getpgid(0) not in {batch["group"][0] for batch in batches}
    with pytest.raises(DataError, match="image 9 is broken"):
        next(loader)


def test_later_batches_do_not_change_earlier_ones(dataset):
    loader = iter(training_loader(dataset, batch_size=2, num_workers=1, seed=0))
    first = next(loader)
    kept = first["gt"].clone()
    for _ in range(40):
        next(loader)
    assert torch.equal(first["gt"], kept)
    assert np.array_equal(first["gt"].numpy(), take(1, dataset, batch_size=2, num_workers=0, seed=0)[0]["gt"].numpy())


class Drawing(Dataset):
    """Data set as in other frameworks: an integer index, and numbers from the global generators."""

    paths = ("a.png", "b.png", "c.png")

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index: int):
        drawn = [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002
        return {"gt_path": self.paths[index], "drawn": torch.tensor(drawn, dtype=torch.float64)}


def draws(count, **arguments):
    return [
        tuple(row) for batch in take(count, Drawing(), batch_size=2, **arguments) for row in batch["drawn"].tolist()
    ]


def test_data_sets_that_draw_from_the_global_generators_follow_seed_rank_and_position():
    expected = draws(6, num_workers=0, seed=3)
    assert len({number for row in expected for number in row}) == 3 * 12
    assert draws(6, num_workers=2, seed=3) == expected
    assert draws(2, num_workers=1, seed=3, start=4) == expected[8:]
    ranks = [draws(6, num_workers=1, seed=3, rank=rank, world_size=2) for rank in range(2)]
    others = [*expected, *draws(6, num_workers=0, seed=777)]
    assert not set(ranks[0]) & set(ranks[1]) and not set(others[:12]) & set(others[12:])
    assert draws(6, num_workers=0, seed=3) == expected


def test_evaluation_draws_the_same_numbers_every_time():
    seen = [[batch["drawn"].tolist() for batch in evaluation_loader(Drawing(), num_workers=n)] for n in (0, 2, 0)]
    assert seen[0] == seen[1] == seen[2]
