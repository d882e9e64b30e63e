"""Measurements of the authors' code: keys, shapes, multiply-adds, outputs and gradients of each configuration.

The repository contains a small file per configuration. If the full measurements are available, next to the repository
or in the folder ``MCIR_GOLDEN``, they are read instead. ``python -m tests.golden.networks`` creates the small files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden.deterministic import uniform

SMALL_FILES = Path(__file__).parent / "architectures"
FULL_FILES = Path(os.environ.get("MCIR_GOLDEN", Path(__file__).parents[3] / "shared"))
SOURCES = {  # folders of the full measurements, by family
    "edsr": "golden/edsr",
    "swinir": "golden/swinir",
    "ffanet": "golden/ffanet",
    "dehazeformer": "golden/dehazeformer",
    "nafnet": "golden/nafnet",
    "idt": "golden/idt",
    "unet": "rcl/unet",
}
ARCHITECTURES = {
    "edsr": "EDSR",
    "swinir": "SwinIR",
    "ffanet": "FFANet",
    "dehazeformer": "DehazeFormer",
    "nafnet": "NAFNet",
    "nafnet_local": "NAFNetLocal",
    "idt": "IDT",
    "unet": "UNet",
}
OWN_NAMES: dict[str, list[tuple[str, str]]] = {
    "unet": [
        (r"^inc\.double_conv\.", "encoder.0."),
        (r"^down(\d)\.maxpool_conv\.1\.double_conv\.", r"encoder.\1."),
        (r"^up(\d)\.conv\.double_conv\.", r"up\1.pair."),
        (r"^up1\.", "decoder.0."),
        (r"^up2\.", "decoder.1."),
        (r"^up3\.", "decoder.2."),
        (r"^up4\.", "decoder.3."),
        (r"^outc\.conv\.", "last."),
        (r"^((?:encoder|decoder)\.\d\.(?:pair\.)?)0\.", r"\1conv1."),
        (r"^((?:encoder|decoder)\.\d\.(?:pair\.)?)1\.", r"\1norm1."),
        (r"^((?:encoder|decoder)\.\d\.(?:pair\.)?)3\.", r"\1conv2."),
        (r"^((?:encoder|decoder)\.\d\.(?:pair\.)?)4\.", r"\1norm2."),
    ]
}
"""Patterns and replacements that convert official keys to mcir's, by family."""

OWN_ARGUMENTS = {"unet": {"n_channels": "num_in_ch", "n_classes": "num_out_ch"}}
"""Names of official arguments in mcir, by family."""

EXCLUDED = {"unet_noise2self", "unet_taskonomy_xtc"}  # U-Nets of other papers
MAX_VALUES = 2000  # largest number of values per output in a small file


@dataclass
class Case:
    """Input, and values of the output of the authors' code."""

    name: str
    input: Tensor
    shape: list[int]
    std: float
    stride: int
    output: Tensor
    step: int
    exact: Tensor | None
    exact_step: int
    grad_probe: dict[str, float] | None

    def error(self, output: Tensor) -> float:
        """Return the largest difference of an output to the stored values, relative to their standard deviation."""
        assert list(output.shape) == self.shape
        own = output[..., :: self.stride, :: self.stride].flatten()[:: self.step]
        return float((own - self.output).abs().max()) / self.std

    def exact_error(self, output: Tensor) -> float:
        """Return the largest relative difference for an output in float64."""
        assert self.exact is not None and output.dtype == torch.float64
        own = output[..., :: self.stride, :: self.stride].flatten()[:: self.exact_step]
        return float((own - self.exact).abs().max()) / self.std


