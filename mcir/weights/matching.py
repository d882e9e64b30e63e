"""Match weights with the state dict of a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from mcir.network_spec import derived_buffer_names
from mcir.weights.keys import is_average, parts_of


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor by its key."""
    return {key: tuple(value.shape) for key, value in tensors.items()}


def derived_keys(network: nn.Module, weights: Iterable[str] = ()) -> set[str]:
    """Return the keys of buffers that a network computes itself, both in its state dict and in ``weights``."""
    derived = derived_buffer_names(network)
    return {key for key in (*network.state_dict(), *weights) if key.rpartition(".")[2] in derived}


def match_state_dict(network: nn.Module, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights that a network can load, and a sorted list of mismatches as lines of text.

    Buffers that the network computes itself (``NetworkSpec.derived_buffers``) keep their values and never mismatch. If
    a part of the weights has all keys and shapes of the network after a prefix, such as ``model.``, it is returned
    without this prefix.
    """
    own = network.state_dict()
    _, weights = matching_part(network, weights)
    derived = derived_keys(network, weights)
    expected = {key: _form(value) for key, value in own.items() if key not in derived}
    stored = {key: _form(value) for key, value in weights.items() if key not in derived}
    mismatches = [f"{key} (missing in the file)" for key in expected.keys() - stored.keys()]
    mismatches += [f"{key} (not in the network)" for key in stored.keys() - expected.keys()]
    mismatches += [
        f"{key} (expected {expected[key]}, got {stored[key]})"
        for key in expected.keys() & stored.keys()
        if expected[key] != stored[key]
    ]
    computed = {key: own[key] for key in derived & own.keys()}
    matching = {key: weights[key] for key, form in stored.items() if expected.get(key) == form}
    return {**computed, **matching}, sorted(mismatches)


def _form(tensor: Tensor) -> str:
    """Return the shape of a tensor as text, and its dtype if its values are complex."""
    return f"{tuple(tensor.shape)}{f' {tensor.dtype}' if tensor.is_complex() else ''}"


def matching_part(network: nn.Module, weights: Mapping[str, Tensor]) -> tuple[str, Mapping[str, Tensor]]:
    """Return the part of the weights that has all keys and shapes of a network, and the prefix removed from its keys.

    If several parts do, the moving average is returned; if none does, all weights, without their common prefix if more
    keys match then.
    """
    derived = derived_keys(network)
    expected = {key: shape for key, shape in shapes_of(network.state_dict()).items() if key not in derived}

    def matches(part: Mapping[str, Tensor]) -> int:
        return sum(key in part and tuple(part[key].shape) == shape for key, shape in expected.items())

    if matches(weights) == len(expected):
        return "", weights
    parts = [(prefix, part, matches(part)) for prefix, part in parts_of(weights)]
    complete = [(prefix, part) for prefix, part, count in parts if count == len(expected)]
    averages = [(prefix, part) for prefix, part in complete if is_average(prefix)]
    if len(found := averages or complete) == 1:
        return found[0]
    whole = [each for each in parts if len(each[1]) == len(parts[0][1])]
    return max(whole, key=lambda each: each[2])[:2]
