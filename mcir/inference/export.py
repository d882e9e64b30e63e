"""Export checkpoints to ONNX, TorchScript, archives of torch.export, and plain weights.

Each program is compared with its network on images of other sizes before it is written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mcir.atomic import write_atomically
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
from mcir.network_spec import NetworkSpec, spec_of
from mcir.version import __version__
from mcir.weights import load_network, network_config, network_metadata, to_safetensors

FORMATS = {"onnx": ".onnx", "safetensors": ".safetensors", "torchscript": ".pt", "torch-export": ".pt2"}
"""Formats, and the extensions of their files."""

TOLERANCE = 1e-4
"""Largest difference of a program from its network, relative to the largest value: a fortieth of an 8-bit level."""

_BACKENDS = {"onnx": to_onnx, "torchscript": to_torchscript, "torch-export": to_torch_export}


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        file: the file.
        format: key of ``FORMATS``.
        difference: largest difference from the network over the checked images; None if it was not checked.
    """

    file: Path
    format: str
    difference: float | None


@dataclass(frozen=True)
class ExportSettings:
    """Settings of ``mcir export``.

    Attributes:
        checkpoint: ``.pth`` or ``.safetensors`` file.
        formats: keys of ``FORMATS``.
        output: file, or folder of the files; default: the folder of the checkpoint.
        key: which weights of the checkpoint to use, such as ``params``.
        opt: option file whose network is built; default: the network of the checkpoint.
        opset: version of the ONNX operators; default: ``OLDEST_OPSET``.
        check: whether the programs are compared with the network.
        overwrite: whether existing files are replaced.
    """

    checkpoint: Path
    formats: Sequence[str]
    output: Path | None = None
    key: str | None = None
    opt: Path | None = None
    opset: int | None = None
    check: bool = True
    overwrite: bool = False


def export(settings: ExportSettings) -> list[Exported]:
    """Write a checkpoint in other formats.

    Raises:
        ValueError: a setting or the checkpoint is invalid, the network cannot be exported, or a program is wrong.
        OSError: a file cannot be written.
    """
    targets = _targets(settings)
    opset = OLDEST_OPSET if settings.opset is None else settings.opset
    if "onnx" in targets:
        check_onnx(opset, settings.check)
    elif settings.opset is not None:
        raise ExportError("--opset has no effect without --onnx.")
    if not settings.check and targets.keys() == {"safetensors"}:
        raise ExportError("--no-check has no effect on plain weights, which are not run.")
    section = None if settings.opt is None else network_section(settings.opt)
    network = load_network(settings.checkpoint, settings.key, section=section)
    return export_network(network, targets, opset, settings.check)


def export_network(
    network: nn.Module, targets: Mapping[str, Path], opset: int = OLDEST_OPSET, check: bool = True
) -> list[Exported]:
    """Write a network in several formats; it is switched to ``eval`` mode.

    Args:
        network: network on the CPU.
        targets: file of each format.
        opset: version of the ONNX operators.
        check: whether the programs are compared with the network.

    Raises:
        ExportError: the network cannot be exported, or a program differs from it.
        OSError: a file cannot be written.
    """
    network.eval()
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
        written.append(Exported(file, name, difference))
    return written


def network_facts(network: nn.Module) -> dict[str, str]:
    """Return the facts that exported files state about their network.

    ``size_multiple``, ``min_size`` and ``padding`` are those of the network; a program pads by itself.
    """
    spec = spec_of(network) or NetworkSpec()
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
    """Return the largest difference between a program and its network.

    Raises:
        ExportError: the difference is too large, or one of them fails.
    """
    batches = sample_images(network)
    with torch.no_grad(), export_errors(f"{type(network).__name__} fails on the images for the check"):
        expected = [network(images) for images in batches]
    with torch.no_grad(), export_errors(f"{name}: the program does not run, and is not written"):
        run = load_program(content, FORMATS[name])
        restored = [run(images) for images in batches]
    largest = 0.0
    for images, one, other in zip(batches, expected, restored, strict=True):
        size = "×".join(map(str, images.shape))
        if one.shape != other.shape:
            shapes = tuple(one.shape), tuple(other.shape)
            raise ExportError(f"{name}: expected {shapes[0]} for images {size}, got {shapes[1]}; no file is written.")
        difference = float((other - one).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(one.abs().max())):  # NaN is too large
            raise ExportError(
                f"{name}: the program differs from the network by {difference:.1e} on images {size}, more than "
                f"{TOLERANCE:.0e}; no file is written."
            )
        largest = max(largest, difference)
    return largest


def _targets(settings: ExportSettings) -> dict[str, Path]:
    """Return the file of each format.

    Raises:
        ExportError: there is no format, the extension is that of another one, or a file exists or cannot be written.
    """
    names = list(dict.fromkeys(settings.formats))
    if not names:
        raise ExportError(f"Choose at least one format: {', '.join(f'--{name}' for name in FORMATS)}.")
    source, output = settings.checkpoint, settings.output or settings.checkpoint.parent
    is_file = bool(output.suffix) and not output.is_dir()
    if is_file and (len(names) > 1 or output.suffix != FORMATS[names[0]]):
        extensions = " and ".join(FORMATS[name] for name in names)
        raise ExportError(f"{output}: expected a folder, or for one format a file that ends with {extensions}.")
    targets = {name: output if is_file else output / (source.stem + FORMATS[name]) for name in names}
    for target in targets.values():
        home = next(folder for folder in target.absolute().parents if folder.exists())
        if target.exists() and source.exists() and target.samefile(source):
            problem = "is the checkpoint itself"
        elif target.is_dir():
            problem = "is a folder"
        elif target.exists() and not settings.overwrite:
            problem = "exists (replace it with --overwrite)"
        elif not home.is_dir() or not os.access(home, os.W_OK | os.X_OK):
            problem = f"cannot be written to {home}"
        else:
            continue
        raise ExportError(f"{target} {problem}; name another file with -o.")
    return targets