@dataclass
class Golden:
    """Configuration with its constructor arguments, state dict and measurements."""

    family: str
    config: str
    kwargs: dict[str, Any]
    gain: float
    param_count: int
    macs: list[dict[str, Any]]
    shapes: dict[str, list[int]]
    grad_l2: dict[str, float]
    cases: list[Case]

    @property
    def section(self) -> dict[str, Any]:
        """Section of an option file that builds this configuration."""
        kind = "nafnet_local" if self.config.startswith("nafnet_local") else self.family
        names = OWN_ARGUMENTS.get(kind, {})
        return {"type": ARCHITECTURES[kind], **{names.get(key, key): value for key, value in self.kwargs.items()}}

    def own_name(self, key: str) -> str:
        """Return the name of an official key in mcir."""
        for pattern, replacement in OWN_NAMES.get(self.family, []):
            key = re.sub(pattern, replacement, key)
        return key


def configs() -> list[str]:
    """Return the names of all configurations."""
    return sorted(file.stem for file in SMALL_FILES.glob("*.npz"))


def load(config: str) -> Golden:
    """Return a configuration, from the full measurements if they are available."""
    with np.load(SMALL_FILES / f"{config}.npz") as small:
        facts = json.loads(bytes(small["facts"]))
        full = FULL_FILES / SOURCES[facts["family"]] / f"{config}.json"
        if not full.is_file():
            return _golden(facts, dict(small), facts["steps"])
    manifest = json.loads(full.read_text())
    with np.load(full.with_suffix(".npz")) as arrays:
        return _golden(_facts(manifest), dict(arrays), {})


def _facts(manifest: dict[str, Any]) -> dict[str, Any]:
    facts = {key: manifest[key] for key in ("family", "config", "kwargs", "gain", "param_count", "macs", "cases")}
    facts["shapes"] = {row[0]: row[1] for row in manifest["state_dict"]}
    facts["grad_l2"] = {row[0]: row[5] for row in manifest["state_dict"] if len(row) > 5 and row[5] is not None}
    return facts


def _golden(facts: dict[str, Any], arrays: dict[str, Any], steps: dict[str, int]) -> Golden:
    cases = []
    for case in facts["cases"]:
        name = case["name"]
        exact = arrays.get(f"{name}.output_f64")
        stride = re.search(r"::(\d)", case.get("output_stored", "::1"))
        assert stride
        cases.append(
            Case(
                name=name,
                input=uniform(case["input_seed"], case["input_shape"], *case["input_range"]),
                shape=case["output_shape"],
                std=case["output_std"],
                stride=int(stride[1]),
                output=torch.from_numpy(arrays[f"{name}.output"]).flatten(),
                step=steps.get(f"{name}.output", 1),
                exact=None if exact is None else torch.from_numpy(exact).flatten(),
                exact_step=steps.get(f"{name}.output_f64", 1),
                grad_probe=case.get("grad_probe"),
            )
        )
    keys = ("family", "config", "kwargs", "gain", "param_count", "macs", "shapes", "grad_l2")
    return Golden(**{key: facts[key] for key in keys}, cases=cases)


def manifests() -> Iterator[Path]:
    """Yield the files of the full measurements that describe a configuration."""
    for folder in SOURCES.values():
        yield from (file for file in sorted((FULL_FILES / folder).glob("*.json")) if file.stem not in EXCLUDED)


def main() -> None:
    """Create the small files, with every n-th value of each output."""
    for file in manifests():
        manifest = json.loads(file.read_text())
        facts, values, steps = _facts(manifest), {}, {}
        with np.load(file.with_suffix(".npz")) as arrays:
            for case in facts["cases"]:
                for name, limit in (
                    (f"{case['name']}.output", MAX_VALUES),
                    (f"{case['name']}.output_f64", MAX_VALUES // 2),
                ):
                    if name in arrays:
                        output = arrays[name].reshape(-1)
                        steps[name] = -(-output.size // limit)
                        values[name] = output[:: steps[name]]
        text = json.dumps({**facts, "steps": steps}, separators=(",", ":"))
        np.savez_compressed(SMALL_FILES / f"{file.stem}.npz", facts=np.frombuffer(text.encode(), np.uint8), **values)


if __name__ == "__main__":
    main()
