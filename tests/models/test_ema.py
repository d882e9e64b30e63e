"""Moving averages against the formula, tensor by tensor."""

import pytest
import torch
from torch import nn

from mcir.models import EMA
from mcir.network_spec import NetworkSpec


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))


@pytest.mark.parametrize("decay", [0.0, 0.1, 0.999, 1.0])
def test_parameters_follow_the_formula_and_buffers_are_copied(decay):
    net, start = network(), network()
    net(torch.rand(2, 3, 8, 8))  # updates the running statistics
    average = EMA(start)
    average.update(net, decay)
    for mean, old, new in zip(average.network.parameters(), start.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(mean.detach(), decay * old.detach() + (1 - decay) * new.detach())
    for mean, new in zip(average.network.buffers(), net.buffers(), strict=True):
        assert torch.equal(mean, new)


def test_the_average_is_a_frozen_copy_in_evaluation_mode():
    net = network()
    average = EMA(net).train()
    assert not any(module.training for module in average.modules())
    assert not any(parameter.requires_grad for parameter in average.parameters())
    before = average.network[0].weight.clone()
    with torch.no_grad():
        net[0].weight.add_(1)
    assert torch.equal(average.network[0].weight, before)
    assert net[0].weight.requires_grad


def test_derived_buffers_are_not_copied():
    net = nn.Sequential(nn.BatchNorm2d(3))
    net.spec = NetworkSpec(derived_buffers=("running_var",))
    average = EMA(net)
    net(torch.rand(2, 3, 8, 8))
    average.update(net, 0.5)
    assert torch.equal(average.network[0].running_mean, net[0].running_mean)
    assert torch.equal(average.network[0].running_var, torch.ones(3))


def test_tied_parameters_are_averaged_once():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    average = EMA(net)
    before = average.network[0].weight.clone()
    with torch.no_grad():
        net[0].weight.add_(1)
    average.update(net, 0.5)
    torch.testing.assert_close(average.network[1].weight, before + 0.5)
