"""Match weights with the state dict of a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from mcir.network_spec import derived_buffer_names


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor by its key."""
    return {key: tuple(value.shape) for key, value in tensors.items()}


def derived_keys(network: nn.Module, weights: Iterable[str] = ()) -> set[str]:
    """Return the keys of the buffers that the network computes itself, both in its state dict and in ``weights``."""
    derived = derived_buffer_names(network)
    return {key for key in (*network.state_dict(), *weights) if key.rpartition(".")[2] in derived}


def match_state_dict(network: nn.Module, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights that a network can load, and a sorted list of mismatches as lines of text.

    Buffers that the network computes itself (``NetworkSpec.derived_buffers``) keep their values and never mismatch.
    """
    own, derived = network.state_dict(), derived_keys(network, weights)
    expected = {key: shape for key, shape in shapes_of(own).items() if key not in derived}
    stored = {key: shape for key, shape in shapes_of(weights).items() if key not in derived}
    mismatches = [f"{key} (missing in the file)" for key in expected.keys() - stored.keys()]
    mismatches += [f"{key} (not in the network)" for key in stored.keys() - expected.keys()]
    mismatches += [
        f"{key} (expected {expected[key]}, got {stored[key]})"
        for key in expected.keys() & stored.keys()
        if expected[key] != stored[key]
    ]
    computed = {key: own[key] for key in derived & own.keys()}
    matching = {key: weights[key] for key, shape in stored.items() if expected.get(key) == shape}
    return {**computed, **matching}, sorted(mismatches)
