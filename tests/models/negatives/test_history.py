"""Moving averages of the network: Eq. 1, initial members, adaptive updates, sampled members."""

import itertools

import numpy as np
import pytest
import torch

from mcir.errors import ArgumentError
from mcir.models import AdaptiveHistoryNegatives, HistoryNegatives
from mcir.models.negatives.base import child_seed
from mcir.registry import LOSSES, NEGATIVES
from tests.losses.fake_communicator import FakeCommunicator
from tests.models.conftest import SPN
from tests.models.negatives.contract import make_network, shift, to_vector


def test_members_follow_equation_1_at_their_own_interval():
    net = make_network()
    negatives = HistoryNegatives(net, weight=[0.1, 0.5, 0.9], steps=[1, 2, 5], start=0.3)
    expected = [to_vector(member) for member in negatives.members]
    image = torch.rand(1, 3, 4, 4)
    for iteration in range(1, 11):
        shift(net, 0.01 * iteration)
        negatives.update(net, iteration, image, image)
        for number, (weight, step) in enumerate(zip([0.1, 0.5, 0.9], [1, 2, 5], strict=True)):
            if iteration % step == 0:
                expected[number] = weight * expected[number] + (1 - weight) * to_vector(net)
        for member, value in zip(negatives.members, expected, strict=True):
            torch.testing.assert_close(to_vector(member), value)
    assert negatives.updates.tolist() == [10, 5, 2]


def test_initial_members_contain_a_random_network_from_the_seed():
    net = make_network()
    negatives = HistoryNegatives(net, steps=[1, 2], start=0.25, seed=7)
    torch.manual_seed(99)  # the global generator is not used
    state = torch.get_rng_state()
    again = HistoryNegatives(net, steps=[1, 2], start=0.25, seed=7)
    assert torch.equal(torch.get_rng_state(), state)  # and does not change
    for number, (member, same) in enumerate(zip(negatives.members, again.members, strict=True)):
        assert torch.equal(to_vector(member), to_vector(same))
        torch.testing.assert_close(
            to_vector(member), 0.25 * to_vector(make_network(child_seed(7, number))) + 0.75 * to_vector(net)
        )
    other = HistoryNegatives(net, steps=[1, 2], start=0.25, seed=8)
    assert not torch.equal(to_vector(other.members[0]), to_vector(negatives.members[0]))


def test_start_0_copies_the_network():
    net = make_network()
    assert torch.equal(to_vector(HistoryNegatives(net, start=0.0).members[3]), to_vector(net))


def test_the_state_includes_the_number_of_updates():
    net = make_network()
    negatives = HistoryNegatives(net, steps=[1, 2], seed=1)
    shift(net, 0.1)
    negatives.update(net, 2, torch.zeros(1), torch.zeros(1))
    other = HistoryNegatives(net, steps=[1, 2], seed=2)
    other.load_state_dict(negatives.state_dict())
    assert other.updates.tolist() == [1, 1]
    assert torch.equal(to_vector(other), to_vector(negatives))


def test_adaptive_members_are_updated_in_turn_only_if_the_output_deviates():
    net = make_network()
    negatives = AdaptiveHistoryNegatives(net, members=2, threshold=0.022, decay=0.25)
    gt = torch.rand(3, 3, 8, 8)
    before = [to_vector(member) for member in negatives.members]
    shift(net, 0.5)
    negatives.update_before_step(net, gt + 0.3, gt)  # a constant offset has no deviation
    assert negatives.updates.tolist() == [0, 0]
    noise = torch.randn(3, 3, 8, 8)
    negatives.update_before_step(net, gt + 0.010 * noise, gt)  # std(2·0.010·n) ≈ 0.020
    assert negatives.updates.tolist() == [0, 0]
    for counts in ([1, 0], [1, 1], [2, 1]):
        negatives.update_before_step(net, gt + 0.013 * noise, gt)  # ≈ 0.026
        assert negatives.updates.tolist() == counts
    torch.testing.assert_close(to_vector(negatives.members[1]), 0.25 * before[1] + 0.75 * to_vector(net))


def test_adaptive_negatives_use_the_mean_over_all_processes():
    net = make_network()
    negatives = AdaptiveHistoryNegatives(net, members=1)
    negatives.communicator = FakeCommunicator(torch.zeros_like)  # the mean over all processes is 0
    gt = torch.rand(1, 3, 8, 8)
    negatives.update_before_step(net, gt + torch.randn_like(gt), gt)
    assert negatives.updates.tolist() == [0]


