"""Load weights into networks, and build the network of a weight file."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mcir.registry import ARCHS
from mcir.text import shortened
from mcir.weights.building import build_on_meta, check_arguments
from mcir.weights.detection import detect
from mcir.weights.errors import WeightsError, first_names
from mcir.weights.files import read_weights
from mcir.weights.finite import non_finite_keys, require_finite
from mcir.weights.matching import derived_keys, match_state_dict, matching_part, shapes_of

_LOG = logging.getLogger("mcir")
_SHOWN = 10
_EXAMPLES = 4


def load_state(network: nn.Module, weights: Mapping[str, Tensor], strict: bool = True) -> list[str]:
    """Load weights into a network, and return the mismatches as lines of text.

    Args:
        network: network that gets the weights.
        weights: state dict of the network; a prefix before all keys is allowed.
        strict: whether all keys and shapes must match. Otherwise, at least one must.

    Raises:
        WeightsError: keys or shapes do not match, or weights are not finite.
    """
    tensors, mismatches = match_state_dict(network, weights)
    loaded = tensors.keys() - derived_keys(network)
    if mismatches and (strict or not loaded):
        raise mismatch_error(network, weights, mismatches)
    own = network.state_dict()
    # a network may have infinite values of its own, for example in the mask of an attention layer
    own_infinite = set(non_finite_keys({key: own[key] for key in own if key in loaded}))
    require_finite({key: tensors[key].to(own[key].dtype) for key in own if key in loaded - own_infinite})
    network.load_state_dict(tensors, strict=False)
    return mismatches


def mismatch_error(network: nn.Module, weights: Mapping[str, Tensor], mismatches: list[str]) -> WeightsError:
    """Return an error that lists the first ten mismatches and, if one is detected, the network that does match.

    If no key matches, the error shows the first keys and shapes of the file and of the network side by side.
    """
    name = type(network).__name__
    _, part = matching_part(network, weights)
    if not part.keys().isdisjoint(network.state_dict()):
        lines = [shortened(line) for line in mismatches[:_SHOWN]]
        lines += [f"and {len(mismatches) - _SHOWN} more"] if len(mismatches) > _SHOWN else []
        message = "\n  ".join([f"{len(mismatches)} weights do not match {name}:", *lines])
    else:
        in_file, own = (
            [f"{key} {shape}" for key, shape in shapes_of(side).items()] for side in (weights, network.state_dict())
        )
        rows = [(f"{len(in_file)} in the file", f"{len(own)} in {name}"), *_first_rows(in_file, own)]
        width = max(len(row[0]) for row in rows)
        lines = [f"{left:{width}}  {right}".rstrip() for left, right in rows]
        message = "\n  ".join([f"no weight of the file matches {name}. The keys and shapes are:", *lines])
    found = detect(weights)
    if found is not None and not found.mismatches:
        message += f"\nThe weights match {found}."
    return WeightsError(message)


def _first_rows(left: list[str], right: list[str]) -> list[tuple[str, str]]:
    rows = [(shortened(one), shortened(other)) for one, other in zip_longest(left, right, fillvalue="")]
    return rows[:_EXAMPLES] + ([("…", "…")] if len(rows) > _EXAMPLES else [])


def load_network(file: str | Path, key: str | None = None, section: Mapping[str, Any] | None = None) -> nn.Module:
    """Build the network of a weight file and load the weights, in evaluation mode on the CPU.

    Args:
        file: ``.safetensors`` or ``.pth`` file, from mcir or from an official release.
        key: key of the weights in the file, for example ``params``.
        section: type and arguments of the network, as in ``network_g`` of an option file. Default: those in the file's
            metadata, or else those detected from keys and shapes.

    Raises:
        WeightsError: the file cannot be read, its architecture is unknown, the section does not match the weights, or
            weights are not finite.
    """
    weights = read_weights(file, key)
    if section and weights.section and (changes := _changes(weights.section, section)):
        _LOG.warning(
            "%s was trained with %s, but is loaded with %s.", file, *map(", ".join, zip(*changes, strict=True))
        )
    try:
        if not section and weights.section:
            check_arguments(weights.section)
        section = section or weights.section or _detected_section(weights.tensors)
        # the network needs memory only if it has the shapes of the file
        draft = build_on_meta(section, weights.tensors)
        if mismatches := match_state_dict(draft, weights.tensors)[1]:
            raise mismatch_error(draft, weights.tensors, mismatches)
        network: nn.Module = ARCHS.build(section)
        load_state(network, weights.tensors)
    except WeightsError as error:
        raise WeightsError(f"{file}: {error}") from error
    return network.eval()


def _detected_section(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    found = detect(weights)
    if found is None:
        raise WeightsError(
            f"no known architecture ({', '.join(ARCHS.names())}) has these {len(weights)} keys: "
            f"{first_names(weights, 5)}"
        )
    return found.section


def _changes(stored: Mapping[str, Any], section: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the arguments that differ between a file's metadata and a section, as pairs of "name value" texts."""
    name = str(section["type"])
    if stored["type"] != name:
        return [(str(stored["type"]), name)]
    defaults = {key: parameter.default for key, parameter in ARCHS.parameters(name).items()}
    before, after = (json.loads(json.dumps({**defaults, **each}, default=repr)) for each in (stored, section))
    return [(f"{key} {before[key]}", f"{key} {after[key]}") for key in defaults if before[key] != after[key]]
