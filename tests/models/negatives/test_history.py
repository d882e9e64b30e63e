"""The network's own past: Eq. 1, their beginning, their pace, their state, and the draw of some members."""

import itertools

import numpy as np
import pytest
import torch

from mcir.models import AdaptiveHistoryNegatives, HistoryNegatives
from mcir.registry import ARCHS, LOSSES, NEGATIVES
from tests.losses.fake_communicator import OtherRanks
from tests.models.conftest import NETWORK, SPN


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
    bank.communicator = OtherRanks(torch.zeros_like)  # the others see no deviation at all
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
        ({"sample": 0}, "1 to 4, not 0"),
        ({"steps": [1, 2], "sample": 3}, "how many of the 2 members"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(section, message):
    with pytest.raises(ValueError, match=message):
        NEGATIVES.build({"type": "HistoryNegatives", **section}, network())


@pytest.mark.parametrize("threshold", [-1.0, float("inf"), float("nan")])
def test_a_threshold_that_nothing_can_exceed_or_fail_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold is a finite number from 0 on"):
        AdaptiveHistoryNegatives(network(), threshold=threshold)


def test_a_network_that_cannot_be_rebuilt_is_named():
    with pytest.raises(ValueError, match=r"Conv2d does not keep its arguments.*start: 0"):
        HistoryNegatives(torch.nn.Conv2d(3, 3, 1))


# -- sample: k of the N members --------------------------------------------------------------------------------------


def drawn(bank, iterations):
    """Return the members that are evaluated at each of the iterations 1, 2, …"""
    net, image = network(), torch.zeros(1)
    seen = []
    for iteration in range(1, iterations + 1):
        seen.append(tuple(bank.chosen()))
        bank.update(net, iteration, image, image)
    return seen


@pytest.mark.parametrize("sample", [1, 2, 3])
def test_only_the_drawn_members_are_evaluated_without_repetition(sample):
    net = network()
    bank = HistoryNegatives(net, steps=[1, 2, 3], sample=sample)
    lq, gt = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8)
    calls = []
    for number, member in enumerate(bank.members):
        member.register_forward_hook(lambda *_, number=number: calls.append(number))
    for iteration in range(1, 6):
        calls.clear()
        outputs = bank(lq, gt)
        assert calls == bank.chosen() == sorted(set(calls)) and len(calls) == sample
        expected = torch.stack([bank.members[number].network(lq).detach() for number in bank.chosen()])
        torch.testing.assert_close(outputs, expected)
        bank.update(net, iteration, lq, gt)
    assert bank.updates.tolist() == [5, 2, 1]  # who was not drawn is updated as ever


def test_the_draw_is_a_function_of_seed_and_iteration_alone():
    net = network()
    sections = {"steps": [10, 20, 30, 40], "sample": 2}
    one, other = HistoryNegatives(net, seed=3, **sections), HistoryNegatives(network(2), seed=3, **sections)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 (the global generator is what must not matter)
    first = drawn(one, 60)
    assert drawn(other, 60) == first
    assert drawn(HistoryNegatives(net, seed=4, **sections), 60) != first
    one.chosen()
    assert one.chosen() == one.chosen()  # asking draws nothing


def test_every_subset_is_drawn_equally_often():
    seen = drawn(HistoryNegatives(network(), steps=[10**6] * 4, sample=2), 1200)
    counts = np.array([seen.count(subset) for subset in itertools.combinations(range(4), 2)])
    assert counts.sum() == 1200
    assert ((counts - 200) ** 2 / 200).sum() < 20.5  # χ² with 5 degrees of freedom: p = 0.001


@pytest.mark.parametrize("sample", [1, 2, 3, 4])
def test_the_mean_over_all_draws_is_the_loss_of_equation_3(sample, monkeypatch):
    """… and so is its gradient; the variance is (1/k − 1/N)·S²."""
    loss = LOSSES.build({**SPN, "seed": 1}).double()
    bank = HistoryNegatives(network().double(), steps=[1, 2, 3, 4], start=0.5, sample=sample)
    lq, gt = torch.rand(2, 3, 8, 8).double(), torch.rand(2, 3, 16, 16).double()

    def value_and_gradient(subset):
        monkeypatch.setattr(bank, "chosen", lambda: list(subset))
        output = gt.clone().requires_grad_()
        value = loss(output, bank(lq, gt), bank.positives(gt))
        value.backward()
        return value.detach(), output.grad

    whole, slope = value_and_gradient(range(4))
    values, slopes = zip(*map(value_and_gradient, itertools.combinations(range(4), sample)), strict=True)
    torch.testing.assert_close(torch.stack(values).mean(), whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.stack(slopes).mean(0), slope, rtol=1e-9, atol=1e-18)
    single = torch.stack([value_and_gradient([number])[0] for number in range(4)])
    expected = (1 / sample - 1 / 4) * single.var(unbiased=True)
    torch.testing.assert_close(torch.stack(values).var(unbiased=False), expected, rtol=1e-6, atol=1e-20)


def test_the_state_says_which_draw_is_next():
    net, image = network(), torch.zeros(1)
    through = HistoryNegatives(net, steps=[5] * 6, sample=2, seed=8)
    expected = drawn(through, 20)
    stopped = HistoryNegatives(net, steps=[5] * 6, sample=2, seed=8)
    assert drawn(stopped, 9) == expected[:9]
    resumed = HistoryNegatives(net, steps=[5] * 6, sample=2, seed=8)
    resumed.load_state_dict(stopped.state_dict())
    for iteration in range(10, 21):
        assert tuple(resumed.chosen()) == expected[iteration - 1]
        resumed.update(net, iteration, image, image)
    resumed.start_from(net)
    assert tuple(resumed.chosen()) == expected[0]


def test_without_sample_the_state_is_what_it_was():
    keys = HistoryNegatives(network(), steps=[1]).state_dict().keys()
    assert not [key for key in keys if "clock" in key]
