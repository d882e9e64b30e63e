"""Find the weights in the content of a file, and remove the prefixes of their keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mcir.weights.errors import WeightsError

KEYS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
"""Keys under which files store weights, in order of preference."""

_PREFIXES = ("module.", "_orig_mod.")  # added by parallel training and by torch.compile


def find_tensors(content: Any, key: str | None, file: Path) -> tuple[dict[str, Tensor], str | None]:
    """Return the weights in the content of a ``.pth`` file, and the key under which they are stored."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise WeightsError(f"{file}: the file contains no weights.")
    sections = {name: value for name, value in content.items() if isinstance(value, Mapping)}
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    found = next((name for name in ([key] if key else KEYS) if name in sections), None)
    if found is not None:
        section = sections[found]
        if section and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in section.items()):
            return dict(section), found
        if not any(isinstance(value, Tensor) for value in section.values()):
            return find_tensors(section, None, file)[0], found
        raise WeightsError(f"{file}: the key '{found}' contains no weights.")
    if sections:
        expected = f"the key '{key}'" if key else f"one of the keys {', '.join(KEYS)}"
        raise WeightsError(
            f"{file}: expected {expected}, got {', '.join(sorted(sections))}. Set the key of the weights."
        )
    if not tensors:
        raise WeightsError(f"{file}: the file contains no weights.")
    return tensors, None


def strip_prefixes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of parallel training and compilation, if all keys have them."""
    keys = list(weights)
    while prefix := next((prefix for prefix in _PREFIXES if keys and all(key.startswith(prefix) for key in keys)), ""):
        keys = [key.removeprefix(prefix) for key in keys]
    return dict(zip(keys, weights.values(), strict=True))
