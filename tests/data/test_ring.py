"""The way of batches from workers through shared memory."""

import gc
import pickle

import pytest
import torch

from mcir.data import ring as ring_module
from mcir.data.loader import collate
from mcir.data.ring import Ring


class Worker:
    """Stands for what a worker process knows about itself."""

    def __init__(self, number):
        self.id = number


def items(value, size=6, dtype=torch.uint8):
    image = torch.arange(3 * size * size).reshape(3, size, size).add(value).to(dtype)
    return [
        {
            "gt": image,
            "lq": image[:, ::2, ::2].clone(),
            "number": torch.tensor(value),
            "boxes": torch.arange(8.0).view(2, 4) + value,
            "gt_path": f"{value}",
        }
        for _ in range(2)
    ]


def as_worker(monkeypatch, number):
    monkeypatch.setattr(ring_module, "get_worker_info", lambda: None if number is None else Worker(number))


def sent(parcel):
    return pickle.loads(pickle.dumps(parcel))


def test_a_batch_arrives_as_it_was_sent(monkeypatch):
    ring = Ring(collate, 4096, num_workers=2, slots=3)
    for number in (0, 1):
        as_worker(monkeypatch, number)
        parcel = ring(items(number, dtype=torch.float32))
        assert not isinstance(parcel, dict)
        batch, expected = sent(parcel), collate(items(number, dtype=torch.float32))
        assert batch.keys() == expected.keys() and batch["gt_path"] == expected["gt_path"]
        for key in ("gt", "lq"):
            assert torch.equal(batch[key], expected[key]) and batch[key].dtype == expected[key].dtype
            assert batch[key].is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch["boxes"], expected["boxes"]) and batch["boxes"].shape == (2, 2, 4)
        assert batch["boxes"].is_contiguous() and batch["number"].tolist() == [number, number]


def test_slots_are_used_in_turn_and_overwriting_is_noticed(monkeypatch):
    ring = Ring(collate, 4096, num_workers=1, slots=3)
    as_worker(monkeypatch, 0)
    parcels = [ring(items(value)) for value in range(3)]
    assert [sent(parcel)["gt"][0, 0, 0, 0].item() for parcel in parcels] == [0, 1, 2]
    ring(items(3))
    with pytest.raises(AssertionError, match="filled a slot again"):
        sent(parcels[0])


def test_without_room_or_worker_a_batch_goes_the_usual_way(monkeypatch):
    ring = Ring(collate, 100, num_workers=1, slots=3)
    as_worker(monkeypatch, 0)
    assert torch.equal(ring(items(1, size=60))["gt"], collate(items(1, size=60))["gt"])
    as_worker(monkeypatch, None)
    assert torch.equal(ring(items(1))["gt"], collate(items(1))["gt"])


def test_a_ring_goes_with_its_loader():
    gc.collect()  # the rings of loaders that other tests left
    before = len(ring_module._rings)
    ring = Ring(collate, 100, num_workers=1, slots=3)
    assert len(ring_module._rings) == before + 1
    del ring
    gc.collect()
    assert len(ring_module._rings) == before
