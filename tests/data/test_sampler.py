"""Tests of the order of samples."""

import copy
import pickle
from itertools import chain, islice

import numpy as np
import pytest

from mcir.data.sampler import EndlessBatches, SampleIndex, permutation


def take(count, *arguments, **keywords):
    return list(islice(EndlessBatches(*arguments, **keywords), count))


def parts(sample):
    return sample.index, sample.position, sample.seed


def all_parts(batches):
    return [[parts(sample) for sample in batch] for batch in batches]


def test_every_epoch_has_every_index_once_in_another_order():
    samples = [sample for batch in take(20, 10, 4, 7) for sample in batch]
    epochs = [[sample.index for sample in samples[10 * epoch : 10 * epoch + 10]] for epoch in range(8)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert [sample.position for sample in samples] == list(range(80))
    assert {sample.seed for sample in samples} == {7}


@pytest.mark.parametrize("start", [0, 1, 3, 1_000_000_007])
def test_a_later_start_continues_the_stream(start):
    if start < 10:
        assert all_parts(take(6, 7, 3, 5, start=start)) == all_parts(take(6 + start, 7, 3, 5)[start:])
    else:
        positions = [sample.position for sample in take(1, 7, 3, 5, start=start)[0]]
        assert positions == [3 * start, 3 * start + 1, 3 * start + 2]


@pytest.mark.parametrize("world", [2, 3, 6])
def test_ranks_divide_the_same_global_batches(world):
    alone = take(8, 7, 6, 5)
    ranks = [take(8, 7, 6 // world, 5, rank, world) for rank in range(world)]
    assert all_parts([list(chain(*batches)) for batches in zip(*ranks, strict=True)]) == all_parts(alone)


def test_other_seeds_give_other_orders():
    assert take(3, 50, 8, 1) != take(3, 50, 8, 2)


def test_the_order_does_not_change_between_versions():
    assert permutation(8, 0, 0).tolist() == permutation.__wrapped__(8, 0, 0).tolist()
    expected = np.random.default_rng(np.random.SeedSequence(3, spawn_key=(2,))).permutation(20)
    assert permutation(20, 3, 2).tolist() == expected.tolist()


def test_seed_and_position_determine_the_generator():
    assert parts(SampleIndex.of(5)) == (5, 5, 0)
    assert parts(SampleIndex.of(SampleIndex(1, 2, 3))) == (1, 2, 3)
    numbers = [SampleIndex(0, position, seed).generator().random() for position in range(3) for seed in range(3)]
    assert len(set(numbers)) == 9
    assert SampleIndex(0, 2, 1).generator().random() == SampleIndex(9, 2, 1).generator().random()


def test_a_sample_index_is_an_integer_that_can_be_copied_and_sent():
    sample = SampleIndex(2, 7, 3)
    assert isinstance(sample, int) and ["a", "b", "c"][sample] == "c" and sample == 2
    for copied in (pickle.loads(pickle.dumps(sample)), copy.deepcopy(sample)):
        assert parts(copied) == (2, 7, 3) and isinstance(copied, SampleIndex)
