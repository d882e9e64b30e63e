"""Read and write safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from mcir.paths import file_problem
from mcir.weights.errors import WeightsError


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the memory-mapped tensors and the metadata of a safetensors file.

    Raises:
        WeightsError: the file is missing or damaged, or not a safetensors file.
    """
    if problem := file_problem(file):
        raise WeightsError(f"{file}: expected a weight file, but the path {problem}.")
    try:
        with safe_open(file, "pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (not a mapping)
            return tensors, content.metadata() or {}
    except Exception as error:  # safetensors raises errors of many kinds for damaged files
        raise WeightsError(f"{file} cannot be read: it is damaged or truncated ({error}).") from error


def to_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the content of a ``.safetensors`` file.

    Tensors that share memory are copied, because the format does not allow sharing. The caller writes the file, because
    the writer of the safetensors library creates files that only their owner can read.
    """
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():
        value = tensor.contiguous()
        separate[key] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return save(separate, dict(metadata))
