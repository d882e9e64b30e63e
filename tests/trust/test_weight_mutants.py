"""Damaged and hostile weight files: they are read correctly, or rejected by name, within bounded time."""

import random

import pytest
import torch

from mcir.inference.inspection import inspect_weights
from mcir.weights import WeightsError, load_network, non_finite_keys, read_weights
from tests.trust import weight_mutants as mutants
from tests.trust.campaign import Campaign


def use(file):
    """Read, inspect and load a file. Return whether a network that is loaded has the weights of the file."""
    results = []
    for action in (lambda: inspect_weights(file), lambda: load_network(file)):
        try:
            results.append(action())
        except ValueError as error:
            assert isinstance(error, WeightsError) and str(file) in str(error), repr(error)
            assert "weights_only" not in str(error)
            results.append(error)
    inspected, network = results
    if isinstance(network, WeightsError):
        return True
    assert not non_finite_keys(network.state_dict())
    assert inspected[1], inspected
    with torch.no_grad():
        assert network(torch.rand(1, network.spec.in_channels, 16, 16)).dim() == 4
    stored = read_weights(file).tensors
    assert not any(value.is_complex() for value in stored.values())
    return all(torch.equal(value, stored[key].to(value.dtype)) for key, value in network.state_dict().items())


def test_the_files_from_which_mutants_are_made_are_accepted(tmp_path):
    for suffix, data in mutants.intact_files():
        file = tmp_path / f"net{suffix}"
        file.write_bytes(data)
        assert use(file)
        load_network(file)


@pytest.mark.filterwarnings("ignore")  # a warning is not a rejection
@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutants(tmp_path, count):
    seed = 13
    draw, campaign = random.Random(seed), Campaign("weight-file mutants", seed, limit_s=30)
    for number in range(count):
        kind = mutants.KINDS[number % len(mutants.KINDS)]
        suffix, data = kind(draw)
        file = tmp_path / f"net{suffix}"
        file.write_bytes(data)
        campaign.attempt(f"{kind.__name__}, number {number}", lambda file=file: use(file))
    campaign.finish()
