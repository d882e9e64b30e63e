"""The banks of negatives: Eq. 1, their beginning, their pace, their state."""

import numpy as np
import pytest
import torch

from mcir.models import AdaptiveHistoryNegatives, HistoryNegatives
from mcir.registry import ARCHS, NEGATIVES
from tests.models.conftest import NETWORK


def network(seed=1):
    torch.manual_seed(seed)
    return ARCHS.build(NETWORK)


def vector(module):
    return torch.nn.utils.parameters_to_vector(module.parameters()).detach()


def stream(seed, number):
    return int(np.random.SeedSequence(seed, spawn_key=(number,)).generate_state(1)[0])


def walk(net, distance):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(distance)


def test_members_follow_equation_1_at_their_own_pace():
    net = network()
    bank = HistoryNegatives(net, weight=[0.1, 0.5, 0.9], steps=[1, 2, 5], start=0.3)
    expected = [vector(member) for member in bank.members]
    image = torch.rand(1, 3, 4, 4)
    for iteration in range(1, 11):
        walk(net, 0.01 * iteration)
        bank.update(net, iteration, image, image)
        for number, (weight, step) in enumerate(zip([0.1, 0.5, 0.9], [1, 2, 5], strict=True)):
            if iteration % step == 0:
                expected[number] = weight * expected[number] + (1 - weight) * vector(net)
        for member, value in zip(bank.members, expected, strict=True):
            torch.testing.assert_close(vector(member), value)
    assert bank.updates.tolist() == [10, 5, 2]


def test_the_beginning_mixes_a_random_network_drawn_from_the_seed_alone():
    net = network()
    bank = HistoryNegatives(net, steps=[1, 2], start=0.25, seed=7)
    torch.manual_seed(99)  # the global generator plays no part …
    state = torch.get_rng_state()
    again = HistoryNegatives(net, steps=[1, 2], start=0.25, seed=7)
    assert torch.equal(torch.get_rng_state(), state)  # … and is left alone
    for number, (member, same) in enumerate(zip(bank.members, again.members, strict=True)):
        assert torch.equal(vector(member), vector(same))
        torch.testing.assert_close(vector(member), 0.25 * vector(network(stream(7, number))) + 0.75 * vector(net))
    other = HistoryNegatives(net, steps=[1, 2], start=0.25, seed=8)
    assert not torch.equal(vector(other.members[0]), vector(bank.members[0]))


def test_start_0_begins_at_the_network_itself():
    net = network()
    assert torch.equal(vector(HistoryNegatives(net, start=0.0).members[3]), vector(net))


def test_outputs_are_the_members_outputs_without_graph():
    net = network()
    bank = HistoryNegatives(net, steps=[1, 2])
    lq, gt = torch.rand(2, 3, 5, 6, requires_grad=True), torch.rand(2, 3, 10, 12)
    outputs = bank(lq, gt)
    assert outputs.shape == (2, 2, 3, 10, 12)
    assert not outputs.requires_grad
    for output, member in zip(outputs, bank.members, strict=True):
        torch.testing.assert_close(output, member.network(lq).detach())


def test_the_state_holds_everything():
    net = network()
    bank = HistoryNegatives(net, steps=[1, 2], seed=1)
    walk(net, 0.1)
    bank.update(net, 2, torch.zeros(1), torch.zeros(1))
    other = HistoryNegatives(net, steps=[1, 2], seed=2)
    other.load_state_dict(bank.state_dict())
    assert other.updates.tolist() == [1, 1]
    assert torch.equal(vector(other), vector(bank))


def test_adaptive_members_are_renewed_in_turn_only_when_the_output_strays():
    net = network()
    bank = AdaptiveHistoryNegatives(net, members=2, threshold=0.022, decay=0.25)
    gt = torch.rand(3, 3, 8, 8)
    before = [vector(member) for member in bank.members]
    walk(net, 0.5)
    bank.update(net, 1, gt + 0.3, gt)  # a constant offset has no deviation
    assert bank.updates.tolist() == [0, 0]
    noise = torch.randn(3, 3, 8, 8)
    bank.update(net, 2, gt + 0.010 * noise, gt)  # std(2·0.010·n) ≈ 0.020
    assert bank.updates.tolist() == [0, 0]
    for turn, counts in enumerate([[1, 0], [1, 1], [2, 1]]):
        bank.update(net, 3 + turn, gt + 0.013 * noise, gt)  # ≈ 0.026
        assert bank.updates.tolist() == counts
    torch.testing.assert_close(vector(bank.members[1]), 0.25 * before[1] + 0.75 * vector(net))


def test_adaptive_negatives_ask_all_processes():
    net = network()
    bank = AdaptiveHistoryNegatives(net, members=1)
    bank.mean_over_ranks = lambda value: torch.zeros_like(value)  # the others see no deviation at all
    gt = torch.rand(1, 3, 8, 8)
    bank.update(net, 1, gt + torch.randn_like(gt), gt)
    assert bank.updates.tolist() == [0]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"steps": []}, "at least one"),
        ({"steps": [100, 0]}, "at least 1"),
        ({"weight": [0.1, 0.2], "steps": [1, 2, 3]}, "3 steps need one weight or 3, not 2"),
        ({"weight": 1.5}, "between 0 and 1"),
        ({"start": float("nan")}, "between 0 and 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(section, message):
    with pytest.raises(ValueError, match=message):
        NEGATIVES.build({"type": "HistoryNegatives", **section}, network())


def test_a_network_that_cannot_be_rebuilt_is_named():
    with pytest.raises(ValueError, match=r"Conv2d does not keep its arguments.*start: 0"):
        HistoryNegatives(torch.nn.Conv2d(3, 3, 1))
