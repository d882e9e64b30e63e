"""Find the weights of a network in the content of a file, and bring their keys to the form of its state dict."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mcir.weights.errors import WeightsError, first_names

KEYS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
"""Keys under which files store weights, in order of preference. The moving average of each comes first."""

_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # never part of a network's own names
_MAX_PARTS = 16
_MAX_PREFIXES = 5
_AVERAGE = {"ema", "swa", "avg", "averaged"}
_BASES = (*KEYS[1:], "", "weights", "net", "network", "module", "shadow", "generator", "g")  # of moving averages
_WORDS = re.compile(r"[a-z]+")
_UNKNOWN = (2, 0)


def find_tensors(content: Any, key: str | None, file: Path) -> tuple[dict[str, Tensor], str | None]:
    """Return the weights in the content of a ``.pth`` file, and the key under which they are stored.

    Raises:
        WeightsError: the content has no weights, or not under this key.
    """
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise WeightsError(f"{file}: the file contains no weights.")
    entries = dict(dict.items(content))
    sections = {name: dict(dict.items(value)) for name, value in entries.items() if isinstance(value, dict)}
    found = key if key in sections else None
    if key is None:
        found = min((name for name in sections if _has_tensors(sections[name])), key=_preference, default=None)
        found = found if found is not None and _preference(found) < _UNKNOWN else None
    if found is not None:
        section = sections[found]
        if section and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in section.items()):
            return _plain(section), found
        if not any(isinstance(value, Tensor) for value in section.values()):
            return find_tensors(section, None, file)[0], found
        raise WeightsError(f"{file}: the key '{found}' contains no weights.")
    if sections:
        expected = f"the key '{key}'" if key else f"one of the keys {', '.join(KEYS)}"
        raise WeightsError(
            f"{file}: expected {expected}, got {first_names(sorted(sections))}. Set the key of the weights."
        )
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{file}: the file contains no weights.")
    return _plain(tensors), None


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without gradients, and without the attributes that a file may set to anything."""
    return {name: Tensor.detach(value) for name, value in tensors.items()}


def _has_tensors(content: Any) -> bool:
    if isinstance(content, dict):
        return any(map(_has_tensors, dict.values(content)))
    return isinstance(content, Tensor)


def _preference(name: str) -> tuple[int, int]:
    """Return the rank of a key: moving averages first, then the other keys of ``KEYS``, then unknown keys."""
    base = "_".join(word for word in _WORDS.findall(name.lower()) if word not in _AVERAGE)
    if is_average(name) and base in _BASES:
        return 0, _BASES.index(base)
    return (1, KEYS.index(name)) if name in KEYS else _UNKNOWN


def is_average(name: str) -> bool:
    """Return whether the words of a key name a moving average: ``model_ema``, ``ema_state_dict``, ``ema``."""
    return not _AVERAGE.isdisjoint(_WORDS.findall(name.lower()))


def own_keys(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove from the keys what parallel training, compilation and averaging of a network add to them."""
    unwrapped = {".".join(word for word in key.split(".") if word not in _WRAPPERS): key for key in weights}
    if len(unwrapped) == len(weights):
        weights = {key: weights[old] for key, old in unwrapped.items()}
    while (parts := _split(weights)).keys() == {"module"}:
        weights = parts["module"]
    return dict(weights)


def parts_of(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield parts of the weights that may be a network, with the prefix that is removed from their keys.

    These are the weights as they are and after each common prefix; and if the first names of the keys then differ, like
    ``generator_ema`` and ``discriminator``, the weights of each name.
    """
    prefix, part = "", weights
    for prefix, part in _without_prefixes("", weights):
        yield prefix, part
    parts = _split(part)
    for name, entries in parts.items() if len(parts) > 1 else ():
        yield from _without_prefixes(f"{prefix}{name}.", entries)


def _without_prefixes(prefix: str, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    yield prefix, weights
    for _ in range(_MAX_PREFIXES):
        parts = _split(weights)
        if len(parts) != 1:
            return
        ((name, weights),) = parts.items()
        prefix += f"{name}."
        yield prefix, weights


def _split(weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the weights by the first names of their keys; empty if a weight has no such name, or if there are many.

    Integers without such a name are left out: averaged models count their updates, as ``n_averaged`` or ``steps``.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in weights.items():
        name, dot, rest = key.partition(".")
        if dot:
            parts.setdefault(name, {})[rest] = value
        elif value.dim() or value.is_floating_point():
            return {}
    return parts if len(parts) <= _MAX_PARTS else {}
