"""Read and write safetensors files. Those of mcir contain a checksum of their tensors and metadata."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from mcir.paths import file_problem
from mcir.weights.errors import WeightsError

_VERSION, _CHECKSUM = "mcir_format", "mcir_checksum"
"""Metadata of files that contain a checksum. If only one of the two is present, the other is damaged."""


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the memory-mapped tensors and the metadata of a safetensors file, and verify the checksum if it has one.

    Raises:
        WeightsError: the file is missing or damaged, or not a safetensors file.
    """
    if problem := file_problem(file):
        raise WeightsError(f"{file}: expected a weight file, but the path {problem}.")
    try:
        with safe_open(file, "pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (not a mapping)
            metadata: dict[str, str] = content.metadata() or {}
    except Exception as error:  # safetensors raises errors of many kinds for damaged files
        raise WeightsError(f"{file} cannot be read: it is damaged or truncated ({error}).") from error
    if not metadata.keys().isdisjoint((_VERSION, _CHECKSUM)):
        stored = metadata.pop(_CHECKSUM, None)
        if stored != _checksum(tensors, metadata):
            raise WeightsError(f"{file} cannot be read: it is damaged (its content does not match its checksum).")
    return tensors, metadata


def to_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the content of a ``.safetensors`` file, with a checksum of its tensors and metadata.

    Tensors that share memory are copied, because the format does not allow sharing. The caller writes the file, because
    the writer of the safetensors library creates files that only their owner can read.
    """
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():
        value = tensor.contiguous()
        separate[key] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    facts = {**metadata, _VERSION: "1"}
    return save(separate, {**facts, _CHECKSUM: _checksum(separate, facts)})


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the CRC-32 of metadata, names, dtypes, shapes and values, independent of their order."""
    names = sorted(tensors)
    facts = [sorted(metadata.items()), [(name, str(tensors[name].dtype), tensors[name].shape) for name in names]]
    checksum = zlib.crc32(json.dumps(facts).encode())
    for name in names:
        checksum = zlib.crc32(tensors[name].detach().cpu().reshape(-1).view(torch.uint8).numpy().data, checksum)
    return f"crc32:{checksum:08x}"
