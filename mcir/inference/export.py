"""Checkpoints to files that run elsewhere: ONNX, TorchScript, torch.export's archives; and to plain weights.

Every program is run on images of other sizes before it is written: one that does not restore what its network restores
never becomes a file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mcir.atomic import write_atomically
from mcir.config import network_section
from mcir.inference.programs import (
    OLDEST_OPSET,
    ExportError,
    archive,
    images_for,
    onnx_model,
    require_onnx,
    runner,
    told,
    torchscript,
    traced,
)
from mcir.network_spec import NetworkSpec, spec_of
from mcir.version import __version__
from mcir.weights import load_network, network_metadata, to_safetensors

FORMATS = {"onnx": ".onnx", "safetensors": ".safetensors", "torchscript": ".pt", "torch-export": ".pt2"}
"""What can be written, and the ends of the files' names."""

TOLERANCE = 1e-4
"""How far a program may be from its network, as a share of the largest value: a fortieth of a level of 8 bits."""


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        file: where it is.
        format: of ``FORMATS``.
        difference: the largest from what the network restores, over images of two sizes; None where it was not checked.
    """

    file: Path
    format: str
    difference: float | None


@dataclass(frozen=True)
class ExportSettings:
    """What is exported, and how.

    Attributes:
        checkpoint: a ``.pth`` or ``.safetensors`` file.
        formats: of ``FORMATS``.
        output: the file, or the folder of the files; without it the checkpoint's folder.
        key: which of the checkpoint's weights, like ``params``.
        opt: an option file, whose network is built rather than that of the checkpoint.
        opset: of ONNX; without it ``OLDEST_OPSET``.
        check: whether the files are run and compared.
        overwrite: whether files that are there are replaced.
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
        ValueError: something is wrong with what was asked for or with the checkpoint, or the network cannot be
            exported, or a file does not restore what the network restores.
        OSError: the files cannot be written.
    """
    targets = _targets(settings)
    opset = OLDEST_OPSET if settings.opset is None else settings.opset
    if "onnx" in targets:
        require_onnx(opset, settings.check)
    elif settings.opset is not None:
        raise ExportError("--opset is of ONNX: add --onnx, or leave it out.")
    if not settings.check and targets.keys() == {"safetensors"}:
        raise ExportError("--no-check: plain weights are not run, so there is nothing to leave out.")
    section = None if settings.opt is None else network_section(settings.opt)
    network = load_network(settings.checkpoint, settings.key, section=section)
    return export_network(network, targets, opset, settings.check)


def export_network(
    network: nn.Module, targets: Mapping[str, Path], opset: int = OLDEST_OPSET, check: bool = True
) -> list[Exported]:
    """Write a network, in ``eval`` mode from then on, in several formats.

    Args:
        network: on the CPU, of a registered architecture.
        targets: the file of each format of ``FORMATS``.
        opset: of ONNX.
        check: run each program on images of two sizes and compare.

    Raises:
        ExportError: the network cannot be exported, or a program does not restore what it restores.
        OSError: the files cannot be written.
    """
    network.eval()
    facts = facts_of_network(network)
    program = traced(network) if targets.keys() - {"safetensors"} else None
    written = []
    for form, file in targets.items():
        difference = None
        if program is None or form == "safetensors":
            content = to_safetensors(network.state_dict(), facts)
        else:
            content = onnx_model(program, facts, opset) if form == "onnx" else _WRITERS[form](program, facts)
            difference = _difference(network, content, form) if check else None
        write_atomically(file, content)
        written.append(Exported(file, form, difference))
    return written


_WRITERS = {"torchscript": torchscript, "torch-export": archive}


def facts_of_network(network: nn.Module) -> dict[str, str]:
    """Return what exported files say of their network, by name.

    ``size_multiple``, ``min_size`` and ``padding`` are those of the network within; a program pads by itself.
    """
    spec = spec_of(network) or NetworkSpec()
    return {
        **network_metadata(
            getattr(network, "registered_as", type(network).__name__), getattr(network, "hyperparameters", {})
        ),
        "scale": str(spec.scale),
        "in_channels": str(spec.in_channels),
        "size_multiple": str(spec.size_multiple),
        "min_size": str(spec.min_size),
        "padding": spec.padding,
        "range": "[0, 1], not clamped",
        "sides": "any",
        "made_by": f"mcir {__version__}",
    }


def _difference(network: nn.Module, content: bytes, form: str) -> float:
    """Return how far what a program restores is from what its network restores.

    Raises:
        ExportError: too far, or one of them does not run.
    """
    largest = 0.0
    batches = images_for(network)
    with torch.no_grad(), told(f"{type(network).__name__} itself fails on images that the file is checked by"):
        expectations: list[Tensor] = [network(images) for images in batches]
    with torch.no_grad(), told(f"{form} does not run, and no file is written"):
        run = runner(content, FORMATS[form])
        results: list[Tensor] = [run(images) for images in batches]
    for images, expected, restored in zip(batches, expectations, results, strict=True):
        size = "×".join(map(str, images.shape))
        if restored.shape != expected.shape:
            made, wanted = (tuple(each.shape) for each in (restored, expected))
            raise ExportError(f"{form} makes {made} of images {size}, not {wanted}: no file is written.")
        difference = float((restored - expected).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
            raise ExportError(
                f"{form} differs from the network by {difference:.1e} on images {size}, more than {TOLERANCE:.0e}: "
                "no file is written."
            )
        largest = max(largest, difference)
    return largest


def _targets(settings: ExportSettings) -> dict[str, Path]:
    """Return the file of each format.

    Raises:
        ExportError: none is asked for, or a file's name ends as another format's, or a file is there, or cannot be.
    """
    forms = list(dict.fromkeys(settings.formats))
    if not forms:
        raise ExportError(f"Say what to write: {', '.join(f'--{name}' for name in FORMATS)}, one or several of them.")
    source, output = settings.checkpoint, settings.output
    if output is None:
        output = source.parent
    is_file = bool(output.suffix) and not output.is_dir()
    if is_file and (len(forms) > 1 or output.suffix != FORMATS[forms[0]]):
        ends, file = " and ".join(FORMATS[form] for form in forms), ", or a file that ends so" * (len(forms) == 1)
        raise ExportError(f"{output} is no name for {ends}: give a folder{file}.")
    targets = {form: output if is_file else output / (source.stem + FORMATS[form]) for form in forms}
    for target in targets.values():
        if target.exists() and source.exists() and target.samefile(source):
            raise ExportError(f"{target} is the checkpoint itself. Name another file with -o.")
        if target.exists() and not settings.overwrite:
            raise ExportError(f"{target} is there already. Name another file with -o, or replace it with --overwrite.")
        home = next(folder for folder in target.absolute().parents if folder.exists())
        if target.is_dir() or not home.is_dir() or not os.access(home, os.W_OK | os.X_OK):
            reason = "is a folder" if target.is_dir() else f"cannot be written: {home} is no folder for it"
            raise ExportError(f"{target} {reason}. Name another file with -o.")
    return targets