def test_adaptive_negatives_reject_a_step_without_the_update_before_it():
    net, image = make_network(), torch.rand(1, 3, 8, 8)
    negatives = AdaptiveHistoryNegatives(net)
    negatives.update_before_step(net, image, image)
    negatives.update(net, 1)
    with pytest.raises(ValueError, match=r"update_before_step\(network, output, gt\) before .* iteration 2, got none"):
        negatives.update(net, 2, image, image)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("HistoryNegatives", {"steps": []}, r"steps: expected a list of 1 to 64 values, got \[\]"),
        ("HistoryNegatives", {"steps": [100, 0]}, "steps.1: expected an integer ≥ 1, got 0"),
        ("HistoryNegatives", {"weight": [0.1, 0.2], "steps": [1, 2, 3]}, "one for each of the 3 steps, got 2"),
        ("HistoryNegatives", {"weight": 1.5}, r"weight: expected a number in \[0, 1\], got 1.5"),
        ("HistoryNegatives", {"start": float("nan")}, r"start: expected a number in \[0, 1\]"),
        ("HistoryNegatives", {"sample": 0}, "sample: expected an integer ≥ 1"),
        ("HistoryNegatives", {"steps": [1, 2], "sample": 3}, "sample: expected an integer from 1 to 2"),
        ("AdaptiveHistoryNegatives", {"members": 0}, "members: expected an integer from 1 to 64"),
        ("AdaptiveHistoryNegatives", {"threshold": float("inf")}, "threshold: expected a number in"),
        ("AdaptiveHistoryNegatives", {"threshold": float("nan")}, "threshold: expected a number in"),
        ("AdaptiveHistoryNegatives", {"decay": -0.1}, "decay: expected a number"),
    ],
)
def test_invalid_arguments_are_rejected(kind, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        NEGATIVES.build({"type": kind, **arguments}, make_network())


def test_an_unregistered_network_is_rejected():
    with pytest.raises(ValueError, match=r"like Conv2d cannot be built.*start: 0"):
        HistoryNegatives(torch.nn.Conv2d(3, 3, 1))


def test_the_cost_of_an_adaptive_update_can_be_estimated():
    with torch.device("meta"):
        negatives = AdaptiveHistoryNegatives(make_network())
    images = torch.rand(2, 3, 16, 16, device="meta")
    negatives.update_before_step(make_network().to("meta"), images, images)


# -- sampled members --------------------------------------------------------------------------------------------------


def samples(negatives, iterations):
    """Return the members that are evaluated in iterations 1, 2, …"""
    net, image = make_network(), torch.zeros(1)
    seen = []
    for iteration in range(1, iterations + 1):
        seen.append(tuple(negatives.active_members()))
        negatives.update(net, iteration, image, image)
    return seen


@pytest.mark.parametrize("sample", [1, 2, 3])
def test_only_the_sampled_members_are_evaluated(sample):
    net = make_network()
    negatives = HistoryNegatives(net, steps=[1, 2, 3], sample=sample)
    lq, gt = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8)
    calls = []
    for number, member in enumerate(negatives.members):
        member.register_forward_hook(lambda *_, number=number: calls.append(number))
    for iteration in range(1, 6):
        calls.clear()
        outputs = negatives(lq, gt)
        assert calls == negatives.active_members() == sorted(set(calls)) and len(calls) == sample
        expected = torch.stack(
            [negatives.members[number].network(lq).detach() for number in negatives.active_members()]
        )
        torch.testing.assert_close(outputs, expected)
        negatives.update(net, iteration, lq, gt)
    assert negatives.updates.tolist() == [5, 2, 1]  # all members are updated


def test_the_sample_depends_only_on_seed_and_iteration():
    net = make_network()
    sections = {"steps": [10, 20, 30, 40], "sample": 2}
    one, other = HistoryNegatives(net, seed=3, **sections), HistoryNegatives(make_network(2), seed=3, **sections)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 (the global generator must not matter)
    first = samples(one, 60)
    assert samples(other, 60) == first
    assert samples(HistoryNegatives(net, seed=4, **sections), 60) != first
    one.active_members()
    assert one.active_members() == one.active_members()  # the call changes no state


def test_every_subset_has_the_same_probability():
    seen = samples(HistoryNegatives(make_network(), steps=list(range(10**6, 10**6 + 4)), sample=2), 1200)
    counts = np.array([seen.count(subset) for subset in itertools.combinations(range(4), 2)])
    assert counts.sum() == 1200
    assert ((counts - 200) ** 2 / 200).sum() < 20.5  # χ² with 5 degrees of freedom: p = 0.001


@pytest.mark.parametrize("sample", [1, 2, 3, 4])
def test_the_mean_over_all_samples_is_the_loss_of_equation_3(sample, monkeypatch):
    """The same holds for the gradient. The variance is (1/k − 1/N)·S²."""
    loss = LOSSES.build({**SPN, "seed": 1}).double()
    negatives = HistoryNegatives(make_network().double(), steps=[1, 2, 3, 4], start=0.5, sample=sample)
    lq, gt = torch.rand(2, 3, 8, 8).double(), torch.rand(2, 3, 16, 16).double()

    def value_and_gradient(subset):
        monkeypatch.setattr(negatives, "active_members", lambda: list(subset))
        output = gt.clone().requires_grad_()
        value = loss(output, negatives(lq, gt), negatives.positives(gt))
        value.backward()
        return value.detach(), output.grad

    whole, gradient = value_and_gradient(range(4))
    values, gradients = zip(*map(value_and_gradient, itertools.combinations(range(4), sample)), strict=True)
    torch.testing.assert_close(torch.stack(values).mean(), whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.stack(gradients).mean(0), gradient, rtol=1e-9, atol=1e-18)
    single = torch.stack([value_and_gradient([number])[0] for number in range(4)])
    expected = (1 / sample - 1 / 4) * single.var(unbiased=True)
    torch.testing.assert_close(torch.stack(values).var(unbiased=False), expected, rtol=1e-6, atol=1e-20)


def test_a_resumed_run_continues_the_sequence_of_samples():
    net, image = make_network(), torch.zeros(1)
    through = HistoryNegatives(net, steps=[5, 6, 7, 8, 9, 10], sample=2, seed=8)
    expected = samples(through, 20)
    stopped = HistoryNegatives(net, steps=[5, 6, 7, 8, 9, 10], sample=2, seed=8)
    assert samples(stopped, 9) == expected[:9]
    resumed = HistoryNegatives(net, steps=[5, 6, 7, 8, 9, 10], sample=2, seed=8)
    resumed.load_state_dict(stopped.state_dict())
    for iteration in range(10, 21):
        assert tuple(resumed.active_members()) == expected[iteration - 1]
        resumed.update(net, iteration, image, image)
    resumed.start_from(net)
    assert tuple(resumed.active_members()) == expected[0]


def test_without_sample_the_state_has_no_step_counter():
    keys = HistoryNegatives(make_network(), steps=[1]).state_dict().keys()
    assert not [key for key in keys if "clock" in key]
