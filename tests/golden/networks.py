"""Networks as their authors' code computes them: keys, shapes, work, outputs and gradients of each configuration.

One small file a configuration; where the full set of measurements lies beside the repository (or where
``MCIR_GOLDEN`` says), that is read instead. ``python -m tests.golden.networks`` makes the small files from it.
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

HERE = Path(__file__).parent / "architectures"
FULL = Path(os.environ.get("MCIR_GOLDEN", Path(__file__).parents[3] / "shared"))
SOURCES = {  # family: its folder in the full set
    "edsr": "golden/edsr",
    "swinir": "golden/swinir",
    "ffanet": "golden/ffanet",
    "dehazeformer": "golden/dehazeformer",
    "nafnet": "golden/nafnet",
    "idt": "golden/idt",
    "unet": "rcl/unet",
}
LEFT_OUT = {"unet_noise2self", "unet_taskonomy_xtc"}  # other papers' U-Nets
KEPT = 2000  # values of an output that a small file holds


@dataclass
class Case:
    """An input, and (some values of) what the authors' code makes of it."""

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
        """Return the largest difference of an output to the stored values, in units of their standard deviation."""
        assert list(output.shape) == self.shape
        own = output[..., :: self.stride, :: self.stride].flatten()[:: self.step]
        return float((own - self.output).abs().max()) / self.std

    def exact_error(self, output: Tensor) -> float:
        """Return the same for an output and stored values in float64."""
        assert self.exact is not None and output.dtype == torch.float64
        own = output[..., :: self.stride, :: self.stride].flatten()[:: self.exact_step]
        return float((own - self.exact).abs().max()) / self.std


@dataclass
class Golden:
    """A configuration: how it is built, its state dict and what was measured."""

    family: str
    config: str
    kwargs: dict[str, Any]
    gain: float
    param_count: int
    macs: list[dict[str, Any]]
    shapes: dict[str, list[int]]
    grad_l2: dict[str, float]
    cases: list[Case]


def configs() -> list[str]:
    """Return the names of all configurations."""
    return sorted(file.stem for file in HERE.glob("*.npz"))


def load(config: str) -> Golden:
    """Return a configuration, from the full set where it is there."""
    with np.load(HERE / f"{config}.npz") as small:
        facts = json.loads(bytes(small["facts"]))
        full = FULL / SOURCES[facts["family"]] / f"{config}.json"
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


def _manifests() -> Iterator[Path]:
    for folder in SOURCES.values():
        yield from sorted((FULL / folder).glob("*.json"))


def main() -> None:
    """Make the small files: of each output every n-th value."""
    for file in _manifests():
        manifest = json.loads(file.read_text())
        if manifest["config"] in LEFT_OUT:
            continue
        facts, kept, steps = _facts(manifest), {}, {}
        with np.load(file.with_suffix(".npz")) as arrays:
            for case in facts["cases"]:
                for name, most in ((f"{case['name']}.output", KEPT), (f"{case['name']}.output_f64", KEPT // 2)):
                    if name in arrays:
                        values = arrays[name].reshape(-1)
                        steps[name] = -(-values.size // most)
                        kept[name] = values[:: steps[name]]
        text = json.dumps({**facts, "steps": steps}, separators=(",", ":"))
        np.savez_compressed(HERE / f"{file.stem}.npz", facts=np.frombuffer(text.encode(), np.uint8), **kept)


if __name__ == "__main__":
    main()
