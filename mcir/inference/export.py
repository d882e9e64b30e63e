"""Export checkpoints as ONNX, TorchScript, archives of torch.export, or safetensors.

Each exported program is compared with its network on images of several sizes before it is written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from mcir.atomic import check_writable, write_atomically
from mcir.config import network_section
from mcir.inference.export_backends import (
    OLDEST_OPSET,
    ExportError,
    check_onnx,
    export_errors,
    load_program,
    sample_images,
    to_onnx,
    to_torch_export,
    to_torchscript,
    trace,
)
from mcir.network_call import call_network, unwrapped
from mcir.network_spec import measured_spec
from mcir.version import __version__
from mcir.weights import load_network, network_config, network_metadata, to_safetensors

FORMATS = {"onnx": ".onnx", "safetensors": ".safetensors", "torchscript": ".pt", "torch-export": ".pt2"}
"""File extensions by format."""

TOLERANCE = 1e-4
"""Largest difference between a program and its network, relative to the largest value (1/40 of an 8-bit level)."""

_BACKENDS = {"onnx": to_onnx, "torchscript": to_torchscript, "torch-export": to_torch_export}


class Exported(NamedTuple):
    """A file that was written, and its largest difference from the network; None if it was not checked."""

    file: Path
    difference: float | None


def export(
    checkpoint: Path,
    formats: Sequence[str],
    *,
    output: Path | None = None,
    key: str | None = None,
    opt: Path | None = None,
    opset: int | None = None,
    check: bool = True,
    overwrite: bool = False,
) -> list[Exported]:
    """Write a checkpoint in other formats.

    Args:
        checkpoint: ``.pth`` or ``.safetensors`` file.
        formats: keys of ``FORMATS``.
        output: output file, or folder of the files; default: the folder of the checkpoint.
        key: entry of the checkpoint with the weights, such as ``params``.
        opt: option file whose network is built; default: the network of the checkpoint.
        opset: version of the ONNX operators; default: ``OLDEST_OPSET``.
        check: whether the programs are compared with the network.
        overwrite: whether existing files are replaced.

    Raises:
        ValueError: an argument or the checkpoint is invalid, the network cannot be exported, or a program differs from
            it.
        OSError: a file cannot be written.
    """
    targets = _targets(checkpoint, formats, output, overwrite)
    if "onnx" not in targets and opset is not None:
        raise ExportError("--opset has no effect without --onnx.")
    opset = OLDEST_OPSET if opset is None else opset
    if "onnx" in targets:
        check_onnx(opset, check)
    if not check and targets.keys() == {"safetensors"}:
        raise ExportError("--no-check has no effect on weights, which are not run.")
    for target in targets.values():
        check_writable(target)
    section = None if opt is None else network_section(opt)
    return export_network(load_network(checkpoint, key, section=section), targets, opset, check)


def export_network(
    network: nn.Module, targets: Mapping[str, Path], opset: int = OLDEST_OPSET, check: bool = True
) -> list[Exported]:
    """Write a network in several formats, and switch it to ``eval`` mode.

    Args:
        network: network on the CPU.
        targets: output files by format.
        opset: version of the ONNX operators.
        check: whether the programs are compared with the network.

    Raises:
        ExportError: the network cannot be exported, or a program differs from it.
        OSError: a file cannot be written.
    """
    network = unwrapped(network).eval()
    facts = network_facts(network)
    program = trace(network) if targets.keys() - {"safetensors"} else None
    written = []
    for name, file in targets.items():
        difference = None
        if program is None or name == "safetensors":
            content = to_safetensors(network.state_dict(), facts)
        else:
            content = _BACKENDS[name](program, facts, opset)
            difference = _difference(network, content, name) if check else None
        write_atomically(file, content)
        written.append(Exported(file, difference))
    return written


def network_facts(network: nn.Module) -> dict[str, str]:
    """Return the facts about a network that exported files contain.

    ``size_multiple``, ``min_size`` and ``padding`` describe the network; a program contains the padding.
    """
    spec = measured_spec(network)
    return {
        **network_metadata(*network_config(network)),
        "scale": str(spec.scale),
        "in_channels": str(spec.in_channels),
        "size_multiple": str(spec.size_multiple),
        "min_size": str(spec.min_size),
        "padding": spec.padding,
        "range": "[0, 1], not clamped",
        "sides": "any",
        "made_by": f"mcir {__version__}",
    }


def _difference(network: nn.Module, content: bytes, name: str) -> float:
    """Return the largest difference between the outputs of a program and of its network, if it is small enough."""
    batches = sample_images(network)
    with torch.no_grad(), export_errors(f"{type(network).__name__} fails on the images of the check"):
        expected = [call_network(network, images) for images in batches]
    with torch.no_grad(), export_errors(f"{name}: the program fails, and is not written"):
        run = load_program(content, FORMATS[name])
        restored = [run(images) for images in batches]
    largest = 0.0
    for images, reference, output in zip(batches, expected, restored, strict=True):
        size = "×".join(map(str, images.shape))
        if output.shape != reference.shape:
            shapes = f"expected {tuple(reference.shape)} for images {size}, got {tuple(output.shape)}"
            raise ExportError(f"{name}: {shapes}; no file is written.")
        difference = float((output - reference).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(reference.abs().max())):  # rejects NaN
            raise ExportError(
                f"{name}: the program differs from the network by {difference:.1e} on images {size}, more than "
                f"{TOLERANCE:.0e}; no file is written."
            )
        largest = max(largest, difference)
    return largest


def _targets(source: Path, formats: Sequence[str], output: Path | None, overwrite: bool) -> dict[str, Path]:
    """Return the output files by format, after checking that they can be written."""
    names = list(dict.fromkeys(formats))
    if not names:
        raise ExportError(f"Choose at least one format: {', '.join(f'--{name}' for name in FORMATS)}.")
    output = output or source.parent
    is_file = bool(output.suffix) and not output.is_dir()
    if is_file and (len(names) > 1 or output.suffix != FORMATS[names[0]]):
        extensions = " and ".join(FORMATS[name] for name in names)
        raise ExportError(f"{output}: expected a folder, or for a single format a file that ends with {extensions}.")
    targets = {name: output if is_file else output / (source.stem + FORMATS[name]) for name in names}
    for target in targets.values():
        parent = next(folder for folder in target.absolute().parents if folder.exists())
        if target.exists() and source.exists() and target.samefile(source):
            problem = "is the checkpoint itself"
        elif target.is_dir():
            problem = "is a folder"
        elif target.exists() and not overwrite:
            problem = "exists (replace it with --overwrite)"
        elif not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            problem = f"cannot be written to {parent}"
        else:
            continue
        raise ExportError(f"{target} {problem}; choose another file with -o.")
    return targets
