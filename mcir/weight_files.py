"""The weights in any checkpoint file: found, and brought to one form.

Official releases keep weights bare or under ``params``, ``params_ema``, ``state_dict``, ``model`` …, and with the
prefixes of parallel or compiled training. What comes out here is always the same: the weights by the keys of the
network. Files are never unpickled as code.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

KEYS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
"""Where files keep the weights, the preferred place first."""

_PREFIXES = ("module.", "_orig_mod.")  # of parallel training, of torch.compile
_NUMBERS: list[Any] = [  # which training scripts keep beside the weights: a best PSNR, say
    *((np.float64(0).__reduce__()[0], f"numpy.{home}.multiarray.scalar") for home in ("core", "_core")),
    *((np.zeros(0).__reduce__()[0], f"numpy.{home}.multiarray._reconstruct") for home in ("core", "_core")),
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
]


class WeightsError(ValueError):
    """A weight file that cannot be read, or weights that do not fit a network."""


@dataclass(frozen=True)
class Weights:
    """The weights of a network, and what their file says of it.

    Attributes:
        tensors: the weights by the network's own keys.
        found_under: the key that held them; None where the file holds nothing else.
        architecture: its registered name, where the file says it.
        hyperparameters: its arguments, where the file says them.
    """

    tensors: dict[str, Tensor]
    found_under: str | None = None
    architecture: str | None = None
    hyperparameters: dict[str, Any] | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor by its key."""
        return {key: tuple(value.shape) for key, value in self.tensors.items()}


def read_weights(file: str | Path, key: str | None = None) -> Weights:
    """Read the weights of a network from a ``.safetensors`` or a ``.pth`` file.

    A file in the current format is mapped, so that only what is used is read.

    Args:
        file: where they are.
        key: which of the file's weights, like ``params``; without it the first of ``KEYS`` that is there.

    Raises:
        WeightsError: the file is missing, damaged, holds code instead of tensors, or has no such key.
    """
    file = Path(file)
    try:
        if file.suffix == ".safetensors":
            return _read_safetensors(file, key)
        with torch.serialization.safe_globals(_NUMBERS):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except FileNotFoundError:
        raise WeightsError(f"{file}: there is no such weight file.") from None
    except IsADirectoryError:
        raise WeightsError(f"{file} is a folder: name a weight file in it.") from None
    except WeightsError:
        raise
    except Exception as error:
        if not _may_be_of_torch(file):
            why = "it is neither a file of PyTorch nor one of safetensors"
        elif "weights_only" in str(error):
            why = "it holds more than tensors"
        else:
            why = _first_line(error) if zipfile.is_zipfile(file) else f"it is damaged or cut off ({_first_line(error)})"
        raise WeightsError(f"{file} cannot be read as weights: {why}.") from error
    tensors, found_under = _find(content, key, file)
    return Weights(_without_prefixes(tensors), found_under, *_facts(content, file))


def facts_of(architecture: str, hyperparameters: Mapping[str, Any]) -> dict[str, str]:
    """Return what files say of a network beside its weights: how it is rebuilt."""
    return {"architecture": architecture, "hyperparameters": json.dumps(dict(hyperparameters), default=repr)}


def serialized(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the content of a ``.safetensors`` file; weights that share memory are stored one by one.

    The format's own writer would leave a file that nobody else may read.
    """
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():
        value = tensor.contiguous()
        apart[key] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return save(apart, dict(metadata))


def _find(content: Any, key: str | None, file: Path) -> tuple[dict[str, Tensor], str | None]:
    """Return the weights in what a file holds, and the key that they were under."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise WeightsError(f"{file} holds no weights.")
    sections = {name: value for name, value in content.items() if isinstance(value, Mapping)}
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    found = next((name for name in ([key] if key else KEYS) if name in sections), None)
    if found is not None:
        section = sections[found]
        if section and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in section.items()):
            return dict(section), found
        if not any(isinstance(value, Tensor) for value in section.values()):
            return _find(section, None, file)[0], found
        raise WeightsError(f"{file} holds no weights under '{found}'.")
    if tensors and not sections:
        return tensors, None
    if sections:
        looked_for = f"no '{key}'" if key else f"none of {', '.join(KEYS)}"
        raise WeightsError(f"{file} has {looked_for}; as the key name {' or '.join(sorted(sections))}.")
    raise WeightsError(f"{file} holds no weights.")


def _facts(content: Mapping[str, Any], file: Path) -> tuple[str | None, dict[str, Any] | None]:
    """Return the architecture and its arguments, where a file says them."""
    architecture, text = content.get("architecture"), content.get("hyperparameters")
    if not isinstance(architecture, str) or not isinstance(text, str):
        return None, None
    try:
        arguments = json.loads(text)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise WeightsError(f"{file}: what it says of its network's arguments cannot be read: {text[:80]!r}.")
    return architecture, arguments


def _read_safetensors(file: Path, key: str | None) -> Weights:
    with safe_open(file, "pt") as content:
        facts = content.metadata() or {}
        held = facts.get("weights")
        if key is not None and held is not None and key != held:
            raise WeightsError(f"{file} holds '{held}', not '{key}'; the .pth file beside it has both.")
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (no mapping)
    return Weights(_without_prefixes(tensors), held, *_facts(facts, file))


def _without_prefixes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take away what parallel training and compilation put before every name."""
    keys = list(weights)
    while prefix := next((prefix for prefix in _PREFIXES if keys and all(key.startswith(prefix) for key in keys)), ""):
        keys = [key.removeprefix(prefix) for key in keys]
    return dict(zip(keys, weights.values(), strict=True))


def _may_be_of_torch(file: Path) -> bool:
    """Tell whether a file begins like one that ``torch.save`` wrote, in this format or that of before torch 1.6."""
    with file.open("rb") as stream:
        return file.suffix == ".safetensors" or stream.read(2) in (b"PK", b"\x80\x02")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
