"""Tests of training batches and their stages."""

import os
from itertools import islice

import cv2
import numpy as np
import pytest
import torch

from mcir.config import DatasetOptions, OptionError, Stage, load
from mcir.data.sampler import permutation
from mcir.engine.batches import TrainBatches, loaded_ahead
from tests.engine.conftest import options


class OneOf:
    """The attributes of a DistContext that batches need."""

    device = torch.device("cpu")

    def __init__(self, rank=0, world_size=1):
        self.rank, self.world_size = rank, world_size


@pytest.fixture
def training_set(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(5):
        cv2.imwrite(str(tmp_path / f"{index}.png"), rng.integers(0, 256, (40, 44, 3), np.uint8))
    section = {
        "type": "PairedImageDataset",
        "dataroot_gt": str(tmp_path),
        "degradation": {"type": "BicubicDown"},
        "scale": 2,
        "gt_size": 8,
        "use_hflip": True,
    }
    return DatasetOptions(
        name="train",
        section=section,
        batch_size_per_gpu=4,
        progressive=(
            Stage(start=3, gt_size=16, batch_size_per_gpu=2),
            Stage(start=5, gt_size=32, batch_size_per_gpu=1),
        ),
    )


def batches(options, start, count, dist=None):
    return list(islice(TrainBatches(options, 7, dist or OneOf()).iterate(start), count))


def test_crops_and_batches_change_at_the_start_of_a_stage(training_set):
    shapes = [tuple(batch["gt"].shape) for batch in batches(training_set, 0, 7)]
    assert shapes == 3 * [(4, 3, 8, 8)] + 2 * [(2, 3, 16, 16)] + 2 * [(1, 3, 32, 32)]


def test_a_stage_continues_the_order_of_the_images(training_set):
    seen = [name for batch in batches(training_set, 0, 8) for name in batch["gt_path"]]
    order = [int(index) for epoch in range(4) for index in permutation(5, 7, epoch)]
    assert [int(os.path.basename(name)[0]) for name in seen] == order[: len(seen)]


@pytest.mark.parametrize("start", [1, 3, 4, 5, 6])
def test_batches_are_the_same_after_resuming_at_any_iteration(training_set, start):
    for one, other in zip(batches(training_set, 0, 8)[start:], batches(training_set, start, 8 - start), strict=True):
        assert torch.equal(one["lq"], other["lq"])
        assert torch.equal(one["gt"], other["gt"])


def test_processes_share_a_batch(training_set):
    half = training_set.model_copy(
        update={"batch_size_per_gpu": 2, "progressive": (Stage(start=3, gt_size=16, batch_size_per_gpu=1),)}
    )
    alone = batches(training_set, 0, 5)
    parts = [batches(half, 0, 5, OneOf(rank, 2)) for rank in (0, 1)]
    for whole, *shares in zip(alone, *parts, strict=True):
        assert torch.equal(whole["gt"], torch.cat([share["gt"] for share in shares]))


def test_an_image_smaller_than_the_crop_of_a_later_stage_is_rejected(training_set):
    large = training_set.model_copy(update={"progressive": (Stage(start=3, gt_size=64, batch_size_per_gpu=1),)})
    with pytest.raises(ValueError, match="smaller than the crop of 64"):
        TrainBatches(large, 0, OneOf())


def write(folder, progressive):
    import yaml

    tree = options(folder)
    (folder / "pictures").mkdir()
    cv2.imwrite(str(folder / "pictures" / "0.png"), np.zeros((40, 44, 3), np.uint8))
    tree["datasets"]["train"]["progressive"] = progressive
    (folder / "x.yml").write_text(yaml.safe_dump(tree))
    return folder / "x.yml"


def test_stages_are_read_from_an_option_file_and_dumped(tmp_path):
    stage = {"start": 6, "gt_size": 32, "batch_size_per_gpu": 2}
    read = load(write(tmp_path, [stage]))
    assert read.datasets.train.progressive == (Stage(**stage),)
    (tmp_path / "again.yml").write_text(read.dump())
    assert load(tmp_path / "again.yml") == read


@pytest.mark.parametrize(
    ("progressive", "message"),
    [
        ({"start": 6}, "datasets.train.progressive: expected a list of mappings"),
        ([{"start": 6, "gt_size": 32}], r"progressive.0: A stage requires 'batch_size_per_gpu', an integer"),
        (
            [{"start": 6, "gtsize": 32, "batch_size_per_gpu": 1}],
            "A stage has no option 'gtsize'",
        ),
        ([{"start": 0, "gt_size": 32, "batch_size_per_gpu": 1}], r"progressive.0.start: expected an integer"),
        (
            [{"start": start, "gt_size": 32, "batch_size_per_gpu": 1} for start in (6, 3)],
            r"expected stages in the order of their starts, got \[6, 3\]",
        ),
    ],
)
def test_errors_in_stages_name_their_key(tmp_path, progressive, message):
    with pytest.raises(OptionError, match=message):
        load(write(tmp_path, progressive))


@pytest.mark.parametrize(
    ("size", "line", "key", "message"),
    [
        (31, 3, "progressive.0.gt_size", "gt_size: expected .*, got 31"),
        (64, 2, "progressive.0", "smaller than the crop of 64"),
    ],
)
def test_errors_in_a_stage_have_its_location(tmp_path, size, line, key, message):
    file = write(tmp_path, [{"start": 6, "gt_size": size, "batch_size_per_gpu": 2}])
    line += file.read_text().splitlines().index("    progressive:")
    read = load(file)
    with pytest.raises(ValueError, match=message) as caught:
        TrainBatches(read.datasets.train, 0, OneOf(), where=read.where("datasets", "train"))
    assert str(caught.value).startswith(f"{file}:{line}: datasets.train.{key}: ")


def test_batches_are_loaded_ahead_until_one_fails():
    loaded, failures = [], []

    def load():
        for number in range(1, 6):
            if number == 5:
                raise OSError("batch 5 is damaged")
            loaded.append(number)
            yield {"number": number}

    batches = loaded_ahead(load(), 2, failures.append)
    assert (next(batches)["number"], loaded, failures) == (1, [1, 2, 3], [])
    assert (next(batches)["number"], loaded, failures) == (2, [1, 2, 3, 4], [])
    assert next(batches)["number"] == 3
    assert [str(error) for error in failures] == ["batch 5 is damaged"]
    assert next(batches)["number"] == 4
    with pytest.raises(OSError, match="batch 5"):
        next(batches)
