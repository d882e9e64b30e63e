"""Trace networks once for all image sizes, and write the program as ONNX, TorchScript or an archive of torch.export.

The whole ``forward`` is traced, with its padding and cropping, so a program takes images of any height and width, and
runs without mcir. TorchScript and ONNX are made from the same traced operations.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from mcir.network_spec import NetworkSpec, spec_of

FACTS_FILE = "mcir.json"
"""Extra file with the facts about the network in ``.pt2`` and TorchScript files."""

OLDEST_OPSET = 18
"""Oldest version of the ONNX operators that PyTorch writes, which most runtimes read."""

_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir")


class ExportError(ValueError):
    """A network that cannot be exported, or a program that computes something else than the network."""


def trace(network: nn.Module) -> ExportedProgram:
    """Trace a network, in ``eval`` mode, for batches (B, C, H, W) of any size.

    Raises:
        ExportError: the network depends on the size of an image in Python, or cannot be traced for another reason.
    """
    # No size in the network may be special: no multiples, several windows or tiles, in deep layers, too.
    spec, side = spec_of(network) or NetworkSpec(), _unpadded_side(network)
    images = torch.rand(2, spec.in_channels, 2 * side + 7, 3 * side + 5)
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with export_errors(f"{type(network).__name__} cannot be traced for images of any size"), quiet():
        program = torch.export.export(network.eval(), (images,), dynamic_shapes=(sizes,), strict=False)
    # Example inputs and ranges would refuse sizes for which only the memory layout of some tensors differs.
    with suppress(ValueError):  # older PyTorch has no setter, and does not refuse these sizes
        program.example_inputs = None
    program.range_constraints.update(dict.fromkeys(program.range_constraints, ValueRanges(2, int_oo)))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # contains local paths
    return program


def sample_images(network: nn.Module) -> list[Tensor]:
    """Return random batches to check a program: one higher and narrower than the traced images, one of small images."""
    spec, side = spec_of(network) or NetworkSpec(), _unpadded_side(network)
    generator = torch.Generator().manual_seed(0)
    sizes = ((1, spec.in_channels, 3 * side + 1, side + 1), (3, spec.in_channels, side // 2 + 1, side))
    return [torch.rand(size, generator=generator) for size in sizes]


def _unpadded_side(network: nn.Module) -> int:
    """Return a side of at least 16 pixels that needs no padding."""
    spec = spec_of(network) or NetworkSpec()
    return -(-max(spec.min_size, 16) // spec.size_multiple) * spec.size_multiple


def to_torch_export(program: ExportedProgram, facts: Mapping[str, str], opset: int = OLDEST_OPSET) -> bytes:
    """Return the content of a ``.pt2`` file, which ``torch.export.load`` reads."""
    content = io.BytesIO()
    with export_errors("The network cannot be written as an archive of torch.export"), quiet():
        torch.export.save(program, content, extra_files={FACTS_FILE: json.dumps(dict(facts))})
    return content.getvalue()


def to_torchscript(program: ExportedProgram, facts: Mapping[str, str], opset: int = OLDEST_OPSET) -> bytes:
    """Return the content of a TorchScript file, which ``torch.jit.load`` and libtorch read.

    Tensors that the program creates, such as indices, are created on the device of the images.
    """
    module = program.module()
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    result = graph.graph_copy(module.graph, values)
    graph.output(result[0] if isinstance(result, tuple | list) else result)
    graph.eliminate_dead_code()
    plain: dict[Any, Any] = {torch.sym_max: max, torch.sym_min: min}
    images = next(iter(graph.nodes))
    with graph.inserting_after(images):
        device = graph.call_function(getattr, (images, "device"))
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            node.target = node.target.overloadpacket
        node.target = plain.get(node.target, node.target)
        if node.kwargs.get("device") is not None:
            node.update_kwarg("device", device)
    content = io.BytesIO()
    with export_errors("The network cannot be written as TorchScript"), quiet():
        scripted = torch.jit.script(fx.GraphModule(module, graph))
        torch.jit.save(scripted, content, _extra_files={FACTS_FILE: json.dumps(dict(facts))})
    return content.getvalue()


def to_onnx(program: ExportedProgram, facts: Mapping[str, str], opset: int = OLDEST_OPSET) -> bytes:
    """Return the content of an ONNX file from ``input`` (batch, C, height, width) to ``output``.

    Raises:
        ExportError: an operation has no translation to ONNX, or none in this version of the operators.
    """
    names: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"]}
    with export_errors("The network cannot be written as ONNX"), quiet():
        exported: Any = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False, **names)
        model = exported.model_proto
    version = next(each.version for each in model.opset_import if not each.domain)
    if version != opset:
        raise ExportError(f"PyTorch writes this network with version {version} of the operators, not {opset}.")
    scale = "" if facts["scale"] == "1" else f"{facts['scale']}*"
    for values, factor in ((model.graph.input, ""), (model.graph.output, scale)):
        dims = values[0].type.tensor_type.shape.dim
        dims[0].dim_param, dims[2].dim_param, dims[3].dim_param = "batch", f"{factor}height", f"{factor}width"
    # These contain local paths, and shapes with names that no longer exist.
    for described in (*model.graph.node, *model.graph.input, *model.graph.output, model.graph, model):
        del described.metadata_props[:]
    del model.graph.value_info[:]
    for name, value in facts.items():
        model.metadata_props.add(key=name, value=value)
    content: bytes = model.SerializeToString()
    return content


def check_onnx(opset: int, check: bool) -> None:
    """Check that ONNX files can be written and checked here.

    Raises:
        ExportError: a package is not installed, or the version of the operators is unknown.
    """
    needed = ["onnx", "onnxscript", *(["onnxruntime"] if check else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        advice = ", or skip the check with --no-check" if missing == ["onnxruntime"] else ""
        raise ExportError(
            f'ONNX needs {" and ".join(missing)}: run pip install -e ".[export]" in the clone of mcir{advice}.'
        )
    from onnx.defs import onnx_opset_version

    if not OLDEST_OPSET <= opset <= onnx_opset_version():
        raise ExportError(f"--opset: expected {OLDEST_OPSET} to {onnx_opset_version()}, got {opset}.")


def load_program(content: bytes, suffix: str) -> Callable[[Tensor], Tensor]:
    """Return a function that restores images (B, C, H, W) with the program in a file.

    Args:
        content: content of the file.
        suffix: ``.onnx``, ``.pt`` or ``.pt2``.
    """
    if suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(None, {"input": images.numpy()})[0])
    with quiet():
        if suffix == ".pt":
            script: Any = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
            return lambda images: script(images)
        return torch.export.load(io.BytesIO(content)).module()


@contextmanager
def export_errors(what: str) -> Iterator[None]:
    """Turn any error into an ``ExportError`` of one line: ``what``, and the main lines of its first cause."""
    try:
        yield
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
        raise ExportError(f"{what}: {' … '.join(dict.fromkeys((*lines[:2], lines[-1])))}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings of PyTorch's exporters about their own work, and gradients."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
