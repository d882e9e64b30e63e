"""Describe the network in a weight file as text."""

import json
from collections.abc import Mapping
from pathlib import Path

from mcir.registry import ARCHS
from mcir.text import shortened
from mcir.weights import describe_non_finite, detect_network, non_finite_keys, read_weights

_SHOWN = 10


def inspect_weights(file: Path, key: str | None = None) -> tuple[list[str], bool]:
    """Return lines that describe the network of a weight file, and whether the file suffices to rebuild the network."""
    weights = read_weights(file, key)
    total = sum(value.numel() for value in weights.tensors.values())
    lines = [
        f"file          {file}{f', key {weights.key!r}' if weights.key else ''}",
        f"entries       {len(weights.tensors)}, {total:,} numbers",
    ]
    infinite = non_finite_keys(weights.tensors)
    if infinite:
        lines.append(f"not finite    {describe_non_finite(infinite, len(weights.tensors))}")
    network = detect_network(weights)
    if network is None:
        lines.append(f"architecture  none of {', '.join(ARCHS.names())}; the first keys are:")
        first = list(weights.shapes.items())[:_SHOWN]
        lines += [f"              {shortened(key)} {shape}" for key, shape in first]
        return lines, False
    if network.prefix:
        lines.append(f"prefix        {network.prefix}")
    detected = {key: value for key, value in network.arguments.items() if key not in network.guessed}
    assumed = {key: network.arguments[key] for key in network.guessed}
    for key, parameter in ARCHS.parameters(network.architecture).items():
        if key not in network.arguments:
            assumed[key] = parameter.default
    source = "detected" if weights.section is None else "stored"
    lines += [
        f"architecture  {network.architecture}, ×{network.scale}",
        f"parameters    {network.parameters:,}",
        f"{source:13} {_one_line(detected)}",
        f"assumed       {_one_line(assumed) or 'nothing'}",
        *(f"differs       {shortened(line)}" for line in network.mismatches[:_SHOWN]),
    ]
    if len(network.mismatches) > _SHOWN:
        lines.append(f"              and {len(network.mismatches) - _SHOWN} more")
    lines.append(f"option        network_g: {{type: {network.architecture}, {_one_line(network.arguments)}}}")
    return lines, not network.mismatches and not infinite


def _one_line(arguments: Mapping[str, object]) -> str:
    """Return arguments as they are written in an option file, in one line."""
    return ", ".join(f"{key}: {json.dumps(value, default=str)}" for key, value in arguments.items())
