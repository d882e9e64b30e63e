"""Trace networks for all image sizes, and write the programs as ONNX, TorchScript or archives of torch.export.

The trace contains the whole ``forward``, with padding and cropping. So a program accepts images of any height and
width, and runs without mcir. All formats are written from the same trace.
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

from mcir.network_spec import measured_spec

FACTS_FILE = "mcir.json"
"""Extra file in ``.pt2`` and TorchScript files with the facts about the network."""

OLDEST_OPSET = 18
"""Oldest version of the ONNX operators that PyTorch can write; most runtimes can read it."""

_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir")


class ExportError(ValueError):
    """A network cannot be exported, or the exported program differs from the network."""


def trace(network: nn.Module) -> ExportedProgram:
    """Switch a network to ``eval`` mode, and trace it for batches (B, C, H, W) of any size.

    Raises:
        ExportError: the network cannot be traced, for example because Python code depends on the image size.
    """
    # The size must have no special case in any layer: no multiple of a window, and more than one window or tile.
    spec, side = measured_spec(network), _unpadded_side(network)
    images = torch.rand(2, spec.in_channels, 2 * side + 7, 3 * side + 5)
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with export_errors(f"{type(network).__name__} cannot be traced for images of any size"), quiet():
        program = torch.export.export(network.eval(), (images,), dynamic_shapes=(sizes,), strict=False)
    # Because of example inputs and ranges, a program would reject sizes at which only a memory layout differs.
    with suppress(ValueError):  # older versions of PyTorch have no setter, and do not reject these sizes
        program.example_inputs = None
    program.range_constraints.update(dict.fromkeys(program.range_constraints, ValueRanges(2, int_oo)))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # contains local paths
    return program


def sample_images(network: nn.Module) -> list[Tensor]:
    """Return random batches to check a program: an image higher and narrower than the traced ones, and small images."""
    spec, side = measured_spec(network), _unpadded_side(network)
    generator = torch.Generator().manual_seed(0)
    sizes = ((1, spec.in_channels, 3 * side + 1, side + 1), (3, spec.in_channels, side // 2 + 1, side))
    return [torch.rand(size, generator=generator) for size in sizes]


def _unpadded_side(network: nn.Module) -> int:
    """Return an image side of at least 16 pixels for which the network needs no padding."""
    spec = measured_spec(network)
    return -(-max(spec.min_size, 16) // spec.size_multiple) * spec.size_multiple


def to_torch_export(program: ExportedProgram, facts: Mapping[str, str], opset: int = OLDEST_OPSET) -> bytes:
    """Return the content of a ``.pt2`` file for ``torch.export.load``."""
    content = io.BytesIO()
    with export_errors("The network cannot be written as an archive of torch.export"), quiet():
        torch.export.save(program, content, extra_files={FACTS_FILE: json.dumps(dict(facts))})
    return content.getvalue()


def to_torchscript(program: ExportedProgram, facts: Mapping[str, str], opset: int = OLDEST_OPSET) -> bytes:
    """Return the content of a TorchScript file for ``torch.jit.load`` and libtorch.

    The program creates tensors, such as indices, on the device of the images.
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
    """Return the content of an ONNX file that maps ``input`` (batch, C, height, width) to ``output``.

    Raises:
        ExportError: an operation does not exist in ONNX, or not in this version of the operators.
    """
    names: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"]}
    with export_errors("The network cannot be written as ONNX"), quiet():
        exported: Any = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False, **names)
        model = exported.model_proto
    version = next(each.version for each in model.opset_import if not each.domain)
    if version != opset:
        raise ExportError(f"--opset: PyTorch can write this network with version {version} only, got {opset}.")
    scale = "" if facts["scale"] == "1" else f"{facts['scale']}*"
    for values, factor in ((model.graph.input, ""), (model.graph.output, scale)):
        dims = values[0].type.tensor_type.shape.dim
        dims[0].dim_param, dims[2].dim_param, dims[3].dim_param = "batch", f"{factor}height", f"{factor}width"
    # Metadata contain local paths; value_info contains the old names of the dimensions.
    for described in (*model.graph.node, *model.graph.input, *model.graph.output, model.graph, model):
        del described.metadata_props[:]
    del model.graph.value_info[:]
    for name, value in facts.items():
        model.metadata_props.add(key=name, value=value)
    content: bytes = model.SerializeToString()
    return content


def check_onnx(opset: int, check: bool) -> None:
    """Check that the packages for ONNX are installed, and that the version of the operators exists.

    Raises:
        ExportError: a package is missing, or the version is out of range.
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
    """Return a function that applies the program in an ``.onnx``, ``.pt`` or ``.pt2`` file to images (B, C, H, W)."""
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
    """Convert any error to a one-line ``ExportError``: ``what``, and the main lines of the original cause."""
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
    """Suppress internal warnings of PyTorch's exporters, and disable gradients."""
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
