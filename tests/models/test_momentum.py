"""Key encoder, queue, and the official momentum schedule."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mcir.communicator import SingleProcess
from mcir.models import MomentumEncoder, Queue
from mcir.models.momentum import momentum_at

GOLDEN = Path(__file__).parents[1] / "golden" / "rcl"


class TwoRanks(SingleProcess):
    """A communicator of the first of two processes. The other process has each tensor with the opposite sign."""

    world_size = 2

    def all_gather(self, value):
        return torch.cat([value, -value])


# -- schedule ---------------------------------------------------------------------------------------------------------


def test_the_momentum_equals_the_official_schedule():
    with np.load(GOLDEN / "pixpro_momentum.npz") as known:
        found = [momentum_at(0.99, int(k), int(known["K"])) for k in known["k"]]
        np.testing.assert_allclose(found, known["momentum"], rtol=0, atol=1e-15)


def test_the_momentum_ends_at_1_or_stays_constant():
    assert momentum_at(0.9, 150, 100) == 1
    assert momentum_at(0.9, 150, 0) == 0.9


# -- key encoder ------------------------------------------------------------------------------------------------------


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    network[1].running_mean += 5
    return network


def test_keys_use_batch_statistics_and_change_no_state(network):
    encoder = MomentumEncoder(network).eval()
    before = copy.deepcopy(encoder.state_dict())
    batch = torch.randn(4, 2, 3, 3)
    keys = encoder(batch)
    assert not keys.requires_grad
    torch.testing.assert_close(keys, network.train()(batch))
    torch.testing.assert_close(keys.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_an_update_averages_parameters_and_copies_running_statistics(network):
    encoder = MomentumEncoder(network)
    before = network[0].weight.detach().clone()
    with torch.no_grad():
        network[0].weight += 1
        network[1].running_mean += 1
    encoder.update(network, decay=0.75)
    torch.testing.assert_close(encoder.network[0].weight, before + 0.25)
    assert torch.equal(encoder.network[1].running_mean, network[1].running_mean)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert network[1].track_running_stats


# -- queue ------------------------------------------------------------------------------------------------------------


def rows(*numbers):
    return torch.tensor([[float(number), 0.0] for number in numbers])


def test_the_initial_keys_depend_on_the_seed():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    queue = Queue(50, 4, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(50))
    assert torch.equal(queue.keys, Queue(50, 4, seed=3).keys)
    assert not torch.equal(queue.keys, Queue(50, 4, seed=4).keys)


def test_the_oldest_keys_are_replaced_first():
    queue = Queue(5, 2)
    last = queue.keys[4].clone()
    queue.enqueue(rows(1, 2, 3, 4))
    assert queue.keys[:4, 0].tolist() == [1, 2, 3, 4] and torch.equal(queue.keys[4], last)
    queue.enqueue(rows(5, 6, 7))
    assert queue.keys[:, 0].tolist() == [6, 7, 3, 4, 5]
    queue.enqueue(rows(8))
    assert queue.keys[:, 0].tolist() == [6, 7, 8, 4, 5]


@pytest.mark.parametrize("count", [5, 7, 12])
def test_the_last_keys_of_a_large_batch_are_used(count):
    queue, one_by_one = Queue(5, 2), Queue(5, 2)
    keys = rows(*range(1, count + 1))
    for each in (queue, one_by_one):
        each.enqueue(rows(-1, -2))
    queue.enqueue(keys)
    for key in keys:
        one_by_one.enqueue(key[None])
    assert torch.equal(queue.keys, one_by_one.keys)
    assert queue.next == one_by_one.next


def test_a_resumed_queue_continues_at_the_same_row():
    queue, other = Queue(5, 2), Queue(5, 2, seed=1)
    queue.enqueue(rows(1, 2, 3))
    other.load_state_dict(copy.deepcopy(queue.state_dict()))
    for each in (queue, other):
        each.enqueue(rows(4, 5, 6))
    assert torch.equal(queue.keys, other.keys) and other.keys[0, 0] == 6


def test_keys_of_all_processes_are_enqueued_in_the_order_of_the_ranks():
    queue = Queue(5, 2)
    queue.communicator = TwoRanks()
    queue.enqueue(rows(1, 2))
    assert queue.keys[:4, 0].tolist() == [1, 2, -1, -2]


def test_keys_have_no_graph():
    queue = Queue(3, 2)
    queue.enqueue(rows(1).requires_grad_())
    assert not queue.keys.requires_grad
